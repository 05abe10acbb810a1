"""Every page, full and empty, light and dark, wide and narrow, is readable to all."""

from __future__ import annotations

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.test import RequestFactory
from playwright.sync_api import BrowserContext, Page

from conductor_site.views import error_403, error_500
from tests.browser.world import World

pytestmark = pytest.mark.e2e

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
AXE = "axe.run({resultTypes: ['violations']}).then(result => result.violations)"


STRANGERS = {
    "landing": "/",
    "sign-in": "/accounts/login/",
    "sign-up": "/accounts/signup/",
    "password reset": "/accounts/password/reset/",
    "password reset sent": "/accounts/password/reset/done/",
    "password reset with a bad link": "/accounts/password/reset/key/1-bad/",
    "e-mail sent": "/accounts/confirm-email/",
    "bad e-mail link": "/accounts/confirm-email/bad/",
    "404": "/nowhere/",
    "invitation, signed out": "{invitation}",
    "invitation, not valid": "/invitations/nonsense/",
}
ADMINS = {
    "applications": "/orgs/acme/apps/",
    "applications, none found": "/orgs/acme/apps/?q=nothing",
    "new application": "/orgs/acme/new-application/",
    "executors": "/orgs/acme/apps/shop/",
    "executors, none": "/orgs/acme/apps/empty/",
    "connect": "/orgs/acme/apps/shop/connect/",
    "connect, waiting": "/orgs/acme/apps/empty/connect/?language=java",
    "ledger": "/orgs/acme/apps/shop/recoveries/",
    "ledger, empty": "/orgs/acme/apps/empty/recoveries/",
    "recovery, confirmed": "/orgs/acme/apps/shop/recoveries/{confirmed}/",
    "recovery, waiting": "/orgs/acme/apps/shop/recoveries/{waiting}/",
    "workflows": "/orgs/acme/apps/shop/workflows/",
    "workflows, none found": "/orgs/acme/apps/shop/workflows/?name=nothing",
    "workflows, bad filter": "/orgs/acme/apps/shop/workflows/?created_from=x",
    "workflows, empty": "/orgs/acme/apps/empty/workflows/",
    "workflow, failed": "/orgs/acme/apps/shop/workflows/{bad}/",
    "workflow, running": "/orgs/acme/apps/shop/workflows/{order}/",
    "cancelling a workflow": "/orgs/acme/apps/shop/workflows/{order}/cancel/",
    "forking a workflow": "/orgs/acme/apps/shop/workflows/{bad}/fork/",
    "deleting a workflow": "/orgs/acme/apps/shop/workflows/{bad}/delete/",
    "settings": "/orgs/acme/apps/shop/settings/",
    "keys": "/orgs/acme/keys/",
    "new key": "/orgs/acme/keys/new/",
    "members": "/orgs/acme/members/",
    "invitation": "{invitation}",
    "audit log": "/orgs/acme/audit/",
    "rejected connections": "/orgs/acme/rejected/",
    "new organization": "/new-organization/",
    "e-mail addresses": "/accounts/email/",
    "password": "/accounts/password/change/",
    "two-factor": "/accounts/2fa/",
    "activate two-factor": "/accounts/2fa/totp/activate/",
    "devices, none": "/devices/",
    "code of a program": "/device/",
    "code of a program, wrong": "/device/?code=wrong",
    "sign in again": "/accounts/reauthenticate/",
    "sign out": "/accounts/logout/",
}
READERS = {
    "executors, read-only": "/orgs/acme/apps/shop/",
    "workflow, read-only": "/orgs/acme/apps/shop/workflows/{bad}/",
    "invitation, a member already": "{invitation}",
    "keys, read-only": "/orgs/acme/keys/",
    "members, read-only": "/orgs/acme/members/",
}
REFUSED = {
    ("stranger", STRANGERS["404"]): 404,
    ("stranger", STRANGERS["invitation, not valid"]): 404,
    ("admin", ADMINS["workflows, bad filter"]): 422,
    ("admin", ADMINS["code of a program, wrong"]): 422,
}
PAGES = [
    pytest.param(who, path, id=name)
    for who, paths in (
        ("stranger", STRANGERS),
        ("admin", ADMINS),
        ("reader", READERS),
    )
    for name, path in paths.items()
]


@pytest.mark.parametrize(("who", "path"), PAGES)
def test_page_is_accessible_and_fits(world: World, who: str, path: str) -> None:
    context: BrowserContext = getattr(world, who)
    page = context.pages[0] if context.pages else context.new_page()
    answer = page.goto(path.format(**world.names))
    assert answer is not None
    assert answer.status == REFUSED.get((who, path), 200)
    look_at(page)


@pytest.mark.parametrize("status", [403, 500])
def test_page_of_an_error_is_accessible_and_fits(world: World, status: int) -> None:
    request = RequestFactory().get("/")
    answer = error_403(request, Exception()) if status == 403 else error_500(request)
    body = answer.text
    page = world.stranger.new_page()
    page.route("**/broken/", lambda route: route.fulfill(status=status, body=body))
    page.goto("/broken/")
    look_at(page)


def test_document_of_the_api_is_accessible_and_fits(world: World) -> None:
    page = world.stranger.new_page()
    said: list[str] = []
    # A content security policy that its viewer broke would stand in the console.
    page.on("console", lambda message: said.append(message.text))
    page.goto("/docs")
    operations = page.locator(".opblock-summary-control")
    operations.get_by_text("getApp").click()
    page.get_by_text("x-permission").first.wait_for()

    # The viewer's rows are buttons around a link to themselves.
    look_at(page, but="nested-interactive")
    assert said == []
    page.close()


def look_at(page: Page, *, but: str = "") -> None:
    """Check what stands there now."""
    assert page.title() not in ("", "Conductor · Conductor")
    assert page.get_by_role("heading", level=1).count() == 1
    problems = []
    page.evaluate(Axe().axe_script)
    for theme, size in (("light", WIDE), ("dark", NARROW)):
        # Colours that still change are measured half-way.
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for violation in page.evaluate(AXE):
            if violation["id"] == but:
                continue
            nodes = [(n["html"][:200], n["failureSummary"]) for n in violation["nodes"]]
            problems.append((theme, violation["id"], nodes[:3]))
        wider = page.evaluate(
            "document.documentElement.scrollWidth"
            " - document.documentElement.clientWidth"
        )
        if wider > 0:
            problems.append((theme, f"{wider} px wider than the window", []))
    assert not problems, json.dumps(problems, indent=1)
