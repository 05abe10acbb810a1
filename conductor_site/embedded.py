"""Celery's worker and beat as threads of the server process (embedded mode)."""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from celery.beat import EmbeddedService
from celery.worker import WorkController

from conductor_site.celery import app

logger = logging.getLogger(__name__)

WORKER_THREADS = 4
JOIN_SECS = 3.0


class AlreadyRunning(Exception):
    """Another process uses the same data directory."""


def lock_data_dir(data_dir: Path) -> IO[str]:
    """Claim the data directory for this process; keep what is returned open.

    Two embedded servers on one directory would each run recoveries with a broker
    of their own. Raises: AlreadyRunning.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "server.lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise AlreadyRunning(str(data_dir)) from exc
    return file


class Background:
    """Worker and beat. `on_death` is called, in a thread, when one ends by itself."""

    def __init__(self, *, on_death: Callable[[str], None]) -> None:
        self.on_death = on_death
        self._stopping = threading.Event()
        self._worker: Any = None
        self._beat: Any = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start both threads."""
        app.set_default()
        # It warns that memory:// names no host.
        logging.getLogger("kombu.connection").setLevel(logging.ERROR)
        self._worker = WorkController(
            app=app,
            pool_cls="threads",
            concurrency=WORKER_THREADS,
            hostname="embedded@conductor",
            without_heartbeat=True,
            without_mingle=True,
            without_gossip=True,
        )
        self._beat = EmbeddedService(
            app, thread=True, scheduler_cls=app.conf.beat_scheduler
        )
        for name, run in (("worker", self._worker.start), ("beat", self._beat.run)):
            thread = threading.Thread(
                target=self._watch, args=(name, run), name=f"celery-{name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _watch(self, name: str, run: Callable[[], object]) -> None:
        app.set_current()
        try:
            run()
        except (Exception, SystemExit):
            if not self._stopping.is_set():
                logger.exception("the Celery %s failed", name)
        if not self._stopping.is_set():
            self.on_death(name)

    def stop(self) -> None:
        """Stop beat, then the worker. Blocks for some seconds at most."""
        if self._stopping.is_set() or self._worker is None:
            return
        self._stopping.set()
        # Not `beat.stop()`: it waits for ever for a beat that never began.
        self._beat.service.stop(wait=False)
        self._worker.stop()
        for thread in self._threads:
            thread.join(JOIN_SECS)
