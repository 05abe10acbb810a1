"""Which threads have a database connection of their own, and when one is handed back.

In services mode the threads that answer requests and run tasks share the few
connections of a pool (`conductor_site.database`). What Conductor itself lives on must
never wait for them: its threads call `keep_own_connection`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from django.db.utils import OperationalError


class PoolExhausted(OperationalError):
    """Every connection of the pool was in use for as long as one may wait."""


class _Thread(threading.local):
    has_own = False
    is_beside = False


_thread = _Thread()


def keep_own_connection() -> None:
    """Give the current thread a connection beside the pool, for as long as it lives."""
    _thread.has_own = True


def keeps_own_connection() -> bool:
    """Whether the current thread's connection is its own and stays open."""
    return _thread.has_own


def is_beside_pool() -> bool:
    """Whether the current thread takes no connection from the pool. The main thread
    does not: it starts the server, or is a management command."""
    return (
        _thread.has_own
        or _thread.is_beside
        or threading.current_thread() is threading.main_thread()
    )


@contextmanager
def beside_pool() -> Iterator[None]:
    """For a while, have the current thread use a connection beside the pool."""
    release()
    _thread.is_beside = True
    try:
        yield
    finally:
        release()
        _thread.is_beside = False


def release() -> None:
    """Hand the current thread's connection back, unless a transaction needs it.

    Whoever waits for an executor that hangs must not keep it from everybody else.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
