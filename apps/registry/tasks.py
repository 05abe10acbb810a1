"""Celery tasks of the registry."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

from celery import shared_task
from django.db.models import Q
from django.db.utils import InterfaceError, OperationalError
from django.utils import timezone

from apps.registry import services, verification
from apps.registry.models import AuditChain, Organization

EXPIRE_SECS = 30
VERIFY_SECS = 30
VERIFY_EVERY = timedelta(days=1)

logger = logging.getLogger(__name__)


@shared_task(name="registry.forget_expired_tokens", soft_time_limit=60)
def forget_expired_tokens() -> None:
    """Delete the tokens of programs that were not used for long."""
    try:
        services.forget_expired_tokens()
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not deleted; the next beat does", extra={"error": str(exc)})


@shared_task(name="registry.expire_audit_entries", soft_time_limit=120, time_limit=150)
def expire_audit_entries() -> None:
    """Remove audit entries that their organizations keep no longer; the rest of what is
    too much for one run is left to the next."""
    expire = services.expire_audit_entries
    until = time.monotonic() + EXPIRE_SECS
    try:
        for organization in Organization.objects.order_by("?").iterator():
            while time.monotonic() < until and expire(organization):
                pass
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not expired; the next beat does", extra={"error": str(exc)})


@shared_task(name="registry.verify_audit_log", soft_time_limit=570, time_limit=600)
def verify_audit_log() -> None:
    """Verify each log once a day, in any order: one that is too long for a run holds
    up no other. What is too much for one run is left to the next."""
    until = time.monotonic() + VERIFY_SECS
    due = AuditChain.objects.filter(
        Q(verified_at=None) | Q(verified_at__lt=timezone.now() - VERIFY_EVERY)
    )
    try:
        for chain in due.select_related("organization").order_by("?").iterator():
            if time.monotonic() >= until:
                break
            _tell(verification.verify(chain.organization))
    except (OperationalError, InterfaceError) as exc:
        logger.warning("not verified; the next beat does", extra={"error": str(exc)})


def _tell(result: verification.Verification) -> None:
    if not result.is_good:
        logger.error(
            "an audit log is not what was written",
            extra={
                "organization": result.organization,
                "sequence": result.broken_sequence,
                "finding": result.finding,
            },
        )
