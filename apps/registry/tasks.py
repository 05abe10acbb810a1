"""Celery tasks of the registry."""

from __future__ import annotations

import logging

from celery import shared_task
from django.db.utils import InterfaceError, OperationalError

from apps.registry import services

logger = logging.getLogger(__name__)


@shared_task(name="registry.forget_expired_tokens", soft_time_limit=60)
def forget_expired_tokens() -> None:
    """Delete the tokens of programs that were not used for long."""
    try:
        services.forget_expired_tokens()
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not deleted; the next beat does", extra={"error": str(exc)})
