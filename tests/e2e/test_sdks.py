"""Every supported SDK version, unmodified: all operations, and the main job.

The stories of all versions are told at the same time, each in a thread of its own, and
each is one test.
"""

from __future__ import annotations

import collections
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import (
    FINAL,
    TIMEOUT_SECS,
    TOOLS,
    Application,
    Conductor,
    Console,
    needs,
)

pytestmark = [pytest.mark.e2e, pytest.mark.services]

SDKS = [
    ("python", "3.2.0"),
    ("python", "2.31.1"),
    ("python", "1.14.0"),
    ("typescript", "5.2.11"),
    ("typescript", "4.19.8"),
    ("go", "1.3.0"),
    ("java", "1.1.0-m6"),
]
# Those that can be told to keep their payloads to themselves.
DISCREET_SDKS = [("python", "3.2.0"), ("typescript", "5.2.11")]
STORY_SECS = 240

Story = Callable[[Conductor, Application, "Workflows"], None]


@pytest.fixture(scope="module")
def stories(
    conductor: Conductor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[None]]]:
    """Begin every story; what became of one is in its future."""
    home = tmp_path_factory.mktemp("applications")
    parts = [part for part in CAST if shutil.which(TOOLS[part[1][0]])]
    names = {part: f"{part[0]}-{'-'.join(part[1])}".replace(".", "-") for part in parts}
    conductor.provision(*names.values())
    # One after the other: many at once look like guessing a password.
    consoles = {part: conductor.console() for part in parts}
    with ThreadPoolExecutor(len(parts)) as threads:
        yield {
            (kind, "-".join(sdk)): threads.submit(
                tell,
                CAST[kind, sdk],
                conductor,
                consoles[kind, sdk],
                (name, *sdk, home),
            )
            for (kind, sdk), name in names.items()
        }


def tell(
    story: Story,
    conductor: Conductor,
    console: Console,
    what: tuple[str, str, str, Path],
) -> None:
    application = Application(conductor, *what)
    try:
        story(conductor, application, Workflows(console, application))
    finally:
        application.stop()


def parameters(sdks: list[tuple[str, str]]) -> list[Any]:
    """The versions as test parameters; skipped where their tool is missing."""
    return [pytest.param("-".join(sdk), marks=needs(sdk[0])) for sdk in sdks]


@pytest.mark.parametrize("sdk", parameters(SDKS))
def test_sdk_does_everything_and_is_recovered(
    stories: dict[tuple[str, str], Future[None]], sdk: str
) -> None:
    stories["all", sdk].result(STORY_SECS)


@pytest.mark.parametrize("sdk", parameters(DISCREET_SDKS))
def test_sdk_that_keeps_its_payloads_is_watched_all_the_same(
    stories: dict[tuple[str, str], Future[None]], sdk: str
) -> None:
    stories["discreet", sdk].result(STORY_SECS)


def test_key_is_in_no_log(
    stories: dict[tuple[str, str], Future[None]], conductor: Conductor
) -> None:
    for story in stories.values():
        story.exception(STORY_SECS)

    assert conductor.key not in conductor.logs()


# --- The stories ---


def do_everything(
    conductor: Conductor, application: Application, pages: Workflows
) -> None:
    victim = application.start_connected()
    heir = application.start_connected()

    victim.begin("short", steps=3, secs=0.01)
    victim.begin_failing("failed")
    victim.begin("unwanted", steps=1, secs=0.01)
    for workflow_id, status in (("short", "SUCCESS"), ("failed", "ERROR")):
        pages.wait_for(workflow_id, status)
    pages.wait_for("unwanted", "SUCCESS")

    lists_and_reads(pages)
    deletes(pages)
    forks(application, pages)
    cancels_and_resumes(victim.begin, application, pages)

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
        secs=TIMEOUT_SECS + 60,
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


def lists_and_reads(pages: Workflows) -> None:
    """Every filter, also those that an old SDK does not know and ignores."""
    everything = {"short", "failed", "unwanted"}
    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert pages.listed() == everything
    assert pages.listed(status="ERROR") == {"failed"}
    assert pages.listed(status=["SUCCESS", "ERROR"]) == everything
    assert pages.listed(name="broken") == {"failed"}
    assert pages.listed(name="bro") == set()
    assert pages.listed(id_prefix="sho") == {"short"}
    assert pages.listed(id_prefix="hort") == set()
    assert pages.listed(version="v1") == everything
    assert pages.listed(version="v2") == set()
    assert pages.listed(created_from=stamp(now - hour)) == everything
    assert pages.listed(created_from=stamp(now + hour)) == set()
    assert pages.listed(created_to=stamp(now - hour)) == set()
    assert pages.listed(created_to=stamp(now + hour)) == everything
    assert pages.listed(status="ERROR", name="job") == set()

    shown = pages.detail("short")
    assert "3 steps done" in shown
    assert shown.count("work") >= 3
    assert "no such luck" in pages.detail("failed")


