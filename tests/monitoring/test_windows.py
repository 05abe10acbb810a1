"""Windows follow the period: short ones are there soon, and minutes stay minutes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from apps.monitoring import openmetrics, selectors
from apps.monitoring.models import MetricCollection, MetricWindow
from conductor_site.settings import CELERY_BEAT_SCHEDULE
from tests.monitoring.conftest import NOON, Clock, Oracle, group
from tests.world import World

Collect = Callable[[], None]
TICK = 0.25


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize("period", [1, 5, 20, 60])
@pytest.mark.parametrize("begun", [0, 0.9, 7.3, 31, 59.9])
def test_row_is_there_within_two_periods_of_any_moment(
    world: World,
    oracle: Oracle,
    clock: Clock,
    collect: Collect,
    settings: Any,
    period: int,
    begun: float,
) -> None:
    settings.CONDUCTOR_METRICS_PERIOD_SECS = period
    clock.time = NOON + seconds(begun)
    collect()
    happened = clock.time

    while clock.time < happened + seconds(2 * period):
        clock.advance(seconds=TICK)
        collect()

    (_,) = MetricWindow.objects.filter(
        starts_at__lte=happened, starts_at__gt=happened - seconds(period)
    )
    rows = list(MetricWindow.objects.order_by("starts_at"))
    for one, following in pairwise(rows):
        assert one.ends_at == following.starts_at


def test_windows_neither_overlap_nor_leave_gaps_when_the_period_changes(
    world: World, oracle: Oracle, clock: Clock, collect: Collect, settings: Any
) -> None:
    for period in (5, 60, 20, 60):
        settings.CONDUCTOR_METRICS_PERIOD_SECS = period
        for _ in range(150):
            clock.advance(seconds=1)
            collect()

    rows = list(MetricWindow.objects.order_by("starts_at"))
    assert {5, 20, 60} < {one.duration_secs for one in rows}
    for one, following in pairwise(rows):
        assert one.ends_at == following.starts_at
    assert rows[-1].ends_at == MetricCollection.objects.get().next_window_at


def test_rate_is_per_second_of_its_window(
    world: World, oracle: Oracle, clock: Clock, collect: Collect, settings: Any
) -> None:
    settings.CONDUCTOR_METRICS_PERIOD_SECS = 5
    row = group({"count": 10}, name="ship", queue_name="q1")
    oracle.replies = {"started": {"output": [row]}}
    clock.advance(seconds=2)

    collect()

    (observed,) = openmetrics.observe([world.application], clock.time)
    (family,) = openmetrics.families_named(["workflow_started_rate"])
    (sample,) = family.samples(observed)
    (window,) = MetricWindow.objects.all()
    assert (sample.value, sample.at) == (2.0, int(window.ends_at.timestamp()))


def test_buckets_of_a_minute_add_its_windows_up(
    world: World, oracle: Oracle, clock: Clock, collect: Collect, settings: Any
) -> None:
    settings.CONDUCTOR_METRICS_PERIOD_SECS = 20
    one = {"metric_type": "workflow_count", "metric_name": "ship", "value": 4}
    oracle.replies = {"get_metrics": {"metrics": [one]}}
    for _ in range(90):
        collect()
        clock.advance(seconds=1)

    found = selectors.counts_between(
        world.application, NOON, NOON + timedelta(minutes=1)
    )

    assert found == (60, [(("workflow_count", "ship", NOON), 12)])


def test_worker_looks_often_enough_by_default() -> None:
    assert CELERY_BEAT_SCHEDULE["collect-metrics"]["schedule"] <= 5.0
