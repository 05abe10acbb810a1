"""Pages that follow by themselves: when they ask, and what a failure does to them.

The browser's clock is the test's, so no rule here depends on how busy the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.world import World

pytestmark = pytest.mark.e2e

EXECUTORS = "/orgs/acme/apps/shop/"
FRAGMENT = "**/fragments/executors/*"


class Tab:
    """A page whose clock stands still until it is told to go on."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.polls = 0
        self.unanswered: set[Request] = set()
        page.clock.install()
        # No hints from the server: what is looked at here is the polling without them.
        page.route_web_socket("**/live/", lambda _: None)
        page.on("request", self.note)
        page.on("requestfinished", self.forget)
        page.on("requestfailed", self.forget)

    def note(self, request: Request) -> None:
        if request.headers.get("hx-request"):
            self.polls += 1
            self.unanswered.add(request)

    def forget(self, request: Request) -> None:
        self.unanswered.discard(request)

    def open(self, path: str) -> None:
        self.page.goto(path)

    def wait(self, secs: int) -> int:
        """Let the time pass in single seconds; return how often the page asked."""
        before = self.polls
        for _ in range(secs):
            self.page.clock.run_for(1000)
            while self.unanswered:
                self.page.wait_for_timeout(10)
        return self.polls - before


@pytest.fixture
def tab(world: World) -> Iterator[Tab]:
    page = world.admin.new_page()
    yield Tab(page)
    page.close()


def hide(page: Page, hidden: bool) -> None:
    """What the browser says when a person turns to another tab, or back."""
    page.evaluate(
        """value => {
            Object.defineProperty(document, "hidden", {value, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_page_follows_while_it_is_looked_at(tab: Tab) -> None:
    tab.open(EXECUTORS)

    assert tab.wait(12) >= 2


def test_hidden_tab_asks_nothing_and_catches_up_when_it_is_shown(tab: Tab) -> None:
    tab.open(EXECUTORS)

    hide(tab.page, True)
    assert tab.wait(30) == 0
    with tab.page.expect_request(FRAGMENT):
        hide(tab.page, False)


def test_page_is_slow_when_nobody_is_there_and_quick_when_somebody_is(tab: Tab) -> None:
    tab.open(EXECUTORS)

    tab.page.clock.fast_forward(6 * 60_000)
    assert tab.wait(60) <= 4
    with tab.page.expect_request(FRAGMENT):
        tab.page.keyboard.press("Shift")


@pytest.mark.parametrize(
    "path",
    [
        "/orgs/acme/apps/shop/workflows/{bad}/",
        "/orgs/acme/apps/shop/recoveries/{confirmed}/",
        "/orgs/acme/apps/shop/connect/",
    ],
)
def test_what_cannot_change_any_more_is_not_asked_again(
    tab: Tab, world: World, path: str
) -> None:
    tab.open(path.format(**world.names))

    assert tab.wait(20) == 0


@pytest.mark.parametrize("status", [None, 500, 503])
def test_failing_poll_keeps_the_page_and_says_so_until_an_answer_comes(
    tab: Tab, status: int | None
) -> None:
    tab.open(EXECUTORS)
    rows = tab.page.locator("#executors tbody tr")
    number = rows.count()
    tab.page.route(
        FRAGMENT,
        lambda route: (
            route.fulfill(status=status, body="<h1>Something failed</h1>")
            if status
            else route.abort()
        ),
    )

    tab.wait(5)
    note = tab.page.get_by_text("Trying again.")
    expect(note).to_be_visible()
    expect(rows).to_have_count(number)
    assert tab.wait(30) <= 5, "it does not hurry while Conductor is in trouble"

    tab.page.unroute(FRAGMENT)
    tab.wait(40)
    expect(note).to_be_hidden()
    expect(rows).to_have_count(number)


def test_text_being_selected_is_not_swapped_away(tab: Tab) -> None:
    tab.open(EXECUTORS)

    tab.page.locator("#executors tbody th").first.select_text()
    assert tab.wait(20) == 0
    tab.page.evaluate("getSelection().removeAllRanges()")
    assert tab.wait(12) >= 2


def test_buttons_of_a_workflow_follow_its_status(tab: Tab, world: World) -> None:
    path = f"/orgs/acme/apps/shop/workflows/{world.names['order']}/"
    tab.open(path)
    actions = tab.page.locator("#workflow-actions")
    expect(actions.get_by_role("link", name="Cancel")).to_be_visible()

    elsewhere = world.admin.new_page()
    elsewhere.goto(path)
    elsewhere.get_by_role("link", name="Cancel", exact=True).click()
    elsewhere.get_by_role("button", name="Cancel", exact=True).click()
    expect(elsewhere.locator("#workflow .status").first).to_have_text("CANCELLED")
    elsewhere.close()
    tab.wait(10)

    expect(tab.page.locator("#workflow .status").first).to_have_text("CANCELLED")
    expect(actions.get_by_role("link", name="Resume")).to_be_visible()
    expect(actions.get_by_role("link", name="Cancel")).to_have_count(0)
