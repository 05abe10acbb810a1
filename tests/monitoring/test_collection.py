"""Collecting: every minute once, nobody waits for another, and everything bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from apps import errors
from apps.executors.models import Executor, Recovery
from apps.executors.protocol import codec
from apps.monitoring import series
from apps.monitoring.models import MetricCollection, MetricWindow
from apps.monitoring.services import collection
from apps.registry.models import Application
from benchmarks.stack import wait_until
from tests.monitoring.conftest import NOON, Clock, Oracle, group
from tests.world import World

Collect = Callable[[], None]
MINUTE = timedelta(minutes=1)


def rows(*output: Any) -> dict[str, Any]:
    return {"output": list(output)}


def windows() -> list[MetricWindow]:
    return list(MetricWindow.objects.order_by("starts_at"))


def state() -> MetricCollection:
    return MetricCollection.objects.get()


def test_a_minute_is_what_the_executor_says_of_it(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    name, pack = {"name": "ship", "queue_name": "q1"}, {"function_name": "pack"}
    oracle.replies = {
        "started": rows(group({"count": 4}, **name)),
        "dequeued": rows(group({"count": 3, "max_queue_wait_ms": 250}, **name)),
        "completed": rows(
            group({"count": 2, "max_total_latency_ms": 900}, status="SUCCESS", **name),
            group({"count": 1, "max_total_latency_ms": 9999}, status="ERROR", **name),
            group({"count": 1}, status="MAX_RECOVERY_ATTEMPTS_EXCEEDED", **name),
            group({"count": 1}, status="CANCELLED", name="ship", queue_name=None),
        ),
        "get_step_aggregates": rows(
            group({"count": 5, "max_duration_ms": 70}, status="SUCCESS", **pack),
            group({"count": 2, "max_duration_ms": 80}, status="ERROR", **pack),
        ),
        "get_metrics": {
            "metrics": [
                {"metric_type": "workflow_count", "metric_name": "ship", "value": 4}
            ]
        },
        "in flight": rows(
            group({"count": 7, "min_created_at": 1_000}, status="ENQUEUED", **name),
            group({"count": 2, "min_created_at": 2_000}, status="PENDING", **name),
        ),
    }  # fmt: skip

    collect()

    (window,) = windows()
    assert window.starts_at == NOON - MINUTE
    assert window.workflows == [
        {"name": "ship", "queue": "", "cancelled": 1},
        {
            "name": "ship",
            "queue": "q1",
            "started": 4,
            "dequeued": 3,
            "max_queue_wait_ms": 250,
            "succeeded": 2,
            "failed": 2,
            "max_total_latency_ms": 900,
        },
    ]
    assert window.steps == [
        {"name": "pack", "succeeded": 5, "max_duration_ms": 70, "failed": 2}
    ]
    assert window.counts == [["workflow_count", "ship", 4]]
    assert state().in_flight == [
        {
            "name": "ship",
            "queue": "q1",
            "enqueued": 7,
            "pending": 2,
            "oldest_enqueued_ms": 1_000,
            "oldest_pending_ms": 2_000,
        }
    ]


def test_questions_are_of_one_minute_and_of_own_workflows(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    collect()

    sent = [
        codec.encode(one, "r", oracle.peer)
        for one in oracle.asked
        if one.type != "get_metrics"
    ]
    assert len(sent) == 5
    assert all('"application_name": ["orders"]' in text for text in sent)
    begin, last = '"2026-11-26T11:59:00.000+00:00"', '"2026-11-26T11:59:59.999+00:00"'
    for name in ("start_time", "dequeued_after", "completed_after"):
        assert any(f'"{name}": {begin}' in text for text in sent), name
    for name in ("end_time", "dequeued_before", "completed_before"):
        assert any(f'"{name}": {last}' in text for text in sent), name
    (metrics,) = [one for one in oracle.asked if one.type == "get_metrics"]
    assert (metrics.start_time, metrics.end_time) == (NOON - MINUTE, NOON)  # type: ignore[attr-defined]


def test_a_minute_is_collected_once_it_has_settled(
    world: World, clock: Clock, collect: Collect
) -> None:
    clock.time = NOON + timedelta(seconds=4)
    collect()
    assert windows() == []
    clock.advance(seconds=1)
    collect()

    assert [one.starts_at for one in windows()] == [NOON - MINUTE]
    collect()
    assert state().due_at == NOON + timedelta(seconds=65)
    clock.advance(seconds=60)
    collect()
    assert [one.starts_at for one in windows()] == [NOON - MINUTE, NOON]


def test_many_workers_collect_a_minute_once(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    collect()
    clock.advance(minutes=1)
    mine, theirs = state(), state()

    collection.collect(mine)
    asked = len(oracle.asked)
    collection.collect(theirs)

    assert len(oracle.asked) == asked
    assert len(windows()) == 2


def test_a_run_that_lost_its_lease_keeps_nothing(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    collect()
    clock.advance(minutes=1)

    def overtake(_: Any) -> dict[str, Any]:
        MetricCollection.objects.update(due_at=NOON)
        return rows()

    oracle.replies = {"get_step_aggregates": overtake}
    collect()

    assert len(windows()) == 1
    assert state().due_at == NOON


def test_missed_minutes_are_caught_up_and_old_ones_given_up(
    world: World, clock: Clock, collect: Collect
) -> None:
    collect()
    clock.advance(minutes=15)
    collect()
    assert len(windows()) == 11
    collect()
    assert [one.starts_at for one in windows()] == [
        NOON + n * MINUTE for n in range(-1, 15)
    ]

    clock.advance(days=1)
    for _ in range(7):
        collect()
    latest = [one.starts_at for one in windows()][16:]
    assert len(latest) == 60
    assert latest[-1] == NOON + timedelta(days=1, minutes=14)


def test_failures_put_off_and_are_said(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    oracle.raises = errors.ExecutorTimeout("No answer within 5 s.")
    collect()

    assert windows() == []
    assert (state().failures, state().error) == (1, "No answer within 5 s.")
    assert state().due_at == clock.time + timedelta(seconds=5)
    clock.advance(seconds=4)
    collect()
    assert len(oracle.asked) == 1

    clock.advance(seconds=1)
    oracle.raises = None
    collect()
    assert (state().failures, state().error, len(windows())) == (0, "", 1)


def test_a_question_that_is_always_refused_leaves_out_its_series_only(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    oracle.replies = {
        "get_step_aggregates": {"error_message": "no such table"},
        "started": rows(group({"count": 1}, name="ship", queue_name=None)),
    }
    for _ in range(collection.PATIENCE):
        collect()
        assert windows() == []
        clock.time = state().due_at
    collect()

    (window,) = windows()
    assert window.steps is None
    assert window.workflows == [{"name": "ship", "queue": "", "started": 1}]
    assert "no such table" in state().error


@pytest.mark.parametrize(
    ("peer", "counts", "workflows"),
    [
        (codec.Peer("python", "2.20.0"), True, False),
        (codec.Peer("typescript", "4.18.0"), True, False),
        (codec.Peer("python", None), False, False),
        (codec.Peer("java", "1.0.0"), True, True),
        (codec.Peer("go", "0.19.0"), True, True),
    ],
    ids=str,
)
def test_what_an_sdk_cannot_tell_is_left_out_and_said(
    *,
    world: World,
    oracle: Oracle,
    clock: Clock,
    collect: Collect,
    peer: codec.Peer,
    counts: bool,
    workflows: bool,
) -> None:
    oracle.peer = peer
    told = {"metric_type": "workflow_count", "metric_name": "ship", "value": 1}
    oracle.replies = {"get_metrics": {"metrics": [told]}}
    collect()

    (window,) = windows()
    assert bool(window.counts) is counts
    assert (window.workflows is not None) is workflows
    assert (state().in_flight is not None) is workflows
    assert bool(state().error) is not (counts and workflows)


def test_names_beyond_the_limit_share_one_series(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    count = series.LIMIT + 50
    oracle.replies = {
        "started": rows(
            *(
                group({"count": 1}, name=f"w{n:04}", queue_name=None)
                for n in range(count)
            )
        )
    }
    collect()

    (window,) = windows()
    assert len(window.workflows) == series.LIMIT + 1
    assert window.workflows[-1] == {"name": series.OVERFLOW, "queue": "", "started": 50}
    assert state().folded_names == 50


def test_what_a_stranger_answers_is_storable(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    nasty = "a\0" + "x" * 1_000
    oracle.replies = {
        "started": rows(
            group({"count": -5}, name=nasty, queue_name="\ud800"),
            group({"count": 2**60}, name="big", queue_name=None),
            group({"count": "many"}, name="text", queue_name=None),
            {"group": None},
        ),
        "completed": rows(group({"count": 1}, status="NEW", name="n", queue_name=None)),
        "get_metrics": {
            "metrics": [{"metric_type": nasty, "metric_name": nasty, "value": 1e300}]
            + [{"metric_type": f"t{n}", "value": "NaN"} for n in range(100)]
        },
    }
    collect()

    (window,) = windows()
    by_name = {one["name"]: one for one in window.workflows}
    assert by_name["big"]["started"] == series.MAX_VALUE
    assert len(window.counts) == 10
    assert "\0" not in str(window.workflows) + str(window.counts)


def test_recoveries_are_counted_from_our_own_ledger(
    world: World, clock: Clock, collect: Collect
) -> None:
    Recovery.objects.update(requested_at=NOON - timedelta(seconds=1))
    collect()

    assert windows()[0].counts == [["recovery_count", "recovery", 1]]


def test_only_connected_applications_are_asked(
    world: World, oracle: Oracle, clock: Clock, collect: Collect
) -> None:
    Executor.objects.update(state="DISCONNECTED")
    collect()

    assert oracle.asked == []
    assert not MetricCollection.objects.exists()


def test_old_windows_are_forgotten(
    world: World, clock: Clock, collect: Collect, settings: Any
) -> None:
    collect()
    settings.CONDUCTOR_METRICS_RETENTION_DAYS = 1
    clock.advance(days=1, seconds=-120)
    assert collection.forget_old(limit=10) == 0
    clock.advance(seconds=120)

    assert collection.forget_old(limit=10) == 1


def test_an_application_that_hangs_holds_up_nobody(
    world: World, oracle: Oracle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick itself waits for nobody, and each application has a thread."""
    other = Application.objects.create(organization=world.acme, name="billing")
    Executor.objects.create(application=other, executor_id="b1")
    go_on, done = threading.Event(), threading.Event()

    def collect(one: MetricCollection) -> None:
        if one.application_id == world.application.pk:
            go_on.wait(10)
        else:
            done.set()

    monkeypatch.setattr(collection, "collect", collect)
    try:
        collection.collect_in_background()
        assert done.wait(5)
        hung = {(world.acme.pk, world.application.pk)}
        for _ in range(2):
            wait_until(
                "only the hung one is in hand",
                lambda: collection._lanes.in_hand() == hung,
                secs=10,
            )
            collection.collect_in_background()
        assert not go_on.is_set()
    finally:
        go_on.set()
