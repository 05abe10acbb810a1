"""What the executors' pages read: health, the ledger, and at what cost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from apps.executors import clock, pages, presence
from apps.executors.models import Executor, Recovery, RejectedConnection
from apps.executors.presence import Registration
from apps.registry import auth
from apps.registry.models import Application, Organization
from apps.registry.templatetags.conductor import capped


@pytest.fixture
def organization(db: Any) -> Organization:
    return Organization.objects.create(name="acme")


def make_application(organization: Organization, name: str) -> Application:
    return Application.objects.create(organization=organization, name=name)


def connect(application: Application, *executor_ids: str) -> None:
    presence.register(
        [
            Registration(f"{application.name}-{e}", application.pk, e, "v1")
            for e in executor_ids
        ],
        instance_id="i1",
    )


def make_recovery(application: Application, state: str, executor_id: str) -> None:
    now = clock.now()
    Recovery.objects.create(
        application=application,
        executor_id=executor_id,
        state=state,
        disconnected_at=now - timedelta(seconds=60),
        dead_at=now,
        next_try_at=now,
    )


def listed(organization: Organization) -> dict[str, pages.ApplicationRow]:
    actor = auth.system_actor(organization)
    page = pages.list_applications(actor, search="", cursor="")
    return {row.name: row for row in page.rows}


def test_health_is_told_from_the_executors(organization: Organization) -> None:
    make_application(organization, "new")
    connect(make_application(organization, "well"), "x1", "x2")
    connect(make_application(organization, "half"), "x1", "x2")
    connect(make_application(organization, "away"), "x1")
    presence.disconnect(["half-x1", "away-x1"])

    health = {name: row.health for name, row in listed(organization).items()}

    assert health == {
        "new": "never",
        "well": "healthy",
        "half": "degraded",
        "away": "unavailable",
    }


def test_open_recoveries_and_the_last_contact(organization: Organization) -> None:
    orders = make_application(organization, "orders")
    make_recovery(orders, Recovery.State.WAITING, "x1")
    make_recovery(orders, Recovery.State.CONFIRMED, "x2")

    row = listed(organization)["orders"]

    assert row.open_recoveries == 1
    assert row.last_contact == Recovery.objects.latest("pk").disconnected_at


def test_more_applications_cost_no_more_queries(
    organization: Organization, django_assert_num_queries: Any
) -> None:
    for number in range(20):
        connect(make_application(organization, f"app{number}"), "x1", "x2")

    with django_assert_num_queries(3):
        assert len(listed(organization)) == 20
    assert Executor.objects.count() == 40


def test_the_ledger_is_counted_by_state(organization: Organization) -> None:
    orders = make_application(organization, "orders")
    for number in range(3):
        make_recovery(orders, Recovery.State.CONFIRMED, f"x{number}")
    make_recovery(orders, Recovery.State.WAITING, "x9")

    assert pages.recoveries_by_state(orders) == {
        "WAITING": 1,
        "REQUESTED": 0,
        "CONFIRMED": 3,
        "RETURNED": 0,
    }


def test_counts_end_somewhere() -> None:
    assert [capped(n) for n in (0, 1_234, 10_000, 10_001)] == [
        "0",
        "1,234",
        "10,000",
        "10,000+",
    ]


# --- Pages follow one another, whatever their rows have in common --------------------


def test_rejections_of_one_moment_come_once(organization: Organization) -> None:
    moment = clock.now()
    RejectedConnection.objects.bulk_create(
        RejectedConnection(
            organization=organization,
            application_name=f"app-{number % 9}",
            key_prefix=f"k{number}",
            reason=RejectedConnection.Reason.BAD_KEY,
            status=401,
            first_seen_at=moment,
            last_seen_at=moment,
        )
        for number in range(230)
    )

    seen: list[int] = []
    cursor = None
    while True:
        page = pages.list_rejections(organization, cursor=cursor)
        seen += [one.row.pk for one in page.rows]
        if not page.next_cursor:
            break
        at, _, pk = page.next_cursor.rpartition(",")
        cursor = datetime.fromisoformat(at), int(pk)

    assert len(seen) == 230
    assert seen == sorted(set(seen), reverse=True)


def test_recoveries_of_one_moment_come_once(organization: Organization) -> None:
    orders = make_application(organization, "orders")
    moment = clock.now()
    Recovery.objects.bulk_create(
        Recovery(
            application=orders,
            executor_id=f"x{number}",
            state=Recovery.State.WAITING,
            disconnected_at=moment,
            dead_at=moment,
            next_try_at=moment,
        )
        for number in range(230)
    )

    seen: list[int] = []
    cursor = None
    while True:
        page = pages.list_recoveries(orders, state="WAITING", cursor=cursor)
        seen += [row.pk for row in page.rows]
        if not page.next_cursor:
            break
        cursor = int(page.next_cursor)

    assert len(seen) == 230
    assert seen == sorted(set(seen), reverse=True)
