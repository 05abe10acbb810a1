"""Asks executors through the gateway from a process that holds no socket.

Obeys JSON lines: {"do": "ask", "concurrency": 64, "secs": 10} asks `get_workflow` with
different ids (identical questions would be joined into one); {"do": "query", …} reads
a row of 1 KB from the database instead: the floor.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import django

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conductor_site.settings")
django.setup()

import psycopg  # noqa: E402
from django.conf import settings  # noqa: E402
from measure import measure  # noqa: E402

from apps.executors import gateway, loops  # noqa: E402
from apps.executors.protocol.messages import GetWorkflow  # noqa: E402
from apps.registry.models import Application  # noqa: E402

DATABASE_CONNECTIONS = 16


async def run(application: Application) -> None:
    """Obey stdin until it ends."""
    # As in a server process: what asks and what hears the answers is one loop.
    loops.announce(asyncio.get_running_loop())
    pool: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()
    for _ in range(DATABASE_CONNECTIONS):
        pool.put_nowait(
            await psycopg.AsyncConnection.connect(
                settings.DATABASE_URL, autocommit=True
            )
        )

    async def ask(number: int) -> None:
        reply = await gateway.aask(
            application, GetWorkflow(workflow_id=f"w-{number}", load_input=True)
        )
        if reply.output is None:
            raise ValueError("empty reply")

    async def query(number: int) -> None:
        connection = await pool.get()
        try:
            await connection.execute("SELECT %s::int, repeat('x', 1024)", [number])
        finally:
            pool.put_nowait(connection)

    actions = {"ask": ask, "query": query}
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        action = actions[command["do"]]
        await measure(action, concurrency=command["concurrency"], secs=1)
        result = await measure(
            action, concurrency=command["concurrency"], secs=command["secs"]
        )
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(run(Application.objects.get(name=sys.argv[1])))
