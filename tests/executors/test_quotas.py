"""What a tenant may fill, and how long what is over is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.executors import clock, gateway, presence, quotas, recovery, retention
from apps.executors.admission import Admitted
from apps.executors.models import (
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
