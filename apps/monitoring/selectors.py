"""Reads of the monitoring. Whoever calls has asked for the permission."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.db.models import Count

from apps import errors
from apps.executors.models import Executor
from apps.monitoring.models import (
    AlertingRule,
    AutoscalingPolicy,
    MetricCollection,
    MetricWindow,
)
from apps.registry.models import Application

# What is older is no news: a scrape rather says nothing.
FRESH = timedelta(minutes=5)

# So many buckets at most, of the finest size with which the range fits.
MAX_BUCKETS = 360
GRANULARITIES_SECS = (60, 300, 3_600)
MAX_RANGE = timedelta(seconds=MAX_BUCKETS * GRANULARITIES_SECS[-1])

# metric type, name, bucket
CountKey = tuple[str, str, datetime]


def counts_between(
    application: Application, start: datetime, end: datetime
) -> tuple[int, list[tuple[CountKey, int]]]:
    """Return the size of the buckets in seconds, and what was counted in those that
    begin in `[start, end)`, by time. Raises: InvalidInput."""
    if start >= end:
        raise errors.InvalidInput("startTime must be before endTime.")
    if end - start > MAX_RANGE:
        raise errors.InvalidInput(
            f"startTime and endTime may be {MAX_RANGE.days} days apart."
        )
    seconds = next(
        one
        for one in GRANULARITIES_SECS
        if (end - start).total_seconds() <= one * MAX_BUCKETS
    )
    counted: Counter[CountKey] = Counter()
    windows = MetricWindow.objects.filter(
        application=application, starts_at__gte=start, starts_at__lt=end
    )
    rows = windows.order_by("starts_at").values_list("starts_at", "counts")
    for starts_at, counts in rows.iterator(chunk_size=500):
        epoch = int(starts_at.timestamp())
        bucket = datetime.fromtimestamp(epoch - epoch % seconds, UTC)
        for metric_type, name, value in counts:
            counted[metric_type, name, bucket] += value
    return seconds, list(counted.items())


def last_windows(
    applications: Sequence[Application], now: datetime
) -> dict[int, MetricWindow]:
    """The last collected window of each, by application, where it is fresh."""
    found = MetricWindow.objects.filter(
        application__in=applications, starts_at__gt=now - FRESH
    )
    return {window.application_id: window for window in found.order_by("starts_at")}


def in_flight_collections(
    applications: Sequence[Application], now: datetime
) -> dict[int, MetricCollection]:
    """Those that say what waits and runs, by application, where they are fresh."""
    found = MetricCollection.objects.filter(
        application__in=applications, in_flight_at__gt=now - FRESH
    )
    return {one.application_id: one for one in found}


def executor_counts(
    applications: Sequence[Application],
) -> list[tuple[int, str, str, int]]:
    """Application, state, version, and how many executors."""
    groups = ("application_id", "state", "application_version")
    return list(
        Executor.objects.filter(application__in=applications)
        .values(*groups)
        .annotate(count=Count("pk"))
        .order_by(*groups)
        .values_list(*groups, "count")
    )


def autoscaling_policy_of(application: Application) -> AutoscalingPolicy:
    """Raises: NotFound."""
    policy = AutoscalingPolicy.objects.filter(application=application).first()
    if policy is None:
        raise errors.NotFound(f"{application.name} has no autoscaling policy.")
    return policy


def alerting_rules_of(application: Application) -> list[AlertingRule]:
    """By age; their number is bounded."""
    rules = AlertingRule.objects.filter(application=application)
    return list(rules.order_by("created_at", "pk"))
