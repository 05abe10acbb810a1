"""A small ASGI application, and a process that serves it the way Conductor is served.

Run: `python -m tests.site.asgi_probe SETTINGS`; prints its port. The settings are those
of `conductor_site.daphne_server.Server`, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

PARTS, PART = 100, b"x" * 2**20
REFUSAL = json.dumps({"status": 401, "title": "no such key"}).encode()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Do what the first path segment says."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "http":
        await _answer(scope["path"], send)
        return
    await receive()
    match scope["path"].split("/")[1]:
        case "deny":
            assert "websocket.http.response" in scope["extensions"]
            await _deny(send)
        case "close":
            await send({"type": "websocket.close"})
        case "raise":
            raise RuntimeError("broken on purpose")
        case "hang":
            await asyncio.sleep(60)
        case "reason":
            await send({"type": "websocket.accept"})
            close = {"type": "websocket.close", "code": 1008, "reason": "go away"}
            await send(close)
        case "late":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close"})
            try:
                await send({"type": "websocket.send", "text": "too late"})
            except OSError as exc:
                logging.getLogger("probe").info("late: %s", exc)
        case _:
            await _echo(receive, send)


async def _answer(path: str, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    kind = "http.response.body"
    match path:
        case "/breaks":
            await send({"type": kind, "body": b"some", "more_body": True})
            raise RuntimeError("broken on purpose")
        case "/long":
            for number in range(PARTS):
                await send({"type": kind, "body": PART, "more_body": True})
                logging.getLogger("probe").info("part %d", number)
            await send({"type": kind})
        case _:
            await send({"type": kind, "body": b"ok"})


async def _deny(send: Any) -> None:
    headers = [(b"content-type", b"application/problem+json"), (b"x-more", b"yes")]
    start = {"type": "websocket.http.response.start", "status": 401, "headers": headers}
    await send(start)
    half = len(REFUSAL) // 2
    kind = "websocket.http.response.body"
    await send({"type": kind, "body": REFUSAL[:half], "more_body": True})
    await send({"type": kind, "body": REFUSAL[half:]})


async def _echo(receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message["text"] == "block":
            # A thread that nothing can cancel.
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        await send({"type": "websocket.send", "text": message["text"]})
    logging.getLogger("probe").info("gone %s", message["code"])


def main() -> int:
    """Serve on a free port until told to stop."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    from conductor_site.daphne_server import Server
    from conductor_site.receiving import Budget
    from conductor_site.server import bind

    settings = json.loads(sys.argv[1])
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(
        application,
        listener=listener,
        on_ready=lambda: print(port, flush=True),
        budget=Budget(size=0, share=0, largest=settings["max_message_bytes"]),
        **settings,
    )
    return server.run()


if __name__ == "__main__":
    sys.exit(main())
