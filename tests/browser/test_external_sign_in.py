"""Signing in by another OpenID provider: a real one, on another port."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import steps
from tests.browser.test_pages import look_at
from tests.browser.world import invite
from tests.e2e.world import EMAIL, PASSWORD, Embedded
from tests.issuer import Provider, running

pytestmark = pytest.mark.e2e

ADMIN = {"sub": "admin-1", "email": EMAIL, "email_verified": True}
NEWCOMER = {"sub": "new-1", "email": "newcomer@example.com", "email_verified": True}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with running() as provider:
        yield provider


@pytest.fixture(scope="module")
def conductor(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedded]:
    """Conductor that trusts it, and where only the invited may sign up."""
    with pytest.MonkeyPatch.context() as patch:
        text = json.dumps([provider.configuration()])
        patch.setenv("CONDUCTOR_OIDC_PROVIDERS", text)
        patch.setenv("CONDUCTOR_SIGNUP", "invite")
        embedded = Embedded(tmp_path_factory.mktemp("external"))
    yield embedded
    embedded.stop()


def sign_in_with_corp(page: Page) -> None:
    page.goto("/accounts/login/")
    page.get_by_role("button", name="Sign in with Corp").click()


def test_person_of_the_same_verified_address_signs_in(
    page: Page, plain_page: Page, provider: Provider
) -> None:
    provider.person = dict(ADMIN)
    for tab in (page, plain_page):
        sign_in_with_corp(tab)
        tab.wait_for_url("**/orgs/acme/apps/")

    page.goto("/accounts/connections/")
    expect(page.get_by_label("Corp")).to_be_visible()
    look_at(page)


def test_address_that_is_not_verified_there_opens_no_account(
    page: Page, provider: Provider
) -> None:
    provider.person = ADMIN | {"sub": "mallory", "email_verified": False}
    sign_in_with_corp(page)

    steps.heading(page, "Sign-up is closed")
    page.goto("/orgs/")
    expect(page).not_to_have_url("**/orgs/acme/**")


def test_stranger_signs_up_only_where_they_are_invited(
    page: Page, browser: Browser, conductor: Embedded, provider: Provider
) -> None:
    provider.person = dict(NEWCOMER)
    sign_in_with_corp(page)
    steps.heading(page, "Sign-up is closed")

    context = browser.new_context(base_url=conductor.urls[0])
    admin = context.new_page()
    admin.goto("/accounts/login/")
    admin.get_by_label("Email", exact=True).fill(EMAIL)
    admin.get_by_label("Password", exact=True).fill(PASSWORD)
    admin.get_by_role("button", name="Sign in", exact=True).click()
    others = invite(admin, "else@example.com", "organization_member")
    own = invite(admin, "newcomer@example.com", "organization_member")
    context.close()

    page.goto(others)
    sign_in_with_corp(page)
    steps.heading(page, "Sign-up is closed")
    page.goto(own)
    sign_in_with_corp(page)
    page.wait_for_url("**/orgs/acme/apps/")


def test_provider_that_is_away_is_said_to_be(
    page: Page, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "get", lambda *_: None)

    sign_in_with_corp(page)

    expect(page.get_by_text("Corp does not answer")).to_be_visible()
    look_at(page)
