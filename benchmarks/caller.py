"""Calls the HTTP API, from a process of its own.

Obeys JSON lines: {"do": "get", "path": …, "concurrency": 1, "secs": 3} asks for one
thing over and over, each lane on a connection of its own; {"do": "stream", "path": …,
"beside": …} reads one long answer while another client asks for something small. The
key is read from the environment (API_KEY), so that no process list shows it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from measure import measure, times

MAX_LINE = 2**24


class Connection:
    """One keep-alive connection: as little as a client can do, so that the server is
    what is measured."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        """Connect."""
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, limit=MAX_LINE
        )

    async def get(self, path: str) -> bytes:
        """Return the body of a 200, of a length told or in chunks."""
        self.writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {os.environ['API_KEY']}\r\n\r\n".encode()
        )
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await (
            self.reader.readexactly(int(length)) if length else self._chunks()
        )
        if b" 200 " not in head[:20]:
            raise ValueError(body.decode(errors="replace"))
        return body

    async def _chunks(self) -> bytes:
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return b"".join(parts)


async def get(port: int, command: dict[str, Any]) -> dict[str, Any]:
    """Ask for one thing over and over."""
    concurrency = command["concurrency"]
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(concurrency):
        connection = Connection(port)
        await connection.open()
        free.put_nowait(connection)

    async def act(_: int) -> None:
        connection = free.get_nowait()
        try:
            await connection.get(command["path"])
        finally:
            free.put_nowait(connection)

    await measure(act, concurrency=concurrency, secs=0.5)
    found = await measure(act, concurrency=concurrency, secs=command["secs"])
    while not free.empty():
        free.get_nowait().writer.close()
    return found


async def stream(port: int, command: dict[str, Any]) -> dict[str, Any]:
    """Read one long answer, and time what another client gets meanwhile."""
    long, other = Connection(port), Connection(port)
    await long.open()
    await other.open()
    took: list[float] = []
    started = time.perf_counter()
    reading = asyncio.create_task(long.get(command["path"]))
    while not reading.done():
        asked = time.perf_counter()
        await other.get(command["beside"])
        took.append((time.perf_counter() - asked) * 1000)
    body = await reading
    secs = time.perf_counter() - started
    long.writer.close()
    other.writer.close()
    return {
        **times(took),
        "asked": len(took),
        "rows": len(json.loads(body)),
        "bytes": len(body),
        "secs": round(secs, 3),
    }


async def main() -> None:
    """Obey stdin until it ends."""
    port = int(sys.argv[1])
    actions = {"get": get, "stream": stream}
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        found = await actions[command["do"]](port, command)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
