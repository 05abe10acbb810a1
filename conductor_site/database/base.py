"""Django's PostgreSQL backend over psycopg's pool, with three additions.

* Threads that Conductor itself lives on have connections beside the pool
  (`apps.database`), so no number of visitors keeps a heartbeat from being written.
* The wait for a connection that others use is bounded, and apart from the time that
  making one takes: while PostgreSQL is away, everybody hears so at once.
* A connection goes back to the pool when its thread ends, whatever happened in it. To
  the pool, one that is merely dropped is in use for ever.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db.backends.postgresql import base

from apps import database
from conductor_site.database.recorded import RecordedConnection

# How long after a failed attempt to connect the next one is not waited for.
AWAY_SECS = 2.0
IMPATIENT_SECS = 0.3


class Permits:
    """As many as the pool has connections. Whoever waits longest is served first."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._lock = threading.Lock()
        self._waiting: dict[int, threading.Event] = {}

    def acquire(self, timeout_s: float) -> bool:
        """Wait for a permit; return whether there was one."""
        served = threading.Event()
        with self._lock:
            if self.free and not self._waiting:
                self.free -= 1
                return True
            self._waiting[id(served)] = served
        if served.wait(timeout_s):
            return True
        with self._lock:
            # It may have been served in the meantime.
            return self._waiting.pop(id(served), None) is None

    def release(self) -> None:
        """Hand a permit to whoever waits longest, or keep it."""
        with self._lock:
            if not self._waiting:
                self.free += 1
                return
            served = self._waiting.pop(next(iter(self._waiting)))
        served.set()


class _Loan:
    """A connection that a thread has from the pool; given back at the latest when the
    thread's own objects are dropped."""

    def __init__(self, connection: Any, permits: Permits) -> None:
        self.connection, self.permits = connection, permits

    def end(self) -> None:
        """Give the connection back. A second call does nothing."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        try:
            connection._pool.putconn(connection)
        finally:
            self.permits.release()

    def __del__(self) -> None:
        self.end()


_lent = threading.local()
_permits: dict[str, Permits] = {}
_permits_lock = threading.Lock()


# Django's own class carries no types.
class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc,unused-ignore]
    """One thread's connection: of the pool, or its own."""

    @property
    def pool(self) -> Any:
        """Return the pool; None for a thread that has a connection beside it."""
        return None if database.is_beside_pool() else super().pool

    def connect(self) -> None:
        """Connect; what is a thread's own stays open."""
        super().connect()
        if database.keeps_own_connection():
            self.close_at = None

    def get_new_connection(self, conn_params: Any) -> Any:
        """Return a connection, of the pool or made now. Raises: PoolExhausted."""
        pool = self.pool
        if pool is None:
            return super().get_new_connection(conn_params)
        permits = self._permits_of(pool)
        if not permits.acquire(self.settings_dict["POOL_WAIT_SECS"]):
            raise database.PoolExhausted(
                "every database connection of this process is in use"
            )
        try:
            # Only for a connection to be made: there is one for each permit.
            failed_at = RecordedConnection.failed_at
            is_away = failed_at is not None and time.monotonic() - failed_at < AWAY_SECS
            pool.timeout = (
                IMPATIENT_SECS
                if is_away
                else self.settings_dict["OPTIONS"]["pool"]["timeout"]
            )
            connection = super().get_new_connection(conn_params)
        except BaseException:
            permits.release()
            raise
        _lent.loan = _Loan(connection, permits)
        return connection

    def _close(self) -> None:
        loan = getattr(_lent, "loan", None)
        if loan is None or loan.connection is not self.connection:
            super()._close()  # type: ignore[misc]
            return
        with self.wrap_database_errors:
            self.connection = None
            loan.end()

    def _permits_of(self, pool: Any) -> Permits:
        with _permits_lock:
            return _permits.setdefault(self.alias, Permits(pool.max_size))
