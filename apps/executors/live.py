"""Hints to open pages that something changed; the pages then fetch it themselves.

A hint carries no data and may be lost, doubled or late: pages also poll, slowly. Calls
may come from any thread, and a burst of them becomes one hint for each application.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

from apps.executors import loops

logger = logging.getLogger(__name__)

# Long enough for a burst to gather and for its write to be committed.
GATHER_SECS = 0.3

_changed: set[int] = set()
_lock = threading.Lock()
# The loop that will send what is in `_changed`, and its task: asyncio keeps none.
_sender_loop: asyncio.AbstractEventLoop | None = None
_sender: asyncio.Task[None] | None = None


def group_of(application_id: int) -> str:
    """Name the group of those who look at an application."""
    return f"conductor.application.{application_id}"


def announce(application_id: int) -> None:
    """Tell who looks at this application that its executors or recoveries changed."""
    global _sender_loop
    loop = loops.get()
    with _lock:
        _changed.add(application_id)
        if _sender_loop is loop:
            return
        _sender_loop = loop
    loop.call_soon_threadsafe(_start)


def _start() -> None:
    global _sender
    _sender = asyncio.get_running_loop().create_task(_send_soon())


async def _send_soon() -> None:
    global _sender_loop
    await asyncio.sleep(GATHER_SECS)
    with _lock:
        changed = sorted(_changed)
        _changed.clear()
        _sender_loop = None
    layer = get_channel_layer()
    for application_id in changed:
        try:
            await layer.group_send(
                group_of(application_id), {"type": "application.changed"}
            )
        except (RedisError, OSError) as exc:
            logger.info("hint not sent", extra={"error": str(exc)})
            return
