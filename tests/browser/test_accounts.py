"""Coming in: by invitation, with a second factor, after forgetting the password."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import struct
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.stack import wait_until
from tests.browser import steps
from tests.browser.world import invite
from tests.e2e.world import PASSWORD, Embedded

pytestmark = pytest.mark.e2e

MEMBER = "organization_member"


@pytest.fixture(scope="module")
def admin(browser: Browser, conductor: Embedded) -> Iterator[Page]:
    """Acme's admin, on the page of its members."""
    context = browser.new_context(base_url=conductor.urls[0])
    page = context.new_page()
    steps.sign_in(page)
    yield page
    context.close()


def new_address() -> str:
    return f"{secrets.token_hex(4)}@example.com"


def new_account(page: Page) -> str:
    """Sign up, ending signed in on one's own organization; return the address."""
    email = new_address()
    page.goto("/accounts/signup/")
    steps.sign_up(page, email)
    page.wait_for_url("**/orgs/**")
    return email


def sign_out(page: Page) -> None:
    page.goto("/accounts/logout/")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("/")


def expect_in_acme(page: Page) -> None:
    expect(page).to_have_url(re.compile("/orgs/acme/apps/$"))
    steps.heading(page, "Applications")


# --- Invitations ---


def test_invited_stranger_makes_an_account_and_is_in_that_organization_only(
    page: Page, admin: Page
) -> None:
    page.goto(invite(admin, "", MEMBER))
    steps.heading(page, "Join acme")
    page.get_by_role("link", name="Create an account").click()
    email = new_address()
    steps.sign_up(page, email)

    expect_in_acme(page)
    page.locator("summary").filter(has_text="Switch organization").click()
    switch = page.locator(".sidebar .menu-panel").first
    expect(switch.get_by_role("link")).to_have_text(["acme", " New organization"])
    admin.goto("/orgs/acme/members/")
    row = admin.get_by_role("row").filter(has_text=email)
    expect(row.get_by_role("combobox").locator("option:checked")).to_have_text(MEMBER)


def test_invited_person_with_an_account_signs_in_and_joins(
    page: Page, admin: Page
) -> None:
    email = new_account(page)
    sign_out(page)

    page.goto(invite(admin, "", MEMBER))
    page.get_by_role("link", name="Sign in with mine").click()
    steps.fill_sign_in(page, email)
    page.get_by_role("button", name=f"Join as {email}").click()

    expect_in_acme(page)
    expect(page.get_by_text("Welcome to acme.")).to_be_visible()


def test_invited_person_signed_in_as_somebody_else_changes_the_account(
    page: Page, admin: Page
) -> None:
    mine = new_account(page)
    sign_out(page)
    other = new_account(page)

    page.goto(invite(admin, mine, MEMBER))
    expect(page.get_by_text(f"another address than yours, {other}")).to_be_visible()
    page.get_by_role("button", name="Use another account").click()
    page.get_by_role("link", name="Sign in with mine").click()
    steps.fill_sign_in(page, mine)
    page.get_by_role("button", name=f"Join as {mine}").click()

    expect_in_acme(page)


def test_used_invitation_says_that_it_is_not_valid_any_more(
    page: Page, admin: Page
) -> None:
    link = invite(admin, "", MEMBER)
    new_account(page)
    page.goto(link)
    page.get_by_role("button", name="Join as").click()
    expect_in_acme(page)
    sign_out(page)

    answer = page.goto(link)

    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_text("not valid any more. Ask for a new link")).to_be_visible()


# --- The second factor ---


def one_time_code(secret: str) -> str:
    """What an authenticator app shows now (RFC 6238)."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    counter = struct.pack(">Q", int(time.time()) // 30)
    digest = hmac.new(key, counter, hashlib.sha1).digest()
    offset = digest[-1] & 15
    number = struct.unpack(">I", digest[offset : offset + 4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"


def test_second_factor_is_asked_for_from_then_on_and_codes_open_too(page: Page) -> None:
    email = new_account(page)
    page.goto("/accounts/2fa/")
    page.get_by_role("link", name="Activate").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    secret = page.get_by_label("Authenticator secret").input_value()
    page.get_by_label("Authenticator code").fill(one_time_code(secret))
    page.get_by_role("button", name="Activate").click()
    expect(page.get_by_text("Authenticator app activated.")).to_be_visible()
    # The recovery codes are shown, for the day the phone is lost.
    spare = page.get_by_label("Unused codes").input_value().split()
    assert len(spare) == 10
    sign_out(page)

    page.goto("/accounts/login/")
    steps.fill_sign_in(page, email)
    steps.heading(page, "Two-Factor Authentication")
    page.goto("/orgs/")
    expect(page).to_have_url(re.compile("/accounts/2fa/authenticate/"))

    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("Incorrect code")).to_be_visible()
    page.get_by_label("Code").fill(spare[0])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/orgs/**")


# --- The password ---


def test_forgotten_password_is_set_anew_by_the_link_of_a_mail(
    page: Page, conductor: Embedded
) -> None:
    email = new_account(page)
    sign_out(page)
    page.goto("/accounts/login/")
    page.get_by_role("link", name="Forgot your password?").click()
    page.get_by_label("Email").fill(email)
    page.get_by_role("button", name="Reset My Password").click()
    expect(page.get_by_text("We have sent you an email")).to_be_visible()

    # Without a mail server, Conductor writes its mails to its own output.
    mail = wait_until(
        "the mail is written",
        lambda: re.search(rf"To: {email}\n(?s:.*?)(http\S+/key/\S+)", conductor.logs()),
        secs=30,
    )
    page.goto(mail[1])
    page.get_by_label("New Password", exact=True).fill("an entirely new one")
    page.get_by_label("New Password (again)").fill("an entirely new one")
    page.get_by_role("button", name="Change Password").click()
    expect(page.get_by_text("Your password is now changed.")).to_be_visible()

    page.goto("/accounts/login/")
    steps.fill_sign_in(page, email, PASSWORD)
    expect(page.get_by_text("are not correct")).to_be_visible()
    steps.fill_sign_in(page, email, "an entirely new one")
    page.wait_for_url("**/orgs/**")
