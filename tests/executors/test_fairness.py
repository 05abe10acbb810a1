"""One tenant's thousands of dead executors stand before nobody else's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.executors import clock, gateway, presence, quotas, recovery, retention
from apps.executors.admission import Admitted
from apps.executors.models import (
    Executor,
    Recovery,
    RecoveryAttempt,
    RejectedConnection,
)
from apps.executors.presence import Registration
from apps.executors.protocol import codec
from apps.registry.models import Application, Organization
from apps.workflows.models import WorkflowCommand
from apps.workflows.services import records

State = Recovery.State
WAIT_SECS = 30


def make_application(name: str, timeout_secs: int = 10) -> Application:
    organization = Organization.objects.create(name=name)
    return Application.objects.create(
        organization=organization, name=name, executor_timeout_secs=timeout_secs
    )


def make_dead(application: Application, count: int, *, age_secs: int = 0) -> None:
    """Dead executors of v1, each with a recovery that is due, and one living heir."""
    now = clock.now()
    since = now - timedelta(seconds=60 + age_secs)
    Executor.objects.bulk_create(
        Executor(
            application=application,
            executor_id=f"dead-{n}",
            application_version="v1",
            state=Executor.State.DEAD,
            disconnected_at=since,
            dead_at=since,
        )
        for n in range(count)
    )
    Recovery.objects.bulk_create(
        Recovery(
            application=application,
            executor_id=f"dead-{n}",
            application_version="v1",
            disconnected_at=since,
            dead_at=since,
            next_try_at=since,
        )
        for n in range(count)
    )
    presence.register(
        [Registration(f"heir-{application.pk}", application.pk, "heir", "v1")],
        instance_id="i1",
    )


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """Applications whose executors hang when they are asked; all others answer."""
    applications: set[int] = set()
    end = threading.Event()

    def answer(
        application: Application, request: Any, *, executor_id: str = "heir", **_: Any
    ) -> gateway.Answer:
        if application.pk in applications:
            end.wait(WAIT_SECS)
        text = '{"success": true, "exist": false, "output": []}'
        (by,) = gateway.healthy_targets(application, executor_id=executor_id)
        return gateway.Answer(codec.parse_reply(request, text), by)

    monkeypatch.setattr(gateway, "answer", answer)
    monkeypatch.setattr(gateway, "ask", lambda *a, **k: answer(*a, **k).reply)
    monkeypatch.setattr(
        recovery, "_lanes", recovery.Lanes("test", per_owner=4, total=16)
    )
    monkeypatch.setattr(recovery, "_in_hand", {})
    yield applications
    end.set()
    recovery._lanes.join()


@pytest.mark.django_db(transaction=True)
def test_a_hung_tenant_with_thousands_of_dead_delays_no_other(hung: set[int]) -> None:
    presence.beat(instance_id="i1", hostname="host")
    crowd, other = make_application("crowd"), make_application("other")
    make_dead(crowd, 3_000, age_secs=60)
    make_dead(other, 1)
    hung.add(crowd.pk)

    for _ in range(2):
        presence.beat(instance_id="i1", hostname="host")
        recovery.sweep_in_background()

    closed = threading.Event()
    for _ in range(WAIT_SECS * 20):
        if Recovery.objects.filter(application=other, state=State.CONFIRMED).exists():
            break
        closed.wait(0.05)
    else:
        pytest.fail("the other tenant's recovery waits behind the crowd's")
    assert len(recovery._in_hand[crowd.pk]) <= recovery.IN_HAND_LIMIT


@pytest.mark.django_db(transaction=True)
def test_a_plan_costs_the_same_however_many_are_dead(hung: set[int]) -> None:
    presence.beat(instance_id="i1", hostname="host")
    crowd = make_application("crowd")
    make_dead(crowd, 10)
    with CaptureQueriesContext(
        connection,
    ) as few:
        recovery._plan(clock.now(), in_hand={})
    Recovery.objects.all().delete()
    Executor.objects.all().delete()
    make_dead(crowd, 3_000)
    with CaptureQueriesContext(connection) as many:
        orders, _ = recovery._plan(clock.now(), in_hand={})

    assert len(many) == len(few)
    assert sum(len(o.recovery_ids) for o in orders) == recovery.IN_HAND_LIMIT


@pytest.mark.django_db
def test_of_overdue_executors_each_application_has_its_turn() -> None:
    now = clock.now()
    crowd, other = make_application("crowd"), make_application("other")
    Executor.objects.bulk_create(
        Executor(
            application=application,
            executor_id=f"x{n}",
            state=Executor.State.DISCONNECTED,
            disconnected_at=now - timedelta(seconds=age),
        )
        for application, count, age in ((crowd, 300, 90), (other, 1, 30))
        for n in range(count)
    )

    overdue = presence._overdue(now, limit=10)

    assert len(overdue) == 10
    assert other.pk in {row.application_id for row in overdue[:2]}


# --- Quotas ---


@pytest.mark.django_db
def test_an_application_has_only_so_many_executors(settings: Any) -> None:
    settings.CONDUCTOR_MAX_EXECUTORS = 3
    application, other = make_application("orders"), make_application("other")

    def register(application: Application, *names: str) -> list[str]:
        result = presence.register(
            [Registration(f"c-{n}", application.pk, n) for n in names], instance_id="i1"
        )
        return [item.executor_id for item in result.surplus]

    assert register(application, "a", "b") == []
    assert register(application, "c", "d", "e") == ["d", "e"]
    # Who is known comes back; another application has its own quota.
    assert register(application, "a", "b", "c", "f") == ["f"]
    assert register(other, "a", "b", "c") == []
    assert application.executors.count() == 3


@pytest.mark.parametrize("what", ["application", "key", "organization"])
def test_connections_are_counted_for_each(what: str, settings: Any) -> None:
    setattr(settings, f"CONDUCTOR_MAX_CONNECTIONS_PER_{what.upper()}", 2)
    one = Admitted(10_001, 10_002, 10_003)
    same = {
        "application": Admitted(10_001, 1, 1),
        "key": Admitted(1, 10_002, 1),
        "organization": Admitted(1, 1, 10_003),
    }[what]
    taken = [quotas.take(one), quotas.take(same)]
    try:
        assert taken == ["", ""]
        surplus = quotas.take(one)
        assert f"This {what} has 2 connections" in surplus
        assert f"CONDUCTOR_MAX_CONNECTIONS_PER_{what.upper()}" in surplus
    finally:
        quotas.give_back(same)
    assert quotas.take(one) == ""
    quotas.give_back(one)
    quotas.give_back(one)
    assert not any(number > 10_000 for _, number in quotas._open)


# --- Retention ---


@pytest.mark.django_db
def test_what_is_long_over_is_forgotten_and_what_is_open_is_not(settings: Any) -> None:
    application = make_application("orders")
    now = clock.now()
    for days in (1, settings.CONDUCTOR_RECOVERY_RETENTION_DAYS + 1):
        moment = now - timedelta(days=days)
        for state in State.values:
            row = Recovery.objects.create(
                application=application,
                executor_id=f"{state}-{days}",
                state=state,
                dead_at=moment,
                next_try_at=moment,
            )
            RecoveryAttempt.objects.create(
                recovery=row, executor_id="x", started_at=moment, outcome="failed"
            )
        RejectedConnection.objects.create(
            organization=application.organization,
            application_name=f"a{days}",
            reason="bad_key",
            status=401,
            first_seen_at=moment,
            last_seen_at=moment,
        )
        for command in ("SENT", "DONE", "FAILED"):
            made = WorkflowCommand.objects.create(
                application=application, operation="cancel", state=command
            )
            WorkflowCommand.objects.filter(pk=made.pk).update(created_at=moment)

    assert retention.forget_old(limit=1_000) == 3
    assert retention.forget_old(limit=1_000) == 0
    assert records.forget_old(limit=1) == 1
    assert records.forget_old(limit=1_000) == 1

    assert Recovery.objects.count() == 6
    assert RecoveryAttempt.objects.count() == 6
    assert set(
        Recovery.objects.filter(dead_at__lt=now - timedelta(days=30)).values_list(
            "state", flat=True
        )
    ) == {"WAITING", "REQUESTED"}
    assert RejectedConnection.objects.get().application_name == "a1"
    assert WorkflowCommand.objects.count() == 4


@pytest.mark.django_db
def test_of_endless_attempts_the_first_and_the_newest_are_kept() -> None:
    application, now = make_application("orders"), clock.now()
    row = Recovery.objects.create(
        application=application, executor_id="x", dead_at=now, next_try_at=now
    )
    order = recovery.Order(
        application,
        gateway.Target("h", "v1", "c", "i", codec.Peer(None, None)),
        (row.pk,),
    )
    taken = recovery.HandOver(order, [row], recovery.Left(), now, 0.0)
    for number in range(1, 6 * recovery.ATTEMPTS_KEPT + 1):
        row.attempts = number
        recovery._record_attempt(
            taken, row, RecoveryAttempt.Outcome.FAILED, str(number)
        )

    kept = [
        int(detail)
        for detail in row.attempt_set.order_by("pk").values_list("detail", flat=True)
    ]
    size = recovery.ATTEMPTS_KEPT
    assert kept[:size] == list(range(1, size + 1))
    assert kept[-size:] == list(range(5 * size + 1, 6 * size + 1))
    assert len(kept) <= 2 * size
