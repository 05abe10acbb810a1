"""Celery tasks of the monitoring."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db.utils import InterfaceError, OperationalError

from apps.monitoring.services import collection

logger = logging.getLogger(__name__)


@shared_task(name="monitoring.collect_metrics")
def collect_metrics() -> None:
    """Collect the metrics of the applications whose turn it is.

    It waits for no executor: tasks that did would pile up behind one that hangs.
    """
    try:
        collection.collect_in_background()
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not collected; the next beat does", extra={"error": str(exc)})
