"""Threads for work that waits for executors, shared out fairly.

One owner's work that hangs holds up neither another owner's, nor whoever submits it.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable

from django.db import connections

logger = logging.getLogger(__name__)

Work = Callable[[], object]


class Lanes:
    """At most `total` daemon threads, and at most `per_owner` for each owner's work."""

    def __init__(self, name: str, *, per_owner: int, total: int) -> None:
        self.name, self.per_owner, self.total = name, per_owner, total
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Work]] = {}
        self._running: Counter[int] = Counter()

    def submit(self, owner: int, work: Work) -> None:
        """Have it run soon, after what the owner submitted before. Never blocks."""
        with self._lock:
            self._waiting.setdefault(owner, deque()).append(work)
            if self._running.total() >= self.total or self._is_full(owner):
                return
            self._running[owner] += 1
        threading.Thread(
            target=self._run, args=(owner,), name=self.name, daemon=True
        ).start()

    def _is_full(self, owner: int) -> bool:
        return self._running[owner] >= self.per_owner

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
        self._running[owner] -= 1
        for candidate, queue in self._waiting.items():
            if not self._is_full(candidate):
                work = queue.popleft()
                # Whoever had a turn goes to the end of the line.
                del self._waiting[candidate]
                if queue:
                    self._waiting[candidate] = queue
                self._running[candidate] += 1
                return candidate, work
        return None
