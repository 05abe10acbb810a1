"""API keys over the HTTP API, which calls them tokens."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import ApiKey, AuditEntry, Organization, Permission, Role
from tests.api import Api, make_key
from tests.registry.conftest import As
from tests.registry.races import at_once, ensure_roles, race
from tests.world import World

NAMES = (
    "plain",
    " with spaces ",
    "what?",
    "#1",
    "100%",
    "100%25",
    "ünï ☃ 🙂",
    "..",
    "x" * 100,
    "'; drop table",
)


@pytest.fixture
def carol(signed_in: As, world: World) -> Api:
    """A plain member, who may make keys."""
    return signed_in("carol")


def token(name: str) -> str:
    return f"/tokens/{quote(name, safe='')}"


def named(name: str) -> ApiKey:
    return ApiKey.objects.get(name=name, revoked_at=None)


def last_entry() -> tuple[str, str, str, str, dict[str, Any]]:
    entry = AuditEntry.objects.latest("pk")
    return (
        entry.operation,
        entry.outcome,
        entry.target_type,
        entry.target_id,
        entry.details,
    )


# --- Making ---


@pytest.mark.parametrize("body", [None, {}, {"permissions": None, "appNames": None}])
def test_key_that_is_told_nothing_may_only_connect(carol: Api, body: Any) -> None:
    answer = carol.send("POST", "/tokens/first", body)

    assert answer.status_code == 201
    made = answer.json()
    assert made.keys() == {"token", "tokenName"}
    assert made["tokenName"] == "first"
    assert made["token"].startswith("dbos_")
    key = named("first")
    assert key.permissions == ["websocket.connect"]
    assert key.all_applications
    assert last_entry() == (
        "token.create",
        "success",
        "token",
        "first",
        {"permissions": ["websocket.connect"], "applications": []},
    )


def test_made_key_opens_what_it_is_for(carol: Api) -> None:
    body = {"permissions": ["application.read"], "appNames": ["orders"]}

    made = carol.send("POST", "/tokens/reader", body).json()

    services.create_application(
        actor=system_actor(Organization.objects.get(name="acme")), name="billing"
    )
    reader = Api(made["token"])
    assert [app["name"] for app in reader.get("/apps")] == ["orders"]
    assert reader.status("GET", "/apps/billing") == 403
    assert reader.status("DELETE", "/apps/orders") == 403
    assert made["token"] not in str(list(AuditEntry.objects.values()))


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_made_told_renamed_and_deleted(carol: Api, name: str) -> None:
    assert carol.send("POST", token(name)).json()["tokenName"] == name

    assert name in [one["tokenName"] for one in carol.get("/tokens")]
    assert carol.status("PATCH", token(name), {"newName": "new"}) == 204
    assert carol.status("PATCH", token("new"), {"newName": name}) == 204
    assert carol.status("DELETE", token(name)) == 204
    assert carol.status("DELETE", token(name)) == 404


@pytest.mark.parametrize("name", ["a%00b", "x" * 101])
def test_what_no_key_is_called(carol: Api, name: str) -> None:
    assert carol.status("POST", f"/tokens/{name}") in (404, 422)


@pytest.mark.parametrize(
    ("body", "status", "location"),
    [
        ({"permissions": ["everything"]}, 400, "body.permissions"),
        ({"permissions": ["token.write"]}, 400, "body.permissions"),
        ({"permissions": []}, 400, "body.permissions"),
        ({"appNames": []}, 400, "body.appNames"),
        ({"appNames": ["orders", "no-such"]}, 404, "body.appNames"),
        ({"appNames": ["orders", "orders"]}, 422, "body.appNames"),
        ({"appNames": ["or\0ders"]}, 422, "body.appNames[0]"),
        ({"appNames": "orders"}, 422, "body.appNames"),
        ({"appNames": [f"a{n}" for n in range(1001)]}, 422, "body.appNames"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, 400, "body.expiresAt"),
        ({"expiresAt": "2050-01-01T00:00:00"}, 422, "body.expiresAt"),
        ({"expiresAt": "tomorrow"}, 422, "body.expiresAt"),
        ({"secret": "mine"}, 422, "body.secret"),
    ],
)
def test_what_no_key_can_be(carol: Api, body: Any, status: int, location: str) -> None:
    answer = carol.send("POST", "/tokens/wrong", body)

    assert answer.status_code == status
    assert answer.json()["errors"][0]["location"] == location
    assert not ApiKey.objects.filter(name="wrong").exists()


def test_key_holds_no_more_than_who_makes_it(carol: Api) -> None:
    body = {"permissions": ["organization.write"]}

    assert carol.status("POST", "/tokens/more", body) == 403

    operation, outcome, _, target, details = last_entry()
    assert (operation, outcome, target) == ("token.create", "denied", "more")
    assert details["permissions"] == ["organization.write"]


def test_key_may_expire(carol: Api) -> None:
    expires_at = timezone.now() + timedelta(days=1)

    made = carol.send("POST", "/tokens/short", {"expiresAt": expires_at.isoformat()})

    (told,) = [one for one in carol.get("/tokens") if one["tokenName"] == "short"]
    assert told["expiresAt"] == expires_at.isoformat().replace("+00:00", "Z")
    key = Api(made.json()["token"])
    assert key.status("GET", "/permissions") == 200
    ApiKey.objects.filter(name="short").update(expires_at=timezone.now())
    assert key.status("GET", "/permissions") == 401


def test_name_of_a_living_key_is_taken(carol: Api) -> None:
    answer = carol.send("POST", "/tokens/k1")

    assert answer.status_code == 409
    assert last_entry()[:4] == ("token.create", "failure", "token", "k1")


def test_name_of_a_deleted_key_is_free(carol: Api, signed_in: As) -> None:
    first = carol.send("POST", "/tokens/ci").json()["token"]
    carol.send("DELETE", "/tokens/ci")

    second = carol.send("POST", "/tokens/ci").json()["token"]

    assert Api(first).status("GET", "/permissions") == 401
    assert Api(second).status("GET", "/permissions") == 200
    assert [key["tokenName"] for key in carol.get("/tokens")] == ["ci", "k1"]
    # Both are in the history, told apart by their prefix.
    assert ApiKey.objects.filter(name="ci").count() == 2


@race
def test_name_is_taken_by_one_of_two_at_once() -> None:
    ensure_roles()
    owner = User.objects.create_user("owner")
    actor = system_actor(services.create_organization(user=owner, name="acme"))
    for number in range(5):
        make = partial(services.create_api_key, actor=actor, name=f"k{number}")
        assert at_once(make, make) == 1


# --- Telling ---


def test_keys_are_told_without_secrets(
    carol: Api, world: World, django_assert_max_num_queries: Any
) -> None:
    for n in range(5):
        carol.send("POST", f"/tokens/k{n + 2}", {"appNames": ["orders"]})
    carol.get("/tokens")

    # The person, their membership, the keys, and their applications.
    with django_assert_max_num_queries(4):
        told = carol.get("/tokens")

    key = named("k2")
    assert told[0].keys() == {"tokenName", "createdAt", "permissions", "appIds"}
    assert told[1] == {
        "tokenName": "k2",
        "createdAt": key.created_at.isoformat().replace("+00:00", "Z"),
        "permissions": ["websocket.connect"],
        "appIds": [str(world.application.pk)],
    }
    assert key.secret_hash not in str(told)


# --- Renaming and deleting ---


def test_renamed_key_keeps_its_secret(carol: Api) -> None:
    secret = carol.send("POST", "/tokens/old").json()["token"]

    assert carol.status("PATCH", "/tokens/old", {"newName": "new"}) == 204

    assert last_entry() == (
        "token.rename",
        "success",
        "token",
        "old",
        {"new_name": "new"},
    )
    assert Api(secret).status("GET", "/permissions") == 200
    assert carol.status("PATCH", "/tokens/old", {"newName": "newer"}) == 404


def test_key_is_not_renamed_to_a_name_that_is_taken(carol: Api) -> None:
    carol.send("POST", "/tokens/k2")

    answer = carol.send("PATCH", "/tokens/k2", {"newName": "k1"})

    assert answer.status_code == 409
    assert answer.json()["errors"][0]["location"] == "body.newName"


@pytest.mark.parametrize(
    "body", [None, {}, {"newName": ""}, {"newName": "x" * 101}, {"newName": "a\0"}]
)
def test_what_no_key_is_renamed_to(carol: Api, body: Any) -> None:
    assert carol.status("PATCH", "/tokens/k1", body) == 422


def test_deleted_key_opens_nothing_and_is_recorded(carol: Api) -> None:
    secret = carol.send("POST", "/tokens/gone").json()["token"]

    assert carol.status("DELETE", "/tokens/gone") == 204

    assert last_entry()[:4] == ("token.revoke", "success", "token", "gone")
    assert Api(secret).status("GET", "/permissions") == 401


# --- Who may ---


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/tokens/more", None),
        ("PATCH", "/tokens/k1", {"newName": "k9"}),
        ("DELETE", "/tokens/k1", None),
    ],
)
def test_keys_are_made_and_ended_by_who_may(
    signed_in: As, world: World, method: str, path: str, body: Any
) -> None:
    every = [p for p in Permission if p != Permission.TOKEN_WRITE]
    role = Role.objects.create(
        organization=world.acme, name="all_but_one", permissions=every
    )
    world.acme.memberships.filter(user=world.users["zoe"]).update(role=role)
    before = list(ApiKey.objects.order_by("pk").values("name", "revoked_at"))

    assert signed_in("zoe").status(method, path, body) == 403
    assert last_entry()[1] == "denied"
    assert signed_in("mallory").status(method, path, body) == 404
    assert Api("").status(method, path, body) == 401
    assert list(ApiKey.objects.order_by("pk").values("name", "revoked_at")) == before

    # No key may hold token.write, so none makes another.
    key = Api(make_key(*every))
    assert key.status(method, path, body) == 403


def test_keys_are_told_to_who_may_read_them(world: World) -> None:
    others = [
        p
        for p in Permission
        if p not in (Permission.TOKEN_READ, Permission.TOKEN_WRITE)
    ]

    assert Api(make_key(*others)).status("GET", "/tokens") == 403
    assert Api(make_key(Permission.TOKEN_READ)).status("GET", "/tokens") == 200


def test_keys_are_kept_where_nobody_signs_in(db: None, settings: Any) -> None:
    settings.CONDUCTOR_AUTH = "none"
    local = Api("", "/v2/orgs/local")

    made = local.send("POST", "/tokens/k1", {"permissions": ["application.read"]})

    assert made.json()["token"].startswith("dbos_")
    assert [key["tokenName"] for key in local.get("/tokens")] == ["k1"]
    assert local.status("POST", "/tokens/k2", {"permissions": ["nonsense"]}) == 400
    assert local.status("DELETE", "/tokens/k1") == 204
