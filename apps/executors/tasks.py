"""Celery tasks of the executors: an interface to presence and recovery."""

from __future__ import annotations

import logging

from celery import shared_task
from kombu.exceptions import OperationalError

from apps.executors import presence, recovery

logger = logging.getLogger(__name__)


@shared_task(name="executors.sweep")
def sweep() -> None:
    """Declare the dead and recover what they left. Beat runs it every few seconds."""
    presence.sweep()
    recovery.sweep()


def nudge() -> None:
    """Sweep soon. Losing the nudge costs one period of the beat, nothing else."""
    try:
        sweep.apply_async(expires=5, retry=False)
    except (OperationalError, OSError):
        logger.info("broker away; the next beat sweeps")
