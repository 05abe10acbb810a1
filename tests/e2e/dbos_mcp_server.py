"""The stock dbos-mcp package, on stdio, with its addresses changed to CONDUCTOR_URL.

Run in a Python that has dbos-mcp and nothing of ours.
"""

from __future__ import annotations

import os

from dbos_mcp import client, server

url = os.environ["CONDUCTOR_URL"]
client.CONDUCTOR_URL = client.CONDUCTOR_URL.replace(client.DBOS_CLOUD_URL, url)
if os.environ.get("SELF_HOSTED"):
    client.CONDUCTOR_URL = client.CONDUCTOR_URL.replace("/conductor", "")
client.DBOS_CLOUD_URL = url
server.mcp.run()
