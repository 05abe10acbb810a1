"""The floor: a bare websocket server that holds a fleet and does nothing else.

It asks each connection `executor_info` and counts the answers; on stdin "count" prints
them. What Conductor costs on top of this is what Conductor itself costs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

introduced = 0


async def hold(connection: ServerConnection) -> None:
    """Ask who is there and keep the connection."""
    global introduced
    counted = False
    try:
        await connection.send('{"type": "executor_info", "request_id": "1"}')
        async for _ in connection:
            if not counted:
                counted = True
                introduced += 1
    except ConnectionClosed:
        pass
    finally:
        introduced -= counted


async def main() -> None:
    """Serve until stdin ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async with serve(
        hold,
        "127.0.0.1",
        int(sys.argv[1]),
        backlog=4096,
        compression=None,
        ping_interval=None,
    ):
        while await lines.readline():
            sys.stdout.write(json.dumps({"introduced": introduced}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
