"""The floor: a bare websocket server that holds a fleet and does nothing else.

It asks each connection `executor_info` and counts the answers. On stdin, {"do": "ask",
"message": …, "secs": 3} asks one of them the same thing over and over; anything else
prints the count. What Conductor costs on top of this is what Conductor itself costs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from typing import Any

import uvloop
from measure import measure
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

introduced: list[ServerConnection] = []
answers: asyncio.Queue[str | bytes] = asyncio.Queue()


async def hold(connection: ServerConnection) -> None:
    """Ask who is there and keep the connection."""
    is_known = False
    try:
        await connection.send('{"type": "executor_info", "request_id": "1"}')
        async for frame in connection:
            if is_known:
                answers.put_nowait(frame)
            else:
                is_known = True
                introduced.append(connection)
    except ConnectionClosed:
        pass
    finally:
        if is_known:
            introduced.remove(connection)


async def ask(message: dict[str, Any], secs: float) -> dict[str, Any]:
    """Ask the first one, one question at a time, and read its answers."""
    (connection, *_) = introduced
    text = json.dumps({**message, "request_id": "1"})

    async def act(_: int) -> None:
        await connection.send(text)
        json.loads(await answers.get())

    return await measure(act, concurrency=1, secs=secs)


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
        while line := await lines.readline():
            command = json.loads(line)
            if command.get("do") == "ask":
                found = await ask(command["message"], command["secs"])
            else:
                found = {"introduced": len(introduced)}
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
