"""Work that is asked for again while it runs, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Joined(Generic[T]):
    """Runs one task for all who ask for the same at the same time, on one event loop.

    Whoever gives up waiting leaves the task to the others.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[T]] = {}

    async def join(
        self, key: Hashable, begin: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Return what is being done for `key` already, else what `begin` does."""
        key = (asyncio.get_running_loop(), key)
        try:
            running = self._running.get(key)
        except TypeError:  # it holds a dict, which cannot be compared by hash
            return await begin()
        if running is None:
            running = asyncio.create_task(begin())
            self._running[key] = running
            running.add_done_callback(lambda done: self._end(key, done))
        try:
            return await asyncio.shield(running)
        finally:
            # An error's traceback holds this frame, which would hold the error's task:
            # all that they hold would stay until the next collection of cycles.
            del running

    def _end(self, key: Hashable, done: asyncio.Task[T]) -> None:
        self._running.pop(key, None)
        if not done.cancelled():
            # Whoever asked may have given up already; that is no error.
            done.exception()
