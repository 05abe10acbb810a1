"""Signing a program in by a code, as a person sees it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser import steps
from tests.browser.test_pages import look_at
from tests.e2e.world import EMAIL, Embedded

pytestmark = pytest.mark.e2e


class Program:
    """What a program does meanwhile, over HTTP."""

    def __init__(self, conductor: Embedded) -> None:
        self.http = httpx.Client(base_url=conductor.urls[0])
        self.started = self.post("device-code", scope="openid offline_access").json()

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self.http.post(
            f"/identity/{path}", data={"client_id": "dbosctl", **fields}
        )

    def poll(self) -> dict[str, Any]:
        grant = "urn:ietf:params:oauth:grant-type:device_code"
        code = self.started["device_code"]
        answer = self.post("token", grant_type=grant, device_code=code)
        tokens: dict[str, Any] = answer.json()
        return tokens

    def status(self, tokens: dict[str, Any]) -> int:
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        path = "/v2/orgs/acme/permissions"
        return self.http.get(path, headers=headers).status_code


def test_person_approves_a_program_and_signs_it_out(
    conductor: Embedded, page: Page
) -> None:
    program = Program(conductor)
    page.goto(program.started["verification_uri_complete"])
    steps.fill_sign_in(page, EMAIL)
    steps.heading(page, "May dbosctl sign in as you?")
    expect(page.locator(".device-code")).to_have_text(program.started["user_code"])
    look_at(page)

    page.get_by_role("button", name="Approve").click()
    steps.heading(page, "dbosctl is being signed in")
    look_at(page)
    tokens = program.poll()
    assert program.status(tokens) == 200

    page.get_by_role("link", name="See your signed-in devices").click()
    look_at(page)
    page.get_by_role("button", name="Sign out dbosctl").click()
    expect(page.get_by_text("dbosctl is signed out.")).to_be_visible()
    assert program.status(tokens) == 401


def test_person_types_the_code_and_denies_without_javascript(
    conductor: Embedded, plain_page: Page
) -> None:
    program, page = Program(conductor), plain_page
    page.goto(program.started["verification_uri"])
    steps.fill_sign_in(page, EMAIL)
    steps.heading(page, "Sign in a program")
    page.get_by_label("Code").fill(
        program.started["user_code"].replace("-", "").lower()
    )
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Deny").click()

    steps.heading(page, "dbosctl was not signed in")
    assert program.poll()["error"] == "access_denied"
