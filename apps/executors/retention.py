"""Forgetting what is long over: closed recoveries with their attempts, and rejected
connections. What is open is never forgotten."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings

from apps.executors import clock
from apps.executors.models import Recovery, RejectedConnection

BATCH = 1_000


def forget_old(*, limit: int) -> int:
    """Delete up to `limit` rows of each kind that are older than their retention;
    return how many. Safe to run at any time, in any number of processes."""
    now = clock.now()
    recoveries = Recovery.objects.filter(
        state__in=(Recovery.State.CONFIRMED, Recovery.State.RETURNED),
        dead_at__lt=now - timedelta(days=settings.CONDUCTOR_RECOVERY_RETENTION_DAYS),
    ).order_by("dead_at")
    rejected = RejectedConnection.objects.filter(
        last_seen_at__lt=now
        - timedelta(days=settings.CONDUCTOR_REJECTED_RETENTION_DAYS)
    ).order_by("last_seen_at")
    deleted = 0
    for rows in (recoveries, rejected):
        for start in range(0, limit, BATCH):
            ids = list(rows.values_list("pk", flat=True)[: min(BATCH, limit - start)])
            rows.model._default_manager.filter(pk__in=ids).delete()
            deleted += len(ids)
            if len(ids) < BATCH:
                break
    return deleted
