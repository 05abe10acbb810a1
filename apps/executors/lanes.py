"""Threads for work that waits for executors, shared out fairly.

One owner's work that hangs holds up neither another owner's, nor whoever submits it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from django.db import connections
from django.db.utils import InterfaceError, OperationalError

from apps import database

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], object]
# Group and owner.
_Key = tuple[int, int]


class Lanes:
    """At most `total` daemon threads: `per_owner` for each owner's work, `per_group`
    for that of all owners of one group (an organization).

    Beyond `total` there are `reserve` more, each for a group that has none running: so
    the work of groups that all hang keeps a newcomer from its first turn only when
    there are more of them than the reserve holds.

    `keeps_threads` is for work that comes often: starting a thread takes long where
    many others run.
    """

    def __init__(
        self,
        name: str,
        *,
        per_owner: int,
        total: int,
        per_group: int | None = None,
        reserve: int = 0,
        keeps_threads: bool = False,
    ) -> None:
        self.name, self.per_owner, self.total = name, per_owner, total
        self.per_group = total if per_group is None else per_group
        self.reserve = reserve
        self._kept: ThreadPoolExecutor | None = None
        if keeps_threads:
            self._kept = ThreadPoolExecutor(total + reserve, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: dict[_Key, deque[Work]] = {}
        self._running: Counter[_Key] = Counter()
        self._running_groups: Counter[int] = Counter()

    def submit(self, owner: int, work: Work, *, group: int | None = None) -> None:
        """Have it run soon, after what the owner submitted before. Never blocks.

        An owner without a group is one of its own.
        """
        key = (owner if group is None else group, owner)
        with self._lock:
            self._waiting.setdefault(key, deque()).append(work)
            if not self._may_run(key):
                return
            self._count(key, 1)
        if self._kept is not None:
            self._kept.submit(self._run, key)
            return
        threading.Thread(
            target=self._run, args=(key,), name=self.name, daemon=True
        ).start()

    def begin(
        self, owner: int, function: Callable[[], T], *, group: int | None = None
    ) -> Future[T]:
        """`submit`, for whoever waits for what becomes of it."""
        result: Future[T] = Future()

        def fulfil() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(function())
            except BaseException as exc:
                result.set_exception(exc)

        self.submit(owner, fulfil, group=group)
        return result

    def in_hand(self) -> set[_Key]:
        """Return the group and the owner of all work that runs or waits here."""
        with self._lock:
            return self._waiting.keys() | self._running.keys()

    def _may_run(self, key: _Key) -> bool:
        group, _ = key
        if self._running[key] >= self.per_owner:
            return False
        if self._running_groups[group] >= self.per_group:
            return False
        running = self._running.total()
        if self._running_groups[group] == 0:
            return running < self.total + self.reserve
        return running < self.total

    def _count(self, key: _Key, change: int) -> None:
        group, _ = key
        self._running[key] += change
        self._running_groups[group] += change
        if not self._running[key]:
            del self._running[key]
        if not self._running_groups[group]:
            del self._running_groups[group]

    def _run(self, key: _Key) -> None:
        try:
            while True:
                with self._lock:
                    taken = self._take(key)
                    if taken is None:
                        return
                key, work = taken
                try:
                    work()
                except (OperationalError, InterfaceError) as exc:
                    # The database is away, or every connection is in use. What the
                    # work is about is a row: a later pass finds it again.
                    logger.warning(
                        "%s put off; a later pass does it",
                        self.name,
                        extra={"error": str(exc)},
                    )
                except Exception:
                    logger.exception("%s failed", self.name)
                if self._kept is not None:
                    database.release()
        finally:
            if self._kept is None:
                connections.close_all()

    def _take(self, key: _Key) -> tuple[_Key, Work] | None:
        """End the owner's turn; begin the turn of whoever waits longest."""
        self._count(key, -1)
        for candidate, queue in self._waiting.items():
            if self._may_run(candidate):
                work = queue.popleft()
                # Whoever had a turn goes to the end of the line.
                del self._waiting[candidate]
                if queue:
                    self._waiting[candidate] = queue
                self._count(candidate, 1)
                return candidate, work
        return None
