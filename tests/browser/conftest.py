"""One real browser for all of these tests, and Conductor as it is really started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.world import World, make_world
from tests.e2e.world import Embedded

CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


# Of the package, not of the session: while Playwright runs, its event loop counts as
# running, and asynchronous tests elsewhere could not start theirs.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, conductor: Embedded) -> Iterator[Page]:
    """A tab of somebody who has never been here; a script error fails the test."""
    context = browser.new_context(base_url=conductor.urls[0])
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors


@pytest.fixture
def plain_page(browser: Browser, conductor: Embedded) -> Iterator[Page]:
    """The same with JavaScript switched off."""
    base_url = conductor.urls[0]
    context = browser.new_context(base_url=base_url, java_script_enabled=False)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="package")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    embedded = Embedded(tmp_path_factory.mktemp("conductor"))
    yield embedded
    embedded.stop()


@pytest.fixture(scope="package")
def world(
    browser: Browser, conductor: Embedded, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(browser, conductor, tmp_path_factory.mktemp("shop"), stack)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for an application's files."""
    return tmp_path
