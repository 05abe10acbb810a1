"""Two databases under one name, as a person sees them and chooses one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from benchmarks.stack import wait_until
from tests.browser import steps
from tests.browser.test_pages import WIDE, look_at
from tests.e2e.world import Application, Embedded, Process

pytestmark = pytest.mark.e2e

APP = "/orgs/acme/apps/twins"


@dataclass
class Side:
    """One deployment: its database, its process, and the workflow that runs there."""

    application: Application
    process: Process
    workflow: str
    label: str


@dataclass
class Twins:
    page: Page
    production: Side
    staging: Side
    recovery: int


@pytest.fixture(scope="module")
def twins(
    browser: Browser, conductor: Embedded, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Twins]:
    """Production and staging under one name; production lost another process before."""
    conductor.provision("twins")
    home = tmp_path_factory.mktemp("twins")
    applications = [
        Application(conductor, "twins", "python", "3.2.0", home / name)
        for name in ("production", "staging")
    ]
    try:
        production, staging = (
            begin(conductor, application, f"{application.home.name}-work")
            for application in applications
        )
        lost = production.application.start_connected()
        lost.kill()
        recovery = wait_until(
            "the other process is recovered",
            lambda: conductor.rows(
                "SELECT id FROM executors_recovery WHERE state = 'CONFIRMED'"
                f" AND executor_id = '{lost.executor_id}'"
            ),
            secs=60,
        )
        context = browser.new_context(base_url=conductor.urls[0])
        page = context.new_page()
        steps.sign_in(page)
        yield Twins(page, production, staging, recovery[0][0])
        context.close()
    finally:
        for application in applications:
            application.stop()


def begin(conductor: Embedded, application: Application, workflow: str) -> Side:
    """Start a process, and a workflow on it that does not end in this test."""
    process = application.start_connected()
    process.begin(workflow, steps=3000, secs=0.2)
    wait_until(
        "it is pending", lambda: workflow in application.database.statuses(), secs=60
    )

    def label() -> str:
        rows = conductor.rows(
            "SELECT d.label FROM executors_executor e"
            " JOIN executors_systemdatabase d ON d.id = e.database_id"
            f" WHERE e.executor_id = '{process.executor_id}'"
        )
        return rows[0][0] if rows else ""

    return Side(
        application, process, workflow, wait_until("it is told apart", label, secs=60)
    )


def clear(page: Page) -> None:
    page.goto(f"{APP}/?database=")


def row_of(page: Page, side: Side) -> Locator:
    """Return its workflow's row in the list."""
    return page.get_by_role("row").filter(has_text=side.workflow)


PAGES = {
    "executors": "/",
    "workflows": "/workflows/",
    "workflow": "/workflows/{work}/",
    "cancelling": "/workflows/{work}/cancel/",
    "ledger": "/recoveries/",
    "recovery": "/recoveries/{recovery}/",
    "connect": "/connect/",
    "settings": "/settings/",
}


@pytest.mark.parametrize("is_chosen", [False, True], ids=["default", "chosen"])
@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES.keys())
def test_every_page_says_it_and_is_accessible(
    twins: Twins, path: str, is_chosen: bool
) -> None:
    page = twins.page
    clear(page)
    side = twins.staging if is_chosen else twins.production
    path = APP + path.format(work=side.workflow, recovery=twins.recovery)

    page.goto(f"{path}?database={side.label if is_chosen else ''}")

    banner = page.get_by_role("region", name="Two databases under one name")
    for one in (twins.production, twins.staging):
        expect(banner).to_contain_text(one.process.executor_id)
    sentence = "commands are sent to it" if is_chosen else "until you choose"
    expect(banner).to_contain_text(sentence)
    links = banner.get_by_role("link", name="Choose database")
    expect(links).to_have_count(1 if is_chosen else 2)
    look_at(page)


def test_choice_is_kept_and_commands_are_sent_there(twins: Twins) -> None:
    page = twins.page
    ours, theirs = twins.production, twins.staging
    # A narrow window, which the other tests leave, hides the sidebar.
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    clear(page)
    page.goto(f"{APP}/workflows/")
    expect(row_of(page, ours)).to_be_visible()
    expect(row_of(page, theirs)).to_have_count(0)

    # Where nobody chose, a command is rejected.
    page.goto(f"{APP}/workflows/{ours.workflow}/cancel/")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("body")).to_contain_text("several databases")
    assert ours.application.database.statuses()[ours.workflow] == "PENDING"

    page.goto(f"{APP}/settings/")
    page.get_by_role("link", name=f"Choose database {theirs.label}").click()
    page.wait_for_url(re.compile("/settings/"))
    sidebar = page.locator("#sidebar")
    for name in ("Recoveries", "Connect", "Executors", "Workflows"):
        sidebar.get_by_role("link", name=name, exact=True).click()
        expect(page.locator("main")).to_contain_text("commands are sent to it")
    expect(row_of(page, ours)).to_have_count(0)

    row_of(page, theirs).get_by_role("link").click()
    page.get_by_role("link", name="Cancel").click()
    # Another tab chooses the other database; this one means what it shows.
    other = page.context.new_page()
    other.goto(f"{APP}/?database={ours.label}")
    other.close()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.wait_for_url(f"**/workflows/{theirs.workflow}/")
    wait_until(
        "it is cancelled",
        lambda: theirs.application.database.statuses()[theirs.workflow] == "CANCELLED",
        secs=30,
    )
    assert ours.application.database.statuses()[ours.workflow] == "PENDING"

    page.get_by_role("link", name="Clear the choice").click()
    expect(page.locator("main")).to_contain_text("until you choose")


def test_recovery_names_the_database(twins: Twins) -> None:
    twins.page.goto(f"{APP}/recoveries/{twins.recovery}/")

    subtitle = twins.page.locator(".page-subtitle")
    expect(subtitle).to_contain_text(f"Database {twins.production.label}")
