"""The main job as a person sees it, from sign-up to the proof, and without scripts."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from benchmarks.stack import wait_until
from tests.browser import steps
from tests.e2e.world import TIMEOUT_SECS, Application, Embedded

pytestmark = pytest.mark.e2e

# A loaded machine starts an SDK in seconds, not at once.
START_MS = 60_000
TAKEOVER_MS = (TIMEOUT_SECS + 60) * 1000


@pytest.fixture
def shop(conductor: Embedded, home: Path) -> Iterator[Application]:
    """A DBOS application that nobody has registered yet."""
    name = f"shop-{secrets.token_hex(3)}"
    application = Application(conductor, name, "python", "3.2.0", home)
    yield application
    application.stop()


def test_from_sign_up_to_the_proof_of_a_recovery(page: Page, shop: Application) -> None:
    page.goto("/")
    page.get_by_role("link", name="Create an account").first.click()
    steps.sign_up(page, f"{secrets.token_hex(4)}@example.com")
    steps.heading(page, "Applications")

    # Registers, makes a key, and the page waits.
    steps.register_application(page, shop.name)
    connect_url = page.url
    key = steps.create_key(page, "first")
    page.goto(connect_url)
    expect(page.get_by_text("Waiting for the first executor")).to_be_visible()
    page.evaluate("window.isThisVisit = true")

    # A process with that key arrives: the page turns green by itself.
    victim = shop.start(CONDUCTOR_KEY=key)
    connected = page.get_by_text("Connected.")
    expect(connected).to_be_visible(timeout=START_MS)
    assert page.evaluate("window.isThisVisit"), "the page was loaded again"
    victim_id = page.locator("#connection .mono").first.inner_text()

    # So does a second one, on the application's page.
    page.get_by_role("link", name="See its executors").click()
    steps.heading(page, shop.name)
    page.evaluate("window.isThisVisit = true")
    shop.start(CONDUCTOR_KEY=key)
    healthy = page.locator("#executors tbody tr").filter(has_text="HEALTHY")
    expect(healthy).to_have_count(2, timeout=START_MS)
    rows = page.locator("#executors tbody tr")
    heir_row = rows.filter(has_not_text=victim_id)
    heir_id = heir_row.get_by_role("rowheader").inner_text()

    # The first one dies in the middle of its work; both pages tell, live.
    for number in range(3):
        victim.begin(f"order-{number}", steps=20, secs=0.3)
    ledger = page.context.new_page()
    ledger.goto(re.sub("connect/$", "recoveries/", connect_url))
    expect(ledger.get_by_text("Nothing had to be recovered")).to_be_visible()
    ledger.evaluate("window.isThisVisit = true")
    page.bring_to_front()
    shop_works(shop, "order-0", "order-1", "order-2")
    victim.kill()
    victim_row = page.locator("#executors tbody tr").filter(has_text=victim_id)
    expect(victim_row).to_contain_text("DISCONNECTED", timeout=START_MS)
    expect(victim_row).to_have_count(0, timeout=TAKEOVER_MS)
    expect(healthy).to_have_count(1)
    assert page.evaluate("window.isThisVisit"), "the page was loaded again"

    ledger.bring_to_front()
    entry = ledger.locator("#recoveries tbody tr").filter(has_text=victim_id)
    expect(entry).to_contain_text("CONFIRMED", timeout=TAKEOVER_MS)
    expect(entry).to_contain_text(heir_id)
    expect(entry).to_contain_text("3 → 0")
    assert ledger.evaluate("window.isThisVisit"), "the page was loaded again"

    # The entry's own page has the proof and the names of what was pending.
    entry.get_by_role("link").click()
    expect(ledger.get_by_text(f"says executor {heir_id}")).to_be_visible()
    for number in range(3):
        expect(ledger.get_by_role("link", name=f"order-{number}")).to_be_visible()


def test_everything_that_is_a_form_or_link_works_without_javascript(
    plain_page: Page, conductor: Embedded, shop: Application
) -> None:
    page = plain_page
    steps.sign_in(page)
    steps.register_application(page, shop.name)
    connect_url = page.url
    key = steps.create_key(page, secrets.token_hex(4))
    process = shop.start(CONDUCTOR_KEY=key)
    process.begin("long", steps=600, secs=0.1)
    shop_works(shop, "long")

    page.goto(connect_url)
    expect(page.get_by_text("Connected.")).to_be_visible()
    page.goto(re.sub("connect/$", "workflows/", connect_url))
    page.get_by_label("Id begins with").fill("lo")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="job").click()
    page.get_by_role("link", name="Cancel", exact=True).click()
    expect(page.get_by_role("heading", name="Cancel this workflow?")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_text("A step that is running finishes first")).to_be_visible()
    expect(page.locator("#workflow .status").first).to_have_text("CANCELLED")


def shop_works(shop: Application, *workflow_ids: str) -> None:
    """Wait until each workflow has finished a step."""
    wait_until(
        "every workflow did a step",
        lambda: all(f"{w} 0" in shop.notes() for w in workflow_ids),
        secs=60,
    )
