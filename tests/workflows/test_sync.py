"""The sync: in bounded parts, fair to all, and in the end it knows everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.executors import clock
from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import Application, Organization, Permission
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.services import sync
from tests.workflows.conftest import Served
from tests.workflows.executor import (
    NOON,
    SECOND,
    ScriptedExecutor,
    wait_until,
    workflow,
)


def statuses(application: Application) -> dict[str, str]:
    return dict(
        WorkflowSnapshot.objects.filter(application=application).values_list(
            "workflow_id", "status"
        )
    )


def run(times: int = 1) -> None:
    """So many ticks of the beat, each when every application is due, and over before
    the next one."""
    for _ in range(times):
        SnapshotSync.objects.update(due_at=clock.now())
        tick()


def tick() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync._lanes, "submit", lambda _, work, **__: work())
        sync.sync_in_background()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small bounds, so that few workflows are many."""
    monkeypatch.setattr(sync, "PAGE", 10)
    monkeypatch.setattr(sync, "NEWER_PAGES_PER_RUN", 2)
    monkeypatch.setattr(sync, "FIRST_PATROL_PAGES_PER_RUN", 2)
    monkeypatch.setattr(sync, "RECHECK_PER_RUN", 20)
    monkeypatch.setattr(sync, "MISSED_PER_RUN", 20)


def history(count: int, *, every_ms: int = SECOND, **more: Any) -> list[dict[str, Any]]:
    return [workflow(f"w{n:04}", NOON + n * every_ms, **more) for n in range(count)]


def add(executor: ScriptedExecutor, *rows: dict[str, Any]) -> None:
    executor.workflows |= {row["WorkflowUUID"]: row for row in rows}


def test_whole_history_is_read_over_several_runs(served: Served, small: None) -> None:
    executor = served.connect(rows=history(75))
    run()
    assert len(statuses(served.application)) == 20
    assert SnapshotSync.objects.get().completed_at is None

    run(3)

    assert set(statuses(served.application)) == set(executor.workflows)
    assert SnapshotSync.objects.get().completed_at is not None


def test_thousands_of_one_second_are_all_read(served: Served, small: None) -> None:
    """SQLite applications write whole seconds, and lists say nothing of ties."""
    executor = served.connect(rows=history(95, every_ms=0))

    run(6)

    assert set(statuses(served.application)) == set(executor.workflows)


def test_new_ones_are_read_oldest_first_without_a_gap(
    served: Served, small: None
) -> None:
    executor = served.connect(rows=history(5))
    run()
    add(executor, *(workflow(f"new{n:03}", NOON + 10**6 + n) for n in range(70)))
    run()
    first = {i for i in statuses(served.application) if i.startswith("new")}

    run(3)

    assert 0 < len(first) < 70
    assert set(statuses(served.application)) == set(executor.workflows)


def test_late_commit_with_an_early_time_is_found(served: Served, small: None) -> None:
    executor = served.connect(rows=history(60))
    run(4)
    add(executor, workflow("new", NOON + 100 * SECOND))
    run()

    add(executor, workflow("late", NOON + 95 * SECOND))
    run()

    assert "late" in statuses(served.application)


def test_unfinished_ones_are_asked_about_again(served: Served, small: None) -> None:
    executor = served.connect(rows=history(40, status="PENDING"))
    run(2)
    for row in executor.workflows.values():
        row |= {"Status": "SUCCESS", "UpdatedAt": str(NOON + 10**6)}

    run(2)

    assert set(statuses(served.application).values()) == {"SUCCESS"}


def test_finished_one_that_runs_again_is_noticed(served: Served, small: None) -> None:
    executor = served.connect(rows=history(40))
    run(3)
    executor.workflows["w0003"] |= {
        "Status": "PENDING",
        "UpdatedAt": str(NOON + 10**6),
    }

    run(6)

    assert statuses(served.application)["w0003"] == "PENDING"


@pytest.mark.parametrize("status", ["PENDING", "SUCCESS"])
def test_deleted_ones_are_forgotten(served: Served, small: None, status: str) -> None:
    executor = served.connect(rows=history(60, status=status))
    run(4)
    for number in range(10, 60, 2):
        del executor.workflows[f"w{number:04}"]

    run(8)

    assert set(statuses(served.application)) == set(executor.workflows)


def test_much_that_was_deleted_is_forgotten_without_another_round(
    served: Served, small: None
) -> None:
    executor = served.connect(rows=history(100))
    run(6)
    executor.workflows = {"w0000": executor.workflows["w0000"]}

    run(6)

    assert set(statuses(served.application)) == {"w0000"}


