"""Celery tasks of the workflows."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db.utils import InterfaceError, OperationalError

from apps.workflows.services import records, sync

logger = logging.getLogger(__name__)


@shared_task(name="workflows.sync_snapshots", soft_time_limit=60, time_limit=90)
def sync_snapshots() -> None:
    """Bring the snapshots of connected applications up to date, a bounded part.

    It waits for no executor: tasks that did would pile up behind one that hangs.
    """
    try:
        sync.sync_in_background()
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not synced; the next beat does", extra={"error": str(exc)})


@shared_task(name="workflows.close_abandoned_commands", soft_time_limit=30)
def close_abandoned_commands() -> None:
    """Say of commands whose sender is gone that nobody knows what became of them."""
    records.close_abandoned()


@shared_task(name="workflows.forget_old_commands", soft_time_limit=60, time_limit=90)
def forget_old_commands() -> None:
    """Forget commands that are long over; the audit log keeps its own entries."""
    try:
        records.forget_old(limit=10_000)
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not forgotten; the next beat does", extra={"error": str(exc)})
