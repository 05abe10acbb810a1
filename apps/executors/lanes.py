"""Threads for work that waits for executors, shared out fairly.

One owner's work that hangs holds up neither another owner's, nor whoever submits it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from django.db import connections

logger = logging.getLogger(__name__)

Work = Callable[[], object]


class Lanes:
    """Daemon threads: at most `per_owner` for each owner's work, and `total` together.

    Every tenant, whose the owners are, may always have `per_owner` of them, up to
    `most` together: however much of others' work hangs, its own begins at once.
    """

    def __init__(
        self, name: str, *, per_owner: int, total: int, most: int = 128
    ) -> None:
        self.name, self.per_owner, self.total = name, per_owner, total
        self.most = max(most, total)
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Work]] = {}
        self._running: Counter[int] = Counter()
        self._running_of: Counter[int] = Counter()
        # The tenant of each owner of whom something waits or runs.
        self._tenants: dict[int, int] = {}

    def submit(self, owner: int, work: Work, *, tenant: int) -> None:
        """Have it run soon, after what the owner submitted before. Never blocks."""
        with self._lock:
            self._tenants[owner] = tenant
            self._waiting.setdefault(owner, deque()).append(work)
            if not self._may_begin(owner):
                return
            self._begin(owner)
        threading.Thread(
            target=self._run, args=(owner,), name=self.name, daemon=True
        ).start()

    def join(self) -> None:
        """Wait until nothing waits or runs any more; for tests and orderly ends."""
        while self._running or self._waiting:
            time.sleep(0.01)

    def _may_begin(self, owner: int) -> bool:
        if self._running[owner] >= self.per_owner:
            return False
        is_guaranteed = self._running_of[self._tenants[owner]] < self.per_owner
        return self._running.total() < (self.most if is_guaranteed else self.total)

    def _begin(self, owner: int) -> None:
        self._running[owner] += 1
        self._running_of[self._tenants[owner]] += 1

    def _end(self, owner: int) -> None:
        for running, key in (
            (self._running_of, self._tenants[owner]),
            (self._running, owner),
        ):
            running[key] -= 1
            if not running[key]:
                del running[key]
        if owner not in self._running and owner not in self._waiting:
            del self._tenants[owner]

    def _run(self, owner: int) -> None:
        try:
            while True:
                with self._lock:
                    taken = self._take(owner)
                    if taken is None:
                        return
                owner, work = taken
                try:
                    work()
                except Exception:
                    logger.exception("%s failed", self.name)
        finally:
            connections.close_all()

    def _take(self, owner: int) -> tuple[int, Work] | None:
        """End the owner's turn; begin the turn of whoever waits longest."""
        self._end(owner)
        for candidate, queue in self._waiting.items():
            if self._may_begin(candidate):
                work = queue.popleft()
                # Whoever had a turn goes to the end of the line.
                del self._waiting[candidate]
                if queue:
                    self._waiting[candidate] = queue
                self._begin(candidate)
                return candidate, work
        return None
