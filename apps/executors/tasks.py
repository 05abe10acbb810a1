"""Celery tasks of the executors: an interface to presence and recovery."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db.utils import InterfaceError, OperationalError
from kombu import exceptions as broker

from apps import database
from apps.executors import databases, presence, recovery, retention

logger = logging.getLogger(__name__)

FORGOTTEN_PER_TICK = 10_000


@shared_task(name="executors.sweep")
def sweep() -> None:
    """Declare the dead and recover what they left. Beat runs it every few seconds.

    It waits for no executor: tasks that did would pile up behind one that hangs.
    """
    try:
        with database.beside_pool():
            presence.sweep()
            recovery.sweep_in_background()
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not swept; the next beat does", extra={"error": str(exc)})


@shared_task(name="executors.forget_old", soft_time_limit=60, time_limit=90)
def forget_old() -> None:
    """Forget recoveries and rejected connections that are long over."""
    try:
        retention.forget_old(limit=FORGOTTEN_PER_TICK)
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not forgotten; the next beat does", extra={"error": str(exc)})


@shared_task(name="executors.forget_unused_databases", soft_time_limit=30)
def forget_unused_databases() -> None:
    """Remove the system databases that nobody has worked on for long."""
    databases.forget_unused()


def nudge() -> None:
    """Sweep soon. Losing the nudge costs one period of the beat, nothing else."""
    try:
        sweep.apply_async(expires=5, retry=False)
    except (broker.OperationalError, OSError):
        logger.info("broker away; the next beat sweeps")
