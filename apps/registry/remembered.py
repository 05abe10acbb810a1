"""What was looked up a moment ago, so that a burst of calls costs one look-up.

A memory is of one process, and lives a second: what another process changed is noticed
that late, and what this one changed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from asgiref.sync import sync_to_async

from apps import database

REMEMBER_SECS = 1.0
LIMIT = 10_000

T = TypeVar("T")

_values: dict[Hashable, tuple[float, Any]] = {}


def recall(key: Hashable, find: Callable[[], T]) -> T:
    """Return what was found for `key` within the last second, else find it."""
    entry = _fresh(key)
    return cast("T", entry[0]) if entry else _store(key, find)


async def arecall(key: Hashable, find: Callable[[], T]) -> T:
    """`recall`, for the event loop: what queries the database does so in a thread."""
    entry = _fresh(key)
    return cast("T", entry[0]) if entry else await sync_to_async(_lent)(key, find)


def forget() -> None:
    """Look everything up anew. Called after every change of the registry."""
    _values.clear()


def _fresh(key: Hashable) -> tuple[Any] | None:
    entry = _values.get(key)
    if entry is None or time.monotonic() - entry[0] >= REMEMBER_SECS:
        return None
    return (entry[1],)


def _lent(key: Hashable, find: Callable[[], T]) -> T:
    """`_store`, for a request that goes on to wait, perhaps long, without a query."""
    try:
        return _store(key, find)
    finally:
        database.release()


def _store(key: Hashable, find: Callable[[], T]) -> T:
    # Counted from before the look-up: a change during it must not be missed for longer.
    began = time.monotonic()
    value = find()
    if len(_values) >= LIMIT:
        _values.clear()
    _values[key] = (began, value)
    return value
