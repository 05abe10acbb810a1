"""What a person does on the pages, by the words that stand there."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.world import EMAIL, PASSWORD


def heading(page: Page, text: str) -> None:
    """Wait for the page of this heading."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def sign_up(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill in the form of the sign-up page and send it."""
    page.get_by_label("Email", exact=True).fill(email)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_label("Password (again)").fill(password)
    page.get_by_role("button", name="Sign up").click()


def sign_in(page: Page, email: str = EMAIL, password: str = PASSWORD) -> None:
    page.goto("/accounts/login/")
    fill_sign_in(page, email, password)
    page.wait_for_url("**/orgs/**")


def fill_sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill in the form of the sign-in page and send it."""
    page.get_by_label("Email", exact=True).fill(email)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()


def register_application(page: Page, name: str) -> None:
    """From the list of applications to the page that says how to connect."""
    page.get_by_role("link", name="Register application").first.click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Register application").click()
    heading(page, f"Connect {name}")


def create_key(page: Page, name: str) -> str:
    """From the page that says how to connect; return the secret, shown once."""
    page.get_by_role("link", name="Create a key").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Create key").click()
    return page.get_by_label("Secret").input_value()
