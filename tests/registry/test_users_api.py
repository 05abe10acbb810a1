"""People over the HTTP API: registering, joining, and who one is."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth.models import User

from apps.registry import services
from apps.registry.auth import ALL_PERMISSIONS, system_actor
from apps.registry.models import (
    AuditEntry,
    DomainClaim,
    Invitation,
    Membership,
    Profile,
    Role,
)
from tests.api import Api, make_key
from tests.registry.conftest import As
from tests.registry.races import at_once, ensure_roles, race
from tests.world import INVITATION, World

NAMES = {
    "name": "grace_h",
    "givenName": "Grace",
    "familyName": "Hopper",
    "company": "Navy",
}


@pytest.fixture
def grace(world: World) -> User:
    """Has an account and a verified address, and is no member of anything."""
    user = User.objects.create_user("grace", "grace@Navy.example")
    EmailAddress.objects.create(
        user=user, email="grace@Navy.example", primary=True, verified=True
    )
    return user


@pytest.fixture
def users(signed_in: As, grace: User) -> Api:
    """Calls of grace."""
    return signed_in("grace", "/v2/users")


def claim(world: World, domain: str, status: str = "approved") -> None:
    DomainClaim.objects.create(organization=world.acme, domain=domain, status=status)


def homes(username: str) -> dict[str, str]:
    """Return the organizations of a person, with their role there."""
    found = Membership.objects.filter(user__username=username)
    return dict(found.values_list("organization__name", "role__name"))


def last_entry() -> tuple[str, str, str, dict[str, Any]]:
    entry = AuditEntry.objects.latest("pk")
    return entry.operation, entry.outcome, entry.subject_display, entry.details


# --- Who one is ---


def test_person_is_told_whole(signed_in: As, world: World) -> None:
    alice = world.users["alice"]

    told = signed_in("alice", "/v2/users").get("/me")

    created_at = told.pop("createdAt")
    assert created_at == alice.date_joined.isoformat().replace("+00:00", "Z")
    role = told.pop("role")
    assert (role["name"], role["isGlobal"]) == ("organization_admin", True)
    assert set(role["permissions"]) == ALL_PERMISSIONS
    assert told == {
        "name": "alice",
        "email": "alice@example.com",
        "orgId": str(world.acme.pk),
        "orgName": "acme",
        "subscriptionPlan": "team",
    }


def test_staff_are_told_to_be_admins_of_conductor(signed_in: As, world: World) -> None:
    services.create_organization(user=world.users["sam"], name="staff")

    assert signed_in("sam", "/v2/users").get("/me")["isDbosAdmin"] is True


def test_organization_joined_last_is_home(signed_in: As, world: World) -> None:
    signed_in("mallory").send("POST", "/join", {"secret": INVITATION})

    told = signed_in("mallory", "/v2/users").get("/me")

    assert (told["orgName"], told["role"]["name"]) == ("acme", "viewer")


def test_person_without_an_organization_is_not_found(users: Api) -> None:
    answer = users.send("GET", "/me")

    assert answer.status_code == 404
    assert "register" in answer.json()["detail"]


def test_key_is_nobody(world: World) -> None:
    secret = make_key("organization.read", "organization.write")

    for method, path, body in (
        ("GET", "/v2/users/me", None),
        ("POST", "/v2/users", {"name": "a_key"}),
        ("POST", "/v2/orgs/acme/join", {"secret": INVITATION}),
    ):
        answer = Api(secret, "").send(method, path, body)
        assert answer.status_code == 403
        assert "API key" in answer.json()["detail"]


# --- Registering ---


def test_who_registers_is_admin_of_an_own_organization(users: Api, grace: User) -> None:
    answer = users.send("POST", "", NAMES)

    assert answer.status_code == 201
    assert answer.json() == {"id": str(grace.pk)}
    assert homes("grace_h") == {"grace_h": Role.ADMIN}
    grace.refresh_from_db()
    assert (grace.first_name, grace.last_name) == ("Grace", "Hopper")
    assert Profile.objects.get(user=grace).company == "Navy"
    operation, outcome, subject, _ = last_entry()
    assert (operation, outcome) == ("organization.create", "success")
    assert subject == "grace@navy.example"


def test_only_the_name_is_needed(users: Api) -> None:
    assert users.status("POST", "", {"name": "grace"}) == 201


def test_name_of_an_organization_is_varied_where_it_is_taken(users: Api) -> None:
    users.send("POST", "", {"name": "acme"})

    (name,) = homes("acme")
    assert name.startswith("acme_")


def test_secret_joins_in_place_of_founding(users: Api) -> None:
    assert users.status("POST", "", {**NAMES, "secret": INVITATION}) == 201

    assert homes("grace_h") == {"acme": "viewer"}
    assert last_entry() == (
        "user.join",
        "success",
        "grace@navy.example",
        {"role_name": "viewer"},
    )


def test_secret_that_opens_nothing_registers_nobody(users: Api) -> None:
    assert users.status("POST", "", {**NAMES, "secret": "no such secret"}) == 404

    assert homes("grace_h") == {}
    assert users.status("POST", "", NAMES) == 201


def test_invitation_of_another_address_is_refused_and_recorded(users: Api) -> None:
    Invitation.objects.update(email="ada@example.com")

    assert users.status("POST", "", {**NAMES, "secret": INVITATION}) == 403

    assert last_entry()[:3] == ("user.join", "denied", "grace@navy.example")
    assert homes("grace_h") == {}


def test_claimed_domain_is_joined(users: Api, world: World) -> None:
    claim(world, "navy.example")

    assert users.status("POST", "", NAMES) == 201

    assert homes("grace_h") == {"acme": Role.MEMBER}
    assert last_entry()[3] == {
        "role_name": "organization_member",
        "domain": "navy.example",
    }


@pytest.mark.parametrize(
    ("domain", "status", "is_verified"),
    [
        ("navy.example", "pending", True),
        ("navy.example", "denied", True),
        ("navy.example", "approved", False),
        ("example", "approved", True),
        ("sea.navy.example", "approved", True),
        ("old-navy.example", "approved", True),
    ],
)
def test_domain_joins_only_what_is_claimed_and_verified(
    users: Api, world: World, domain: str, status: str, is_verified: bool
) -> None:
    claim(world, domain, status)
    EmailAddress.objects.filter(user__username="grace").update(verified=is_verified)

    assert users.status("POST", "", NAMES) == 201

    assert homes("grace_h") == {"grace_h": Role.ADMIN}


def test_member_cannot_register_again(signed_in: As, world: World) -> None:
    alice = signed_in("alice", "/v2/users")

    assert alice.status("POST", "", {"name": "alice2"}) == 409

    assert User.objects.filter(username="alice").exists()


def test_taken_name_is_refused(users: Api) -> None:
    answer = users.send("POST", "", {"name": "alice"})

    assert answer.status_code == 409
    assert answer.json()["errors"][0]["location"] == "body.name"
    assert homes("grace") == {}


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "body.name"),
        ({"name": "ab"}, "body.name"),
        ({"name": "Grace"}, "body.name"),
        ({"name": "grace\n"}, "body.name"),
        ({"name": "x" * 31}, "body.name"),
        ({"name": "grace", "company": "a\0b"}, "body.company"),
        ({"name": "grace", "givenName": "x" * 151}, "body.givenName"),
        ({"name": "grace", "secret": 7}, "body.secret"),
        ({"name": "grace", "role": "admin"}, "body.role"),
    ],
)
def test_what_cannot_be_registered(users: Api, body: Any, location: str) -> None:
    answer = users.send("POST", "", body)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["location"] == location


@race
def test_who_registers_twice_at_once_gets_one_organization() -> None:
    ensure_roles()
    for number in range(5):
        user = User.objects.create_user(f"grace{number}")
        register = partial(services.register_user, user=user, name=f"grace{number}")

        assert at_once(register, register) == 1
        assert user.memberships.count() == 1


# --- Joining ---


def test_secret_is_made_and_joins_once(signed_in: As, world: World) -> None:
    made = signed_in("alice").send("POST", "/secrets")
    assert made.status_code == 201
    body = made.json()
    assert body.keys() == {"secret"}
    assert body["secret"] not in str(list(AuditEntry.objects.values()))

    mallory = signed_in("mallory")
    assert mallory.status("POST", "/join", body) == 204

    assert homes("mallory") == {"other": Role.ADMIN, "acme": Role.MEMBER}
    assert signed_in("sam").status("POST", "/join", body) == 404


def test_secret_joins_its_own_organization_only(signed_in: As, world: World) -> None:
    sam = signed_in("sam", "/v2/orgs")
    answers = [
        sam.send("POST", f"/{name}/join", {"secret": secret}).json()
        for name, secret in (
            ("other", INVITATION),
            ("no_such", INVITATION),
            ("acme", "no such secret"),
        )
    ]

    # Nothing tells which of them exist.
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["status"] == 404
    assert homes("sam") == {}


def test_member_does_not_use_a_secret_up(signed_in: As, world: World) -> None:
    body = {"secret": INVITATION}

    assert signed_in("carol").status("POST", "/join", body) == 409
    assert signed_in("mallory").status("POST", "/join", body) == 204


@pytest.mark.parametrize("body", [None, {}, {"secret": None}, {"secret": "a\0"}])
def test_joining_needs_a_secret(signed_in: As, world: World, body: Any) -> None:
    assert signed_in("mallory").status("POST", "/join", body) == 422


@race
def test_secret_is_used_once_by_two_at_once() -> None:
    ensure_roles()
    owner = User.objects.create_user("owner")
    acme = services.create_organization(user=owner, name="acme")
    for number in range(5):
        one, two = (User.objects.create_user(f"u{number}{n}") for n in "ab")
        _, secret = services.invite_member(
            actor=system_actor(acme), role=services.builtin_role(Role.MEMBER)
        )
        join = partial(services.accept_invitation, secret=secret)

        assert at_once(partial(join, user=one), partial(join, user=two)) == 1
        assert acme.memberships.filter(user__in=[one, two]).count() == 1
