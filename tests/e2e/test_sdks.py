"""Every supported SDK version, unmodified: all operations, and the main job."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import FINAL, TIMEOUT_SECS, Application, Conductor, Console

pytestmark = [pytest.mark.e2e, pytest.mark.services]

SDKS = [
    ("python", "3.2.0"),
    ("python", "2.31.1"),
    ("python", "1.14.0"),
    ("typescript", "5.2.11"),
    ("typescript", "4.19.8"),
]


@pytest.fixture(params=SDKS, ids=[f"{lang}-{version}" for lang, version in SDKS])
def application(
    request: pytest.FixtureRequest, conductor: Conductor, home: Path
) -> Iterator[Application]:
    language, version = request.param
    name = f"{language}-{version.replace('.', '-')}"
    conductor.provision(name)
    application = Application(conductor, name, language, version, home)
    yield application
    application.stop()


def test_sdk_does_everything_and_is_recovered(
    conductor: Conductor, application: Application
) -> None:
    victim = application.start_connected()
    heir = application.start_connected()
    pages = Workflows(conductor.console(), application)

    victim.begin("short", steps=3, secs=0.01)
    victim.begin("long", steps=150, secs=0.1)
    pages.wait_for("short", "SUCCESS")

    # Lists and reads.
    listed = pages.console.page(pages.base)
    assert "short" in listed
    assert "long" in listed
    assert "long" not in pages.console.page(pages.base, id_prefix="sho")
    shown = pages.console.page(pages.base + "short/")
    assert "3 steps done" in shown
    assert shown.count("work") >= 3

    # Cancels and resumes.
    pages.console.post(pages.base + "long/cancel/")
    pages.wait_for("long", "CANCELLED")
    # Its process notices at the next step. Resumed before, it would run twice at once,
    # and SDKs before 2 wait for each other then, for ever.
    time.sleep(1)
    pages.console.post(pages.base + "long/resume/")
    pages.wait_for("long", "PENDING", "ENQUEUED", "SUCCESS")

    # Forks: the new one runs what comes after the step, once.
    start_step = 2 if application.language == "python" else 1
    forked = pages.console.post(pages.base + "short/fork/", start_step=start_step)
    fork_id = forked.url.path.rstrip("/").rsplit("/", 1)[-1]
    pages.wait_for(fork_id, "SUCCESS")
    assert application.notes().count(f"{fork_id} 2") == 1
    assert application.notes().count(f"{fork_id} 0") == 0

    # Is killed in the middle of its work, and recovered.
    ids = [f"work-{number}" for number in range(5)]
    for workflow_id in ids:
        victim.begin(workflow_id, steps=10, secs=0.3)
    wait_until(
        "every workflow did a step",
        lambda: all(f"{i} 0" in application.notes() for i in ids),
        secs=30,
    )
    victim.kill()
    time.sleep(0.2)
    finished = application.database.steps()
    noted = collections.Counter(application.notes())
    entry = wait_until(
        "the recovery is confirmed",
        lambda: confirmed(conductor, application.name, victim.executor_id),
        secs=TIMEOUT_SECS + 30,
    )
    wait_until(
        "all is final",
        lambda: set(application.database.statuses().values()) <= FINAL,
        secs=90,
    )

    assert entry["taken_over_by"] == heir.executor_id
    assert entry["pending_count"] >= len(ids)
    assert entry["pending_left"] == 0
    statuses = application.database.statuses()
    assert {statuses[i] for i in ids} == {"SUCCESS"}
    # Every step of every workflow ran; none that had finished ran again.
    total = collections.Counter(application.notes())
    assert all(total[f"{i} {step}"] >= 1 for i in ids for step in range(10))
    first = 1 if application.language == "python" else 0
    again = [
        (workflow_id, step)
        for workflow_id, step in finished
        if total[f"{workflow_id} {step - first}"]
        > noted[f"{workflow_id} {step - first}"]
    ]
    assert not again
    assert conductor.key not in conductor.logs()


class Workflows:
    """The workflow pages of one application."""

    def __init__(self, console: Console, application: Application) -> None:
        self.console, self.application = console, application
        self.base = f"/orgs/acme/apps/{application.name}/workflows/"

    def wait_for(self, workflow_id: str, *statuses: str) -> None:
        """Wait until the application's database says so."""
        wait_until(
            f"{workflow_id} is {' or '.join(statuses)}",
            lambda: self.application.database.statuses().get(workflow_id) in statuses,
            secs=30,
        )


def confirmed(conductor: Conductor, name: str, executor_id: str) -> dict[str, object]:
    """Return the ledger's entry once it is confirmed."""
    entry = conductor.recovery_of(name, executor_id)
    return entry if entry.get("state") == "CONFIRMED" else {}
