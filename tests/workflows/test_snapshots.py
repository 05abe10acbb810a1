"""What is kept of workflows: the newest report of each, and never a payload."""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.live.order import EPOCH
from apps.workflows.models import WorkflowSnapshot
from apps.workflows.services import snapshots
from tests.workflows.conftest import World, make_world

NOON = datetime(2026, 9, 21, 12, tzinfo=UTC)


def row(workflow_id: str = "w1", status: str = "SUCCESS", **more: Any) -> WorkflowRow:
    moments = {"created_at": NOON, "updated_at": NOON}
    return WorkflowRow(workflow_id, status, **{**moments, **more})


def kept(application: Application) -> dict[str, str]:
    return dict(
        WorkflowSnapshot.objects.filter(application=application).values_list(
            "workflow_id", "status"
        )
    )


def test_no_payload_is_kept(world: World) -> None:
    told = row(input="secret in", output="secret out", error="secret error")

    snapshots.remember(application=world.application, rows=[told])

    stored = WorkflowSnapshot.objects.values().get()
    assert "secret" not in repr(stored)
    assert stored["workflow_id"] == "w1"


def test_newer_report_replaces_an_older_one(world: World) -> None:
    app = world.application
    snapshots.remember(application=app, rows=[row(status="PENDING")])
    later = NOON + timedelta(seconds=5)
    snapshots.remember(application=app, rows=[row(updated_at=later)])

    snapshots.remember(application=app, rows=[row(status="PENDING")])

    assert kept(app) == {"w1": "SUCCESS"}


def test_same_second_may_be_news(world: World) -> None:
    app = world.application
    snapshots.remember(application=app, rows=[row(status="PENDING")])

    changed = snapshots.remember(application=app, rows=[row()])

    assert (changed, kept(app)) == (1, {"w1": "SUCCESS"})


def test_unchanged_rows_are_not_written(
    world: World, django_assert_max_num_queries: Any
) -> None:
    rows = [row(f"w{n}") for n in range(50)]
    snapshots.remember(application=world.application, rows=rows)

    with django_assert_max_num_queries(2):
        assert snapshots.remember(application=world.application, rows=rows) == 0


def test_a_page_is_kept_with_few_queries(
    world: World, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(10):
        snapshots.remember(
            application=world.application, rows=[row(f"w{n}") for n in range(200)]
        )

    assert WorkflowSnapshot.objects.count() == 200


@pytest.mark.parametrize(
    "workflow_id", ["ordér/1?#%", "日本語 id", "𝕏" * 300, " ", "a'b\"c\\", "x" * 2048]
)
def test_any_id_is_kept_as_it_is(world: World, workflow_id: str) -> None:
    snapshots.remember(
        application=world.application, rows=[row(workflow_id, name=workflow_id)]
    )

    assert kept(world.application) == {workflow_id: "SUCCESS"}


def test_what_cannot_be_kept_spoils_nothing(world: World) -> None:
    """No index takes such ids, and random ones do not even compress."""
    rows = [
        row(secrets.token_hex(5_000)),
        row("x" * 2049),
        row(""),
        row("lost\ufffdcharacter"),
        row("good", name="n" * 9_000, attributes="a" * 10**6, priority=10**30),
    ]

    snapshots.remember(application=world.application, rows=rows)

    stored = WorkflowSnapshot.objects.get()
    assert stored.workflow_id == "good"
    assert (len(stored.name), len(stored.attributes)) == (255, 10_000)


def test_what_has_no_creation_time_is_kept_as_the_oldest(world: World) -> None:
    """Before, it was dropped."""
    snapshots.remember(
        application=world.application, rows=[row("timeless", created_at=None)]
    )

    assert WorkflowSnapshot.objects.get().created_at == EPOCH


def test_longest_kept_id_fits_every_index(world: World) -> None:
    told = row(secrets.token_hex(1024), name="é" * 255, application_version="é" * 255)

    snapshots.remember(application=world.application, rows=[told])

    assert WorkflowSnapshot.objects.count() == 1


def test_applications_do_not_mix(world: World) -> None:
    other = Application.objects.create(organization=world.organization, name="bills")
    snapshots.remember(application=world.application, rows=[row()])
    snapshots.remember(application=other, rows=[row(status="ERROR")])

    snapshots.forget(application=other, workflow_ids=["w1"])

    assert kept(world.application) == {"w1": "SUCCESS"}
    assert kept(other) == {}


def test_nothing_is_kept_in_private_mode(world: World) -> None:
    world.application.private_mode = True

    assert snapshots.remember(application=world.application, rows=[row()]) == 0

    assert WorkflowSnapshot.objects.count() == 0


def test_private_mode_drops_what_was_kept_in_bounded_parts(world: World) -> None:
    app = world.application
    other = Application.objects.create(organization=world.organization, name="bills")
    snapshots.remember(application=app, rows=[row(f"w{n}") for n in range(5)])
    snapshots.remember(application=other, rows=[row()])
    Application.objects.filter(pk=app.pk).update(private_mode=True)

    dropped = [snapshots.forget_private(limit=3) for _ in range(3)]

    assert dropped == [3, 2, 0]
    assert kept(other) == {"w1": "SUCCESS"}


@pytest.mark.django_db(transaction=True)
def test_many_writers_leave_the_newest_report() -> None:
    world = make_world()
    started = threading.Barrier(4)

    def write(turn: int) -> None:
        started.wait()
        for round_ in range(5):
            late = NOON + timedelta(seconds=turn + 4 * round_)
            rows = [row(f"w{n}", str(turn + 4 * round_), updated_at=late) for n in ids]
            snapshots.remember(application=world.application, rows=rows)
        connections.close_all()

    ids = range(30)
    threads = [threading.Thread(target=write, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert kept(world.application) == {f"w{n}": "19" for n in ids}


@pytest.mark.django_db(transaction=True)
def test_application_deleted_meanwhile_keeps_nothing() -> None:
    world = make_world()
    Application.objects.all().delete()

    assert snapshots.remember(application=world.application, rows=[row()]) == 0