def deletes(pages: Workflows) -> None:
    asked = pages.console.page(pages.base + "unwanted/delete/")
    assert "cannot be undone" in asked
    assert "unwanted" in pages.listed()

    page = pages.press("unwanted", "delete")

    if pages.application.version == "1.14.0":
        assert "does not support delete" in unescape(page.text)
        assert pages.listed() == {"short", "failed", "unwanted"}
        return
    assert "unwanted" not in pages.application.database.statuses()
    assert pages.listed() == {"short", "failed"}
    assert pages.console.status(pages.base + "unwanted/") == 404


def forks(application: Application, pages: Workflows) -> None:
    """The new one runs what comes after the step, once; or waits for its version."""
    start_step = 2 if application.language == "python" else 1
    fork_id = pages.order("short", "fork", start_step=start_step)
    pages.wait_for(fork_id, "SUCCESS")
    assert application.notes().count(f"{fork_id} 2") == 1
    assert application.notes().count(f"{fork_id} 0") == 0

    later_id = pages.order("short", "fork", application_version="v2")
    pages.wait_for(later_id, "ENQUEUED")
    assert pages.listed(version="v2") == {later_id}
    assert later_id not in pages.listed(version="v1")
    pages.order(later_id, "cancel")
    pages.wait_for(later_id, "CANCELLED")


def cancels_and_resumes(
    begin: Callable[..., None], application: Application, pages: Workflows
) -> None:
    begin("long", steps=80, secs=0.2)
    wait_until("it began", lambda: "long 0" in application.notes(), secs=30)
    pages.order("long", "cancel")
    pages.wait_for("long", "CANCELLED")
    # Its process notices at the next step. Resumed before, it would run twice at once,
    # and SDKs before 2 wait for each other then, for ever.
    time.sleep(1)
    pages.order("long", "resume")
    pages.wait_for("long", "PENDING", "ENQUEUED", "SUCCESS")


def keep_payloads(
    conductor: Conductor, application: Application, pages: Workflows
) -> None:
    process = application.start_connected(APP_METADATA_ONLY="1")
    process.begin("short", steps=3, secs=0.01)
    process.begin_failing("failed")
    pages.wait_for("short", "SUCCESS")
    pages.wait_for("failed", "ERROR")

    assert pages.listed() == {"short", "failed"}
    assert pages.listed(status="ERROR") == {"failed"}
    shown = pages.detail("short")
    assert shown.count("work") >= 3
    assert "steps done" not in shown
    assert "no such luck" not in pages.detail("failed")
    fork_id = pages.order("short", "fork")
    pages.wait_for(fork_id, "SUCCESS")


CAST: dict[tuple[str, tuple[str, str]], Story] = {
    **{("all", sdk): do_everything for sdk in SDKS},
    **{("discreet", sdk): keep_payloads for sdk in DISCREET_SDKS},
}


class Workflows:
    """The workflow pages of one application."""

    def __init__(self, console: Console, application: Application) -> None:
        self.console, self.application = console, application
        self.base = f"/orgs/acme/apps/{application.name}/workflows/"

    def listed(self, **filters: str | list[str]) -> set[str]:
        """Return the ids on the list, as a live executor answers."""
        page = self.console.page(self.base, **filters)
        assert "Conductor shows what it last knew" not in page, page
        return set(re.findall(rf'href="{self.base}([^/"?]+)/"', page))

    def detail(self, workflow_id: str) -> str:
        return unescape(self.console.page(f"{self.base}{workflow_id}/"))

    def order(self, workflow_id: str, what: str, **fields: object) -> str:
        """Press a button; return the last part of where it led: a workflow's id."""
        page = self.press(workflow_id, what, **fields)
        return page.url.path.rstrip("/").rsplit("/", 1)[-1]

    def press(self, workflow_id: str, what: str, **fields: object) -> httpx.Response:
        """Press a button of a workflow's page; return the page that it led to."""
        here = f"{self.base}{workflow_id}/"
        return self.console.post(f"{here}{what}/", page=here, **fields)

    def wait_for(self, workflow_id: str, *statuses: str) -> None:
        """Wait until the application's database says so."""
        wait_until(
            f"{workflow_id} is {' or '.join(statuses)}",
            lambda: self.application.database.statuses().get(workflow_id) in statuses,
            secs=45,
            every=0.2,
        )


def stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def confirmed(conductor: Conductor, name: str, executor_id: str) -> dict[str, object]:
    """Return the ledger's entry once it is confirmed."""
    entry = conductor.recovery_of(name, executor_id)
    return entry if entry.get("state") == "CONFIRMED" else {}
