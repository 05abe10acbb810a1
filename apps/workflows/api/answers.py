"""Answers as they are sent, made once for all who ask the same at the same time.

A long list is sent as it is read: one JSON array in parts. The first part is there
before the status is; if a later one fails, the connection ends without the end of the
array.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from pydantic import TypeAdapter

from apps import errors
from apps.api import JSON_TYPE
from apps.executors.joined import Joined

logger = logging.getLogger(__name__)

# More rows are written off the event loop.
WRITE_INLINE_ROWS = 100


@dataclass(frozen=True, slots=True)
class Part:
    """A JSON value, or some of an array and the way to the rest of it."""

    body: bytes
    rest: Callable[[], Awaitable[Part]] | None = None


_joined: Joined[Part] = Joined()


async def shared(key: Hashable, make: Callable[[], Any]) -> Part:
    """Return what `make` makes, or what it is making for `key` already. The key holds
    all that the answer depends on, also what the asker may see."""
    return await _joined.join(key, make)


async def written(
    adapter: TypeAdapter[Any], write: Callable[..., Any], rows: Sequence[Any]
) -> bytes:
    """Return rows as a JSON array; `write` makes models of them."""

    def render() -> bytes:
        return adapter.dump_json(write(rows), by_alias=True, warnings="error")

    if len(rows) > WRITE_INLINE_ROWS:
        return await asyncio.to_thread(render)
    return render()


def answer(first: Part) -> HttpResponseBase:
    """Send a part, and what follows it."""
    if first.rest is None:
        return HttpResponse(first.body, content_type=JSON_TYPE)
    return StreamingHttpResponse(_array(first), content_type=JSON_TYPE)


async def _array(part: Part) -> AsyncIterator[bytes]:
    before = b"["
    while True:
        if items := part.body[1:-1]:
            yield before + items
            before = b","
        if part.rest is None:
            break
        try:
            part = await part.rest()
        except errors.ConductorError as exc:
            logger.warning("a list broke off", extra={"error": exc.message})
            raise
    yield b"]" if before == b"," else b"[]"
