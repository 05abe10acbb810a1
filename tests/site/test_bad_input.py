"""Whatever is typed into an address or a form: an answer, never an error of ours."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from django.db import transaction

from apps.executors import gateway
from tests.architecture.test_access_matrix import (
    ACCOUNTS,
    ADMIN_SITE,
    CONSOLE,
    ROUTES,
    Row,
    _pk,
)
from tests.world import World, answer, make_world

NASTY = (
    "a\0b",
    "x" * 20_000,
    "💥\u202e\N{COMBINING ACUTE ACCENT}" * 90,
    "%' OR 1=1 --",
    "-1",
    "9" * 30,
    "1e309",
    "٣",
    "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59-23:59,1",
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00+23:59,1",
    "2026-02-30T00:00:00Z,1",
)
# Bytes that no text has; a lone surrogate among them.
UNDECODABLE = ("%ff", "%ed%a0%80", "%zz&=&;")
# Every name that a page reads from its query, and those of the admin's lists.
QUERY = (
    *("q", "cursor", "state", "version", "language", "before", "offset", "status"),
    *("name", "id_prefix", "created_from", "created_to", "next", "p", "o", "e", "all"),
    *("id__exact", "_to_field", "_popup", "organization__name"),
)
# Every name that a form of ours sends.
FIELDS = (
    *("name", "private_mode", "executor_timeout_secs", "confirm", "permissions"),
    *("applications", "expires", "email", "role", "children", "start_step"),
    *("application_version", "login", "password", "password1", "password2", "code"),
    *("oldpassword", "remember", "action_add", "next", "action", "_selected_action"),
)

LISTS = [row for row in ADMIN_SITE if row.route.endswith("_changelist")]
DETAILS = [row for row in ADMIN_SITE if row.route.endswith("_change")]
PAGES = [row for row in (*CONSOLE, *ACCOUNTS) if row.method == "GET"] + LISTS
FORMS = [row for row in CONSOLE if row.method == "POST"] + list(ACCOUNTS)
PATHS = [row for row in (*CONSOLE, *DETAILS) if ROUTES[row.route]]


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(gateway, "answer", lambda _, request, **__: answer(request))
    return make_world()


def _who(row: Row) -> str:
    return "sam" if row.route.startswith("admin") else "alice"


def _values(row: Row) -> tuple[str, ...]:
    """All for the pages that are ours, some for those of libraries."""
    return NASTY if row in CONSOLE else NASTY[:4]


@pytest.mark.parametrize("row", PAGES, ids=str)
def test_nasty_queries(world: World, row: Row) -> None:
    client = world.client(_who(row))
    queries = [*map(quote, _values(row)), *UNDECODABLE]

    for value in queries:
        query = "&".join(f"{name}={value}" for name in QUERY)
        status = client.get(f"{row.url(world)}?{query}").status_code
        assert status < 500, (value, status)


@pytest.mark.parametrize("row", DETAILS[:3], ids=str)
def test_nasty_queries_of_a_detail(world: World, row: Row) -> None:
    for value in ("", "a%00b", "%ff", "💥"):
        url = f"{row.url(world)}?_to_field={value}&_popup={value}"
        assert world.client("sam").get(url).status_code < 500, value


@pytest.mark.parametrize("row", FORMS, ids=str)
def test_nasty_forms(world: World, row: Row) -> None:
    client = world.client(_who(row))

    for value in _values(row):
        # Every field at once, and one at a time: the first refusal hides the others.
        for data in (
            dict.fromkeys(FIELDS, value),
            *(row.fields(world) | {name: value} for name in row.data),
        ):
            with transaction.atomic():
                status = client.post(row.url(world), data).status_code
                transaction.set_rollback(True)
            assert status < 500, (value, data, status)


@pytest.mark.parametrize("row", PATHS, ids=str)
def test_nasty_ids(world: World, row: Row) -> None:
    client = world.client(_who(row))
    usual: dict[str, Any] = {"org": "acme", "app": "orders", "workflow_id": "w1"}
    if row.of:
        usual["pk"] = usual["object_id"] = _pk(world, row.of)

    for value in (*map(quote, NASTY[:6]), *UNDECODABLE[:2], "~00", "~ed~a0~80"):
        for name in ROUTES[row.route]:
            path = row.url(world)
            known = quote(str(usual.get(name, "1")), safe="")
            path = path.replace(f"/{known}/", f"/{value}/", 1)
            status = client.generic(row.method, path).status_code
            assert status < 500, (path[:200], status)


def test_nul_in_a_cookie(world: World) -> None:
    client = world.client(None)

    response = client.get(
        "/orgs/", headers={"cookie": r'conductor_session="abcdefgh\000"'}
    )

    assert response.status_code == 400
    assert b"cannot be understood" in response.content


def test_unknown_host(world: World) -> None:
    response = world.client(None).get("/", headers={"host": "evil.example"})

    assert response.status_code == 400
    assert b"evil" not in response.content


def test_body_that_is_no_form(world: World) -> None:
    client = world.client("alice")

    for kind in (
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "text/plain; charset=nonsense",
    ):
        response = client.generic(
            "POST",
            "/orgs/acme/new-application/",
            b'{"name": "\xff\0',
            content_type=kind,
        )
        assert response.status_code in (200, 400, 422), kind
