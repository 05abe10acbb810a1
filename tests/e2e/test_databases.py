"""Two databases under one name: staging beside production, by a copied `.env`.

Whoever dies, and in whatever order: nobody of the other database proves anything about
it, and what is read is of one database. One process on each side in embedded mode,
three in services mode.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import (
    Application,
    Conductor,
    Embedded,
    Process,
    needs,
)

pytestmark = [pytest.mark.e2e, pytest.mark.services]

# Longer than a proof took where it was a false one.
PATIENCE_SECS = 6


class Side:
    """The processes of one database."""

    def __init__(self, application: Application, number: int) -> None:
        self.application = application
        self.living = [application.start_connected() for _ in range(number)]
        self.ids = {one.executor_id for one in self.living}

    def begin(self, prefix: str) -> set[str]:
        """Start a workflow on each process that does not end in this test."""
        ids = set()
        for number, process in enumerate(self.living):
            process.begin(f"{prefix}-{number}", steps=3000, secs=0.2)
            ids.add(f"{prefix}-{number}")
        wait_until("they are pending", lambda: ids <= set(self.statuses()), secs=60)
        return ids

    def statuses(self) -> dict[str, str]:
        return self.application.database.statuses()

    def add(self) -> Process:
        process = self.application.start_connected()
        self.living.append(process)
        self.ids.add(process.executor_id)
        return process

    def kill(self) -> Process:
        process = self.living.pop(0)
        process.kill()
        return process


def ledger(conductor: Conductor, name: str) -> dict[str, tuple[str, str, str, str]]:
    """Return executor → state, who took it over, who proved it, why it waits."""
    rows = conductor.rows(
        "SELECT r.executor_id, r.state, r.taken_over_by, r.proved_by, r.waiting_reason"
        " FROM executors_recovery r"
        " JOIN registry_application a ON a.id = r.application_id"
        f" WHERE a.name = '{name}' ORDER BY r.id"
    )
    return {row[0]: row[1:] for row in rows}


def assert_no_false_proof(conductor: Conductor, name: str, *sides: Side) -> None:
    for executor_id, (state, _, proved_by, _) in ledger(conductor, name).items():
        (own,) = [side for side in sides if executor_id in side.ids]
        if state == "CONFIRMED":
            assert proved_by in own.ids, (executor_id, proved_by)


def wait_for_confirmation(conductor: Conductor, name: str, process: Process) -> None:
    wait_until(
        "the takeover is proved",
        lambda: (
            ledger(conductor, name).get(process.executor_id, ("",))[0] == "CONFIRMED"
        ),
        secs=60,
    )


def assert_waits(conductor: Conductor, name: str, process: Process) -> None:
    """It is dead, and stays without a proof."""
    wait_until(
        "it is declared dead",
        lambda: process.executor_id in ledger(conductor, name),
        secs=60,
    )
    time.sleep(PATIENCE_SECS)
    state, _, proved_by, reason = ledger(conductor, name)[process.executor_id]
    assert (state, proved_by) == ("WAITING", "")
    assert "another" in reason


def read_ids(conductor: Conductor, name: str, key: str) -> list[set[str]]:
    """Read the workflows again and again, from every server."""
    found = []
    for number in range(20):
        base = conductor.urls[number % len(conductor.urls)]
        answer = httpx.get(
            f"{base}/v2/orgs/acme/apps/{name}/workflows",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()
        found.append({row["workflowId"] for row in rows})
    return found


@pytest.mark.parametrize(
    ("language", "version"),
    [
        pytest.param("python", "3.2.0", marks=needs("python")),
        pytest.param("typescript", "5.2.11", marks=needs("typescript")),
    ],
)
def test_nobody_proves_anything_about_another_database(
    conductor: Conductor, home: Path, language: str, version: str
) -> None:
    number = 1 if isinstance(conductor, Embedded) else 3
    name = f"twin-{language}-{number}"
    conductor.provision(name)
    key = conductor.provision(name, permission="application.read")
    production, staging = (
        Side(Application(conductor, name, language, version, home / side), number)
        for side in ("production", "staging")
    )
    try:
        ours, theirs = production.begin("production"), staging.begin("staging")
        assert all(seen == ours for seen in read_ids(conductor, name, key))

        # One by one, while its own are left: they take over, and nobody else.
        while len(production.living) > 1:
            wait_for_confirmation(conductor, name, production.kill())
        while len(staging.living) > 1:
            wait_for_confirmation(conductor, name, staging.kill())
        assert_no_false_proof(conductor, name, production, staging)

        # The last of production: staging's word counts for nothing.
        last = production.kill()
        assert_waits(conductor, name, last)
        assert {"SUCCESS", "ERROR"}.isdisjoint(production.statuses().values())
        production.add()
        wait_for_confirmation(conductor, name, last)

        # The last of staging, and both at once.
        last = staging.kill()
        assert_waits(conductor, name, last)
        both = production.kill()
        staging.add()
        wait_for_confirmation(conductor, name, last)
        assert_waits(conductor, name, both)
        production.add()
        wait_for_confirmation(conductor, name, both)

        assert_no_false_proof(conductor, name, production, staging)
        assert ours == set(production.statuses())
        assert theirs == set(staging.statuses())
    finally:
        production.application.stop()
        staging.application.stop()
