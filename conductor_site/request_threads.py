"""Threads for what is synchronous in requests, used again by later requests.

Django has asgiref start a thread for each request, and wait on the event loop until it
has ended. Where other threads are busy, either stops every connection for a while.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import close_old_connections

# More are started when more requests come at a time, and end with them.
KEPT = 32


class _Thread(ThreadPoolExecutor):
    """One thread for one request at a time, started when it is first needed."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="request")
        self.last: Future[Any] | None = None

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        self.last = super().submit(fn, *args, **kwargs)
        return self.last

    @property
    def is_busy(self) -> bool:
        return self.last is not None and not self.last.done()


_idle: list[_Thread] = []


@asynccontextmanager
async def request_thread() -> AsyncIterator[None]:
    """Have everything synchronous of one request run in the same thread."""
    thread = _idle.pop() if _idle else _Thread()
    try:
        async with ThreadSensitiveContext(executor=thread):
            try:
                yield
            finally:
                if thread.last is not None:
                    await sync_to_async(close_old_connections)()
    finally:
        # What a request that was given up still does keeps no later one waiting.
        if thread.is_busy or len(_idle) >= KEPT:
            thread.shutdown(wait=False)
        else:
            thread.last = None
            _idle.append(thread)


class PagesHandler(ASGIHandler):
    """Django's own handler, with threads that are used again."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with request_thread():
            await self.handle(scope, receive, send)