def test_one_run_asks_a_bounded_number_of_questions(
    served: Served, small: None
) -> None:
    executor = served.connect(rows=history(500, status="PENDING"))

    run()

    assert executor.count("list_workflows") <= 5
    asked = [r["body"] for r in executor.asked if r["type"] == "list_workflows"]
    assert all(body["limit"] <= 20 for body in asked)
    assert not any(body.get("load_input") or body.get("load_output") for body in asked)


def test_long_ids_are_asked_about_in_short_messages(served: Served) -> None:
    long = [workflow("x" * 1_900 + str(n), status="PENDING") for n in range(20)]
    executor = served.connect(rows=long)

    run(2)

    assert max(len(str(request)) for request in executor.asked) < 16_000
    assert len(statuses(served.application)) == 20


def test_a_wrong_clock_in_the_future_hides_nothing(served: Served) -> None:
    future = workflow("future", 4_000_000_000_000)
    executor = served.connect(rows=[future])
    run()
    now_ms = int(clock.now().timestamp() * 1000)

    add(executor, workflow("now", now_ms))
    run()

    assert set(statuses(served.application)) == {"future", "now"}


def test_application_that_fails_waits_longer_and_longer(served: Served) -> None:
    executor = served.connect()
    executor.refused["list_workflows"] = "no such table"

    run(3)

    state = SnapshotSync.objects.get()
    assert (state.failures, state.error) == (3, "no such table")
    assert state.due_at > clock.now() + timedelta(seconds=10)
    assert state.last_synced_at is None


def test_application_that_fails_does_not_hold_up_another(served: Served) -> None:
    other = Application.objects.create(
        organization=served.world.organization, name="bills"
    )
    sick = served.connect("sick", rows=history(3))
    sick.refused["list_workflows"] = "boom"
    served.connect("well", app="bills", rows=history(3))

    run()

    assert len(statuses(other)) == 3


def test_those_that_waited_longest_come_first(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "APPLICATIONS_PER_TICK", 2)
    names = ["a1", "a2", "a3", "a4", "a5"]
    for name in names:
        Application.objects.create(organization=served.world.organization, name=name)
        served.connect(name, app=name, rows=[workflow(name)])

    for _ in range(3):
        tick()

    assert set(WorkflowSnapshot.objects.values_list("workflow_id", flat=True)) == {
        *names
    }


def test_hung_applications_of_one_tenant_hold_up_no_other_tenant(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a tick came to two that hang, and ended: a hundred kept everybody else
    from ever having a turn, in spite of their growing pauses."""
    monkeypatch.setattr(sync, "APPLICATIONS_PER_TICK", 4)
    monkeypatch.setattr(sync, "APPLICATIONS_PER_ORGANIZATION", 4)
    for number in range(8):
        name = f"hung{number}"
        Application.objects.create(organization=served.world.organization, name=name)
        served.connect(name, app=name).silent.add("list_workflows")
    sync._enlist()
    other = Organization.objects.get(name="other")
    bills = Application.objects.create(organization=other, name="bills")
    _, key = services.create_api_key(
        actor=system_actor(other),
        name="k1",
        permissions=[Permission.WEBSOCKET_CONNECT],
    )
    served.key = key
    served.connect("well", app="bills", rows=history(3))

    sync.sync_in_background()

    wait_until(lambda: len(statuses(bills)) == 3)
    assert len(sync._lanes.in_hand()) <= 4
    wait_until(lambda: not sync._lanes.in_hand(), secs=30)


def test_second_worker_leaves_a_claimed_application_alone(served: Served) -> None:
    served.connect(rows=history(3))
    run()
    mine = SnapshotSync.objects.select_related("application").get()
    theirs = SnapshotSync.objects.select_related("application").get()

    assert sync._claim(mine)
    assert not sync._claim(theirs)


def test_two_runs_of_one_application_are_harmless(served: Served, small: None) -> None:
    """As when a lease ended before its run did."""
    executor = served.connect(rows=history(30))
    run()
    mine = SnapshotSync.objects.select_related("application").get()
    theirs = SnapshotSync.objects.select_related("application").get()

    sync.sync_application(mine)
    sync.sync_application(theirs)
    run(3)

    assert set(statuses(served.application)) == set(executor.workflows)


def test_private_applications_are_not_asked(served: Served) -> None:
    executor = served.connect(rows=history(3))
    Application.objects.update(private_mode=True)

    run()

    assert executor.count("list_workflows") == 0
    assert statuses(served.application) == {}


def test_away_applications_are_not_asked(served: Served) -> None:
    served.connect(rows=history(3))
    run()
    served.leave()
    before = SnapshotSync.objects.get().last_synced_at

    run()

    state = SnapshotSync.objects.get()
    assert (state.last_synced_at, state.error) == (before, "")
