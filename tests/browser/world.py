"""A console with something of everything, made by real people and real executors."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from benchmarks.stack import wait_until
from tests.browser import steps
from tests.e2e.world import ROOT, Database, Embedded, Process, install_sdk

READER = "reader@example.com"


@dataclass
class World:
    """A console with something of everything, and the people looking at it."""

    admin: BrowserContext
    reader: BrowserContext
    stranger: BrowserContext
    # What the paths below name: ids that only a running world knows.
    names: dict[str, str] = field(default_factory=dict)


def make_world(
    browser: Browser, conductor: Embedded, home: Path, stack: contextlib.ExitStack
) -> World:
    """Make it all; `stack` ends what it started."""
    conductor.provision("shop", "empty")
    people = [
        browser.new_context(base_url=conductor.urls[0], reduced_motion="reduce")
        for _ in range(3)
    ]
    for context in people:
        stack.callback(context.close)
    world = World(*people)
    steps.sign_in(world.admin.new_page())
    fill_registry(world)
    fill_shop(world, conductor, home, stack)
    return world


def fill_registry(world: World) -> None:
    """A revoked key, an open invitation, and a member who may only read."""
    page = world.admin.pages[0]
    page.goto("/orgs/acme/keys/new/")
    page.get_by_label("Name").fill("an old key")
    page.get_by_role("button", name="Create key").click()
    page.get_by_role("link", name="Done").click()
    row = page.get_by_role("row").filter(has_text="an old key")
    row.get_by_role("button", name="Revoke").click()
    page.locator("dialog [data-yes]").click()
    page.get_by_text("was revoked").wait_for()
    invite(page, "somebody@example.com", "organization_admin")
    link = invite(page, READER, "organization_member")
    guest = world.reader.new_page()
    guest.goto(link)
    guest.get_by_role("link", name="Create an account").click()
    steps.sign_up(guest, READER)
    guest.wait_for_url("**/orgs/**")
    world.names["invitation"] = invite(page, "", "organization_member")


def invite(page: Page, email: str, role: str) -> str:
    """Invite; return the link, shown once."""
    page.goto("/orgs/acme/members/")
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Role", exact=True).select_option(label=role)
    page.get_by_role("button", name="Create invitation link").click()
    return page.get_by_label("Invitation link").input_value()


def fill_shop(
    world: World, conductor: Embedded, home: Path, stack: contextlib.ExitStack
) -> None:
    """Executors with work; one dies with an heir, one without; one is refused."""

    def start(version: str, flag: str) -> Process:
        process = start_example(conductor, home, version, flag)
        stack.callback(process.kill)
        return process

    # Only the first one has a database to make.
    heir = start("2.0.0", "--load")
    wait_until_listed(world, heir)
    others = [
        start("1.4.2-a-version-of-unusual-length", "--load"),
        start("2.0.0", "--orders"),
        start("0.9.0-gone-for-good", "--orders"),
    ]
    for process in others:
        wait_until_listed(world, process)
    victims = others[1:]
    database = Database(f"sqlite:///{home / 'shop.sqlite'}")
    orders = {f"order-{victim.executor_id[:8]}-0" for victim in victims}
    wait_until(
        "both have begun to work",
        lambda: orders <= set(database.statuses()),
        secs=60,
        every=0.2,
    )
    for victim in victims:
        victim.kill()
    refuse(conductor, "shopp", conductor.key)
    refuse(conductor, "shop", "dbos_this-is-not-a-key")

    def recoveries() -> dict[str, int]:
        rows = conductor.rows(
            "SELECT r.state, r.id FROM executors_recovery r"
            " JOIN registry_application a ON a.id = r.application_id"
            " WHERE a.name = 'shop'"
        )
        found = dict(rows)
        return found if {"CONFIRMED", "WAITING"} <= set(found) else {}

    found = wait_until(
        "one recovery is confirmed, one waits", recoveries, secs=60, every=0.2
    )
    world.names |= {
        "confirmed": str(found["CONFIRMED"]),
        "waiting": str(found["WAITING"]),
        "bad": f"bad-{heir.executor_id[:8]}",
        # Nobody takes this one over, so it stays as it is.
        "order": f"order-{victims[1].executor_id[:8]}-0",
    }


def start_example(conductor: Embedded, home: Path, version: str, flag: str) -> Process:
    """Start one process of the example application; its log says its id."""
    process = Process(
        [
            str(install_sdk("python", "3.2.0") / "bin" / "python"),
            str(ROOT / "examples" / "python" / "app.py"),
            flag,
        ],
        home / f"{version}{flag}.log",
        {
            "APP_VERSION": version,
            "CONDUCTOR_KEY": conductor.key,
            "CONDUCTOR_URL": conductor.urls[0].replace("http", "ws", 1),
            "DBOS_DATABASE": str(home / "shop.sqlite"),
            "LOAD": "3",
            "STEP_NOTES": str(home / "steps.log"),
            "STEP_SECS": "60" if flag == "--orders" else "0.1",
        },
    )
    said = wait_until(
        "it says its id",
        lambda: re.search(r"Executor ID: (\S+)", process.log()),
        secs=60,
        every=0.2,
    )
    process.executor_id = said[1]
    return process


def wait_until_listed(world: World, process: Process) -> None:
    """Wait until the console shows the executor."""
    path = "/orgs/acme/apps/shop/fragments/executors/"
    wait_until(
        "it is listed",
        lambda: process.executor_id in world.admin.request.get(path).text(),
        secs=60,
        every=0.3,
    )


def refuse(conductor: Embedded, name: str, key: str) -> None:
    url = conductor.urls[0].replace("http", "ws", 1)
    with contextlib.suppress(InvalidStatus), connect(f"{url}/websocket/{name}/{key}"):
        pytest.fail("it was let in")
