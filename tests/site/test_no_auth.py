"""`CONDUCTOR_AUTH=none`: no accounts and no keys, for one machine only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.world import Embedded


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDUCTOR_AUTH", "none")
        running = Embedded(tmp_path_factory.mktemp("none"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def browser(conductor: Embedded) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=conductor.urls[0], follow_redirects=True) as client:
        client.get("/orgs/local/new-application/")
        form = {
            "name": "orders",
            "csrfmiddlewaretoken": client.cookies["conductor_csrf"],
        }
        page = client.post("/orgs/local/new-application/", data=form)
        assert page.status_code == 200, page.text
        yield client


def test_everybody_is_the_local_user(browser: httpx.Client) -> None:
    page = browser.get("/")

    assert page.url.path == "/orgs/local/apps/"
    assert "orders" in page.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/accounts/login/", 404),
        ("/accounts/signup/", 404),
        ("/accounts/password/set/", 404),
        ("/.well-known/openid-configuration", 404),
        ("/.well-known/jwks.json", 404),
        ("/identity/token", 404),
        ("/device/", 404),
        ("/devices/", 404),
        ("/new-organization/", 404),
        ("/orgs/acme/apps/", 404),
        ("/admin/", 403),
    ],
)
def test_no_accounts_and_no_other_organization(
    browser: httpx.Client, path: str, status: int
) -> None:
    assert browser.get(path).status_code == status


def shake_hands(
    conductor: Embedded, application: str, origin: str | None = None
) -> ClientConnection:
    url = conductor.urls[0].replace("http", "ws", 1)
    return connect(
        f"{url}/websocket/{application}/any-key",
        proxy=None,
        origin=cast("Any", origin),
    )


def test_any_key_connects_an_executor(
    conductor: Embedded, browser: httpx.Client
) -> None:
    with shake_hands(conductor, "orders") as socket:
        assert json.loads(socket.recv(timeout=10))["type"] == "executor_info"


@pytest.mark.parametrize(
    ("application", "origin", "status"),
    [("unknown", None, 404), ("orders", "https://evil.example", 403)],
)
def test_who_is_refused_all_the_same(
    conductor: Embedded,
    browser: httpx.Client,
    application: str,
    origin: str | None,
    status: int,
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        shake_hands(conductor, application, origin)

    assert refused.value.response.status_code == status


@pytest.mark.parametrize("name", ["a/b", "a%2Fb", "50% off?", "#1", "ünï 🙂", "..."])
def test_key_of_any_name_is_kept(browser: httpx.Client, name: str) -> None:
    path = f"/v2/orgs/local/tokens/{quote(name, safe='')}"

    made = browser.post(path)

    assert (made.status_code, made.json()["tokenName"]) == (201, name)
    listed = browser.get("/v2/orgs/local/tokens").json()
    assert name in [key["tokenName"] for key in listed]
    assert browser.patch(path, json={"newName": f"{name}/2"}).status_code == 204
    assert browser.delete(path).status_code == 404
    assert browser.delete(f"{path}%2F2").status_code == 204


def test_name_that_is_no_text_is_not_found(browser: httpx.Client) -> None:
    assert browser.post("/v2/orgs/local/tokens/%FF").status_code == 404
