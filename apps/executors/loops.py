"""The one event loop of this process on which sockets and the bus live.

A server process announces its own; any other process (a worker, a command) gets a
daemon thread with one when it first asks something.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from apps import database

T = TypeVar("T")
# Whoever waits longer than this does so without a database connection.
QUICK_S = 0.25

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner_pid = 0


def announce(loop: asyncio.AbstractEventLoop | None) -> None:
    """Make `loop` this process' loop; None forgets it."""
    global _loop, _owner_pid
    with _lock:
        _loop, _owner_pid = loop, os.getpid()


def get() -> asyncio.AbstractEventLoop:
    """Return the process' loop, starting one in a daemon thread where none runs."""
    global _loop, _owner_pid
    with _lock:
        if _loop is None or _owner_pid != os.getpid() or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            _owner_pid = os.getpid()
            threading.Thread(
                target=_loop.run_forever, name="conductor-loop", daemon=True
            ).start()
        return _loop


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the process' loop, without waiting for it."""
    return asyncio.run_coroutine_threadsafe(coroutine, get())


def run(coroutine: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """Run a coroutine on the process' loop from another thread, and wait for it."""
    loop = get()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        coroutine.close()
        raise RuntimeError("blocking call on the event loop's own thread")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        try:
            return future.result(min(QUICK_S, timeout_s))
        except TimeoutError:
            if future.done() or timeout_s <= QUICK_S:
                raise
        database.release()
        return future.result(timeout_s - QUICK_S)
    except TimeoutError:
        # What is given up must not happen later.
        future.cancel()
        raise
    finally:
        # The traceback of its error holds this frame, and so all that failed.
        del future
