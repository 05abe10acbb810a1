"""Rows of before executors' databases were told apart are still read afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from apps.executors import clock, databases, pages, presence
from apps.executors.models import Executor, Recovery
from apps.registry.models import Application
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots

BEFORE = [("executors", "0004_fair_planning"), ("workflows", "0003_command_operation")]


@pytest.fixture
def old_apps(transactional_db: None) -> Iterator[Any]:
    """The models of that time, in a database of that time; the newest comes back."""
    yield migrate(BEFORE)
    migrate(newest())


def migrate(targets: list[tuple[str, str]]) -> Any:
    """Bring the tables to this state; return its models."""
    executor = MigrationExecutor(connection)
    state = executor.migrate(targets)
    return state.apps


def newest() -> list[tuple[str, str]]:
    return [
        key
        for key in MigrationExecutor(connection).loader.graph.leaf_nodes()
        if key[0] in ("executors", "workflows")
    ]


def insert(old: Any) -> int:
    """Insert an application with a living and a dead executor; return its key."""
    organization = old.get_model("registry", "Organization").objects.create(name="acme")
    application = old.get_model("registry", "Application").objects.create(
        organization=organization, name="orders"
    )
    now = timezone.now()
    executors = old.get_model("executors", "Executor").objects
    executors.create(
        application=application,
        executor_id="alive",
        application_version="v1",
        connection_id="c1",
        state="HEALTHY",
    )
    executors.create(
        application=application,
        executor_id="dead",
        application_version="v1",
        state="DEAD",
        dead_at=now,
    )
    recoveries = old.get_model("executors", "Recovery").objects
    for state, executor_id in (("WAITING", "dead"), ("CONFIRMED", "long gone")):
        recoveries.create(
            application=application,
            executor_id=executor_id,
            application_version="v1",
            state=state,
            dead_at=now,
            next_try_at=now,
        )
    old.get_model("workflows", "SnapshotSync").objects.create(application=application)
    old.get_model("workflows", "WorkflowSnapshot").objects.create(
        application=application,
        workflow_id="w1",
        status="PENDING",
        executor_id="dead",
        created_at=now,
        updated_at=now,
    )
    key: int = application.pk
    return key


def test_rows_of_before_are_still_read(old_apps: Any) -> None:
    key = insert(old_apps)

    migrate(newest())

    application = Application.objects.get(pk=key)
    assert {e.executor_id: e.database for e in application.executors.all()} == {
        "alive": None,
        "dead": None,
    }
    # One database, which nobody could tell: nothing is to be chosen.
    (present,) = databases.list_present(application)
    assert (present.label, present.healthy, present.total) == ("unknown", 1, 2)
    ledger = pages.list_recoveries(application, state="", cursor=None)
    assert {row.executor_id: row.state for row in ledger.rows} == {
        "dead": "WAITING",
        "long gone": "CONFIRMED",
    }
    waiting = Recovery.objects.get(executor_id="dead")
    assert pages.tell_recovery(waiting).is_open
    assert snapshots.pending_of(waiting, 10) == ["w1"]
    assert SnapshotSync.objects.get().database is None


def test_rows_of_before_are_told_apart_when_they_connect_again(
    old_apps: Any,
) -> None:
    key = insert(old_apps)
    migrate(newest())

    presence.register(
        [presence.Registration("c2", key, "alive", "v1", marks=("v:a",))],
        instance_id="i1",
    )

    row = Executor.objects.get(executor_id="alive")
    assert row.database is not None
    assert row.connected_at is not None
    assert row.connected_at <= clock.now()
    assert WorkflowSnapshot.objects.get().workflow_id == "w1"
