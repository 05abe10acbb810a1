"""Conductor's own health, for whoever runs it: `/metrics`. See docs/metrics.md.

What the processes share, any of them tells. Counters are of the process that answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django.db.models import Count, Min, Sum
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apps.executors import clock, presence
from apps.executors.models import Executor, Instance, Recovery
from apps.monitoring import windows
from apps.monitoring.models import MetricCollection
from apps.workflows.models import SnapshotSync

# A recovery that is due so long was met by no sweep.
OVERDUE_AFTER = timedelta(seconds=30)

_State = Executor.State


class Health(Collector):
    """One answer: what is shared, and what this process counted."""

    def collect(self) -> Iterator[Metric]:
        yield from _instances()
        yield from _executors()
        yield from _recoveries()
        yield from _collections()
        yield _gauge(
            "snapshot_syncs_failing",
            "Applications whose snapshots were not brought up to date.",
            SnapshotSync.objects.filter(failures__gt=0).count(),
        )
        yield from REGISTRY.collect()


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"conductor_{name}", text, value)


def _gauge_by(
    name: str, text: str, labels: list[str], values: dict[tuple[str, ...], float]
) -> Metric:
    metric = GaugeMetricFamily(f"conductor_{name}", text, labels=labels)
    for key, value in values.items():
        metric.add_metric(key, value)
    return metric


def _instances() -> Iterator[Metric]:
    alive = Instance.objects.filter(beat_at__gt=clock.now() - presence.STALE_AFTER)
    names = dict(alive.values_list("id", "hostname"))
    sockets = dict(
        Executor.objects.filter(state=_State.HEALTHY, instance_id__in=names)
        .values_list("instance_id")
        .annotate(count=Count("pk"))
    )
    yield _gauge("instances", "Server processes that beat.", len(names))
    yield _gauge_by(
        "sockets",
        "Executors connected to a server process.",
        ["server", "hostname"],
        {(pk, hostname): sockets.get(pk, 0) for pk, hostname in names.items()},
    )


def _executors() -> Iterator[Metric]:
    rows = Executor.objects.values_list("state").annotate(count=Count("pk"))
    counts = {(state,): 0 for state in _State.values} | {(s,): n for s, n in rows}
    yield _gauge_by("executors", "Executors by state.", ["state"], counts)


def _recoveries() -> Iterator[Metric]:
    now = clock.now()
    still_open = Recovery.objects.filter(state__in=Recovery.OPEN)
    rows = still_open.values_list("state").annotate(count=Count("pk"))
    counts: dict[tuple[str, ...], float] = {(state,): 0 for state in Recovery.OPEN}
    counts |= {(state,): count for state, count in rows}
    yield _gauge_by(
        "recoveries_open", "Recoveries that are not closed.", ["state"], counts
    )
    oldest = still_open.aggregate(oldest=Min("dead_at"))["oldest"]
    yield _gauge(
        "recovery_oldest_open_age_seconds",
        "Age of the oldest recovery that is not closed.",
        (now - oldest).total_seconds() if oldest else 0,
    )
    overdue = Recovery.objects.filter(
        state=Recovery.State.WAITING, next_try_at__lt=now - OVERDUE_AFTER
    )
    yield _gauge(
        "recoveries_overdue",
        "Recoveries that no sweep took up when they were due: zero while workers run.",
        overdue.count(),
    )


def _collections() -> Iterator[Metric]:
    now = clock.now()
    connected = MetricCollection.objects.filter(
        application__executors__state=_State.HEALTHY
    ).distinct()
    counts = connected.aggregate(
        first=Min("next_window_at"), folded=Sum("folded_names", default=0)
    )
    behind_since = counts["first"] and windows.end_of(counts["first"])
    yield _gauge(
        "metrics_lag_seconds",
        "How long ago the oldest window ended that is not collected yet.",
        max((now - behind_since).total_seconds(), 0) if behind_since else 0,
    )
    yield _gauge(
        "metrics_failing",
        "Connected applications whose last collection failed.",
        connected.filter(failures__gt=0).count(),
    )
    yield _gauge(
        "metrics_incomplete",
        "Connected applications whose SDK, or executor, leaves series out.",
        connected.filter(failures=0).exclude(error="").count(),
    )
    yield _gauge(
        "metrics_folded_names",
        "Names that share the overflow series.",
        counts["folded"],
    )
