"""Keeping what a live list told, after it was answered: `snapshots.remember` out of
the way of whoever asked."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from django.db import Error, close_old_connections

from apps import database
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.services import snapshots

logger = logging.getLogger(__name__)

# More than these waiting means that lists pass faster than they can be kept. What is
# let go is read again by the sync.
WAITING_LIMIT = 20
# The same answer is not written through again within this time.
AGAIN_SECS = snapshots.SEEN_EVERY.total_seconds()
KNOWN_LIMIT = 1_000

_thread = ThreadPoolExecutor(1, thread_name_prefix="write-through")
_room = threading.BoundedSemaphore(WAITING_LIMIT)
# (application, the answer's hash) → when it was handed over
_known: dict[tuple[int, int], float] = {}


def remember(
    application: Application, rows: Sequence[WorkflowRow], told: bytes
) -> None:
    """Hand rows over; `told` is the answer they were written as. Never waits; for the
    event loop."""
    if application.private_mode or not rows or _is_known(application, told):
        return
    if _room.acquire(blocking=False):
        _thread.submit(_write, application, rows)


def forget(application: Application, workflow_id: str) -> None:
    """Hand over that a workflow is gone. Never waits."""
    if _room.acquire(blocking=False):
        _thread.submit(_drop, application, workflow_id)


def _is_known(application: Application, told: bytes) -> bool:
    now = time.monotonic()
    key = (application.pk, hash(told))
    if now - _known.get(key, -AGAIN_SECS) < AGAIN_SECS:
        return True
    if len(_known) >= KNOWN_LIMIT:
        _known.clear()
    _known[key] = now
    return False


def _write(application: Application, rows: Sequence[WorkflowRow]) -> None:
    try:
        close_old_connections()
        snapshots.remember(application=application, rows=rows)
    except Error as exc:
        logger.warning("a list was not kept", extra={"error": str(exc)})
    finally:
        database.release()
        _room.release()


def _drop(application: Application, workflow_id: str) -> None:
    try:
        close_old_connections()
        snapshots.forget(application=application, workflow_ids=[workflow_id])
    except Error as exc:
        logger.warning("a workflow was not dropped", extra={"error": str(exc)})
    finally:
        database.release()
        _room.release()
