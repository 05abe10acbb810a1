"""Organizations, members, roles and domain claims over the HTTP API."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth.models import User

from apps.registry import auth, services
from apps.registry.auth import system_actor
from apps.registry.models import (
    AuditEntry,
    DomainClaim,
    Invitation,
    Membership,
    Organization,
    Permission,
    Profile,
    Role,
)
from tests.api import Api, make_key
from tests.registry.conftest import As
from tests.registry.races import at_once, ensure_roles, race
from tests.world import READ_ONLY, World

READ, WRITE = Permission.ORGANIZATION_READ, Permission.ORGANIZATION_WRITE


@pytest.fixture
def alice(signed_in: As, world: World) -> Api:
    return signed_in("alice")


def last_entry() -> tuple[str, str, str, str, dict[str, Any]]:
    entry = AuditEntry.objects.latest("pk")
    return (
        entry.operation,
        entry.outcome,
        entry.target_type,
        entry.target_id,
        entry.details,
    )


# --- Who may ---

CALLS: tuple[tuple[str, str, Any, str], ...] = (
    ("GET", "", None, READ),
    ("PATCH", "", {"auditLogRetentionDays": 30}, WRITE),
    ("GET", "/members", None, READ),
    ("DELETE", "/members/bob", None, WRITE),
    ("PUT", "/members/bob/roles/nothing", None, WRITE),
    ("GET", "/roles", None, READ),
    ("POST", "/roles", {"name": "auditor"}, WRITE),
    ("DELETE", "/roles/unused", None, WRITE),
    ("GET", "/domain-claims", None, READ),
    ("POST", "/domain-claims", {"domain": "corp.example"}, WRITE),
    ("DELETE", "/domain-claims/acme.example", None, WRITE),
)


@pytest.mark.parametrize(("method", "path", "body", "permission"), CALLS)
def test_call_needs_exactly_one_permission(
    world: World, method: str, path: str, body: Any, permission: str
) -> None:
    others = [p for p in Permission if p not in (permission, Permission.TOKEN_WRITE)]
    without, having = Api(make_key(*others)), Api(make_key(permission))
    before = world.state()

    assert without.status(method, path, body) == 403

    assert world.state()["registry.Membership"] == before["registry.Membership"]
    if method != "GET":
        assert AuditEntry.objects.latest("pk").outcome == "denied"
    assert having.send(method, path, body).status_code in (200, 201, 204)
    if method != "GET":
        assert AuditEntry.objects.latest("pk").outcome == "success"


@pytest.mark.parametrize(("method", "path", "body", "permission"), CALLS)
def test_organization_of_others_is_not_there(
    signed_in: As, world: World, method: str, path: str, body: Any, permission: str
) -> None:
    mallory = signed_in("mallory")
    absent = signed_in("mallory", "/v2/orgs/no_such")

    answer = mallory.send(method, path, body)

    assert answer.status_code == 404
    assert answer.content == absent.send(method, path, body).content


def test_there_are_no_accounts_without_authentication(
    signed_in: As, world: World, settings: Any
) -> None:
    settings.CONDUCTOR_AUTH = "none"
    for method, path, body, _ in CALLS:
        assert signed_in("alice").status(method, path, body) == 404


# --- Organizations ---


def test_organization_is_told_whole(alice: Api, world: World) -> None:
    told = alice.get("")

    world.acme.refresh_from_db()
    created_at = world.acme.created_at.isoformat().replace("+00:00", "Z")
    assert told == {
        "id": str(world.acme.pk),
        "name": "acme",
        "createdAt": created_at,
        "subscriptionPlan": "team",
        "auditLogRetentionDays": 90,
        "maxApps": 2**31 - 1,
        "maxConductorApps": 2**31 - 1,
        "maxTeamMembers": 2**31 - 1,
        "maxVms": 2**31 - 1,
        "maxDatabaseInstances": 2**31 - 1,
        "defaultRdsInstanceClassType": "",
    }


def test_organization_is_renamed_and_keeps_its_audit_log_longer(
    alice: Api, signed_in: As
) -> None:
    body = {"newName": "acme_inc", "auditLogRetentionDays": 3650}
    assert alice.status("PATCH", "", body) == 204

    assert last_entry() == (
        "organization.update",
        "success",
        "organization",
        "acme",
        {"new_name": "acme_inc", "audit_log_retention_days": 3650},
    )
    assert alice.status("GET", "") == 404
    told = signed_in("alice", "/v2/orgs/acme_inc").get("")
    assert told["auditLogRetentionDays"] == 3650


def test_name_of_another_organization_is_refused(alice: Api) -> None:
    answer = alice.send("PATCH", "", {"newName": "other"})

    assert answer.status_code == 409
    assert answer.json()["errors"][0]["location"] == "body.newName"
    assert last_entry()[:2] == ("organization.update", "failure")


def test_nothing_given_changes_nothing(alice: Api) -> None:
    assert alice.status("PATCH", "", {}) == 204
    assert alice.get("")["name"] == "acme"


@pytest.mark.parametrize(
    "body",
    [
        None,
        {"newName": "no"},
        {"newName": "Acme"},
        {"newName": "acme\n"},
        {"auditLogRetentionDays": 6},
        {"auditLogRetentionDays": 3651},
        {"auditLogRetentionDays": 2**64},
        {"auditLogRetentionDays": "30"},
        {"auditLogRetentionDays": 30.5},
        {"plan": "team"},
    ],
)
def test_what_no_organization_can_be(alice: Api, body: Any) -> None:
    assert alice.status("PATCH", "", body) == 422


# --- Members ---


def test_members_are_told_with_their_role(alice: Api) -> None:
    told = alice.get("/members")

    assert told["orgName"] == "acme"
    roles = {name: role["name"] for name, role in told["users"].items()}
    assert roles == {
        "alice": "organization_admin",
        "bob": "viewer",
        "carol": "organization_member",
        "zoe": "nothing",
    }
    assert told["users"]["bob"] == {
        "name": "viewer",
        "isGlobal": False,
        "permissions": READ_ONLY,
    }


def test_removed_member_is_told_whole_and_is_out(
    alice: Api, signed_in: As, world: World
) -> None:
    bob = world.users["bob"]
    User.objects.filter(pk=bob.pk).update(first_name="Bob", last_name="Ross")
    Profile.objects.create(user=bob, company="Painting")

    answer = alice.send("DELETE", "/members/bob")

    assert answer.status_code == 200
    assert answer.json() == {
        "id": str(bob.pk),
        "name": "bob",
        "email": "bob@example.com",
        "givenName": "Bob",
        "familyName": "Ross",
        "company": "Painting",
        "orgId": str(world.acme.pk),
    }
    assert last_entry()[:4] == ("user.remove", "success", "user", "bob")
    assert signed_in("bob").status("GET", "") == 404


@pytest.mark.parametrize("username", ["mallory", "nobody"])
def test_who_is_no_member_cannot_be_removed(alice: Api, username: str) -> None:
    assert alice.status("DELETE", f"/members/{username}") == 404
    assert last_entry()[:2] == ("user.remove", "failure")


@pytest.mark.parametrize("username", ["BOB", "b%2Fb", "b%00b", "a%3Fb", "ab", "böb"])
def test_what_is_no_username_is_refused(alice: Api, username: str) -> None:
    assert alice.status("DELETE", f"/members/{username}") in (404, 422)


def test_role_replaces_the_one_before(alice: Api, world: World) -> None:
    assert alice.status("PUT", "/members/bob/roles/organization_admin") == 204

    assert world.membership("bob").role.name == Role.ADMIN
    assert last_entry() == (
        "role.grant",
        "success",
        "user",
        "bob",
        {"role_name": "organization_admin"},
    )


def test_last_admin_stays(alice: Api, world: World) -> None:
    # Who may govern, but not do everything, is no admin.
    governor = Role.objects.create(
        organization=world.acme, name="governor", permissions=[READ, WRITE]
    )
    Membership.objects.filter(user=world.users["bob"]).update(role=governor)

    assert alice.status("PUT", "/members/alice/roles/governor") == 409
    assert alice.status("DELETE", "/members/alice") == 409

    assert world.membership("alice").role.name == Role.ADMIN


def test_admin_who_cannot_sign_in_does_not_count(alice: Api, world: World) -> None:
    alice.send("PUT", "/members/bob/roles/organization_admin")
    User.objects.filter(username="bob").update(is_active=False)

    assert alice.status("DELETE", "/members/alice") == 409


def test_role_that_holds_more_cannot_be_granted(world: World) -> None:
    key = Api(make_key(READ, WRITE))

    assert key.status("PUT", "/members/zoe/roles/viewer") == 403
    assert key.status("POST", "/secrets") == 403
    assert key.status("PUT", "/members/bob/roles/nothing") == 204

    assert world.membership("zoe").role.name == "nothing"


def test_role_that_is_not_there_cannot_be_granted(alice: Api) -> None:
    other = Organization.objects.get(name="other")
    Role.objects.create(organization=other, name="foreign")

    assert alice.status("PUT", "/members/bob/roles/foreign") == 404
    assert alice.status("PUT", "/members/mallory/roles/viewer") == 404


# --- Roles ---


def test_roles_are_the_built_in_and_the_own(alice: Api) -> None:
    other = Organization.objects.get(name="other")
    Role.objects.create(organization=other, name="foreign")

    told = {role["name"]: role for role in alice.get("/roles")}

    assert {name: role["isGlobal"] for name, role in told.items()} == {
        "organization_admin": True,
        "organization_member": True,
        "viewer": False,
        "nothing": False,
        "unused": False,
    }
    assert told["nothing"]["permissions"] == []


def test_role_is_made_and_can_be_granted(alice: Api, signed_in: As) -> None:
    body = {"name": "Auditor", "permissions": [READ, READ, "token.write"]}

    answer = alice.send("POST", "/roles", body)

    assert answer.status_code == 201
    assert answer["Location"] == "/v2/orgs/acme/roles/Auditor"
    made = {"name": "Auditor", "permissions": [READ, "token.write"]}
    assert answer.json() == made
    assert last_entry() == (
        "role.create",
        "success",
        "role",
        "Auditor",
        {"permissions": [READ, "token.write"]},
    )
    assert alice.status("PUT", "/members/zoe/roles/Auditor") == 204
    assert signed_in("zoe").status("GET", "/members") == 200


@pytest.mark.parametrize("body", [{}, {"permissions": None}, {"permissions": []}])
def test_role_may_hold_nothing(alice: Api, body: Any) -> None:
    answer = alice.send("POST", "/roles", {"name": "guest", **body})

    assert answer.json() == {"name": "guest", "permissions": []}


@pytest.mark.parametrize("name", ["viewer", "organization_admin"])
def test_name_of_a_role_is_taken_once(alice: Api, name: str) -> None:
    answer = alice.send("POST", "/roles", {"name": name})

    assert answer.status_code == 409
    assert answer.json()["errors"][0]["location"] == "body.name"


def test_unknown_permission_is_named(alice: Api) -> None:
    body = {"name": "auditor", "permissions": [READ, "everything" * 100]}

    answer = alice.send("POST", "/roles", body)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["location"] == "body.permissions"
    assert "everything" in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 200


def test_what_one_does_not_hold_is_no_part_of_a_role(world: World) -> None:
    body = {"name": "auditor", "permissions": ["application.read"]}

    assert Api(make_key(WRITE)).status("POST", "/roles", body) == 403
    assert last_entry()[:2] == ("role.create", "denied")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "ab"},
        {"name": "x" * 31},
        {"name": "with space"},
        {"name": "auditor\n"},
        {"name": None},
        {"name": "auditor", "permissions": "application.read"},
        {"name": "auditor", "permissions": ["a\0"]},
        {"name": "auditor", "permissions": [None]},
        {"name": "auditor", "isGlobal": True},
    ],
)
def test_what_no_role_can_be(alice: Api, body: Any) -> None:
    assert alice.status("POST", "/roles", body) == 422


def test_unused_role_is_deleted(alice: Api, world: World) -> None:
    alice.send("PUT", "/members/zoe/roles/viewer")
    # Those that are over do not hold a role.
    Invitation.objects.create(
        organization=world.acme,
        role=Role.objects.get(name="nothing"),
        secret_hash="old",
        expires_at=world.invitation.expires_at,
        revoked_at=world.invitation.created_at,
    )

    assert alice.status("DELETE", "/roles/nothing") == 204

    assert last_entry()[:4] == ("role.delete", "success", "role", "nothing")
    assert alice.status("DELETE", "/roles/nothing") == 404


def test_role_in_use_stays(alice: Api, world: World) -> None:
    assert alice.status("DELETE", "/roles/viewer") == 409  # bob has it
    alice.send("DELETE", "/members/bob")
    assert alice.status("DELETE", "/roles/viewer") == 409  # an invitation gives it

    Invitation.objects.update(expires_at=world.invitation.created_at)
    assert alice.status("DELETE", "/roles/viewer") == 204


def test_built_in_role_stays(alice: Api) -> None:
    assert alice.status("DELETE", "/roles/organization_member") == 403
    assert Role.objects.filter(name="organization_member").exists()


@race
def test_role_is_not_deleted_while_it_is_given() -> None:
    ensure_roles()
    owner, guest = User.objects.create_user("owner"), User.objects.create_user("guest")
    acme = services.create_organization(user=owner, name="acme")
    actor = system_actor(acme)
    services.add_member(
        actor=actor, user=guest, role=services.builtin_role(Role.MEMBER)
    )
    for number in range(5):
        name = f"role{number}"
        role = services.create_role(actor=actor, name=name, permissions=[])

        give = partial(services.change_role, actor=actor, username="guest")

        assert (
            at_once(
                partial(give, role_name=name),
                partial(services.delete_role, actor=actor, name=name),
            )
            == 1
        )
        given = Membership.objects.get(user=guest).role_id == role.pk
        assert given is Role.objects.filter(pk=role.pk).exists()


# --- Domain claims ---


@pytest.fixture
def corp(world: World) -> None:
    """Alice has a verified address of corp.example."""
    EmailAddress.objects.create(
        user=world.users["alice"], email="Alice@Corp.example", verified=True
    )


def test_domain_of_a_verified_address_is_claimed_at_once(
    alice: Api, corp: None
) -> None:
    answer = alice.send("POST", "/domain-claims", {"domain": "CORP.Example"})

    assert answer.status_code == 201
    told = answer.json()
    assert told["decidedAt"] == told["requestedAt"]
    assert (told["domain"], told["status"]) == ("corp.example", "approved")
    assert (told["orgName"], told["requestedBy"]) == ("acme", "alice@example.com")
    assert "decidedBy" not in told
    assert told in alice.get("/domain-claims")["claims"]
    assert last_entry() == (
        "domain_claim.create",
        "success",
        "domain_claim",
        "corp.example",
        {"status": "approved"},
    )


def test_other_domain_waits_for_staff(alice: Api, corp: None) -> None:
    answer = alice.send("POST", "/domain-claims", {"domain": "sub.corp.example"})

    assert answer.json()["status"] == "pending"
    assert "decidedAt" not in answer.json()


def test_every_domain_waits_where_staff_is_to_decide(
    alice: Api, corp: None, settings: Any
) -> None:
    settings.CONDUCTOR_DOMAIN_CLAIMS = "staff"

    answer = alice.send("POST", "/domain-claims", {"domain": "corp.example"})

    assert answer.json()["status"] == "pending"


def test_address_that_is_not_verified_proves_nothing(alice: Api, corp: None) -> None:
    EmailAddress.objects.update(verified=False)

    answer = alice.send("POST", "/domain-claims", {"domain": "corp.example"})

    assert answer.json()["status"] == "pending"


def test_key_proves_nothing(world: World, corp: None) -> None:
    key = Api(make_key(WRITE))

    answer = key.send("POST", "/domain-claims", {"domain": "corp.example"})

    assert answer.json()["status"] == "pending"


def test_domain_where_anybody_has_an_address_is_refused(
    alice: Api, world: World
) -> None:
    EmailAddress.objects.create(
        user=world.users["alice"], email="alice@gmail.com", verified=True
    )

    answer = alice.send("POST", "/domain-claims", {"domain": "Gmail.com"})

    assert answer.status_code == 400
    assert not DomainClaim.objects.filter(domain="gmail.com").exists()


@pytest.mark.parametrize(
    "domain",
    ["nodot", "-a.example", "a..example", "a b.example", "a@b.example", "*.example"],
)
def test_what_is_no_domain_is_refused(alice: Api, domain: str) -> None:
    answer = alice.send("POST", "/domain-claims", {"domain": domain})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["location"] == "body.domain"


@pytest.mark.parametrize("domain", ["a.b", "x" * 254, None, 7, "corp.example\0"])
def test_domain_has_its_bounds(alice: Api, domain: Any) -> None:
    assert alice.status("POST", "/domain-claims", {"domain": domain}) == 422


def test_domain_is_claimed_once(alice: Api, signed_in: As, corp: None) -> None:
    body = {"domain": "corp.example"}
    assert alice.status("POST", "/domain-claims", body) == 201

    assert alice.status("POST", "/domain-claims", body) == 409
    assert signed_in("mallory", "/v2/orgs/other").status(
        "POST", "/domain-claims", body
    ) == (409)


def test_claim_that_waits_keeps_nobody_else_away(
    alice: Api, signed_in: As, corp: None
) -> None:
    body = {"domain": "corp.example"}
    mallory = signed_in("mallory", "/v2/orgs/other")
    assert mallory.send("POST", "/domain-claims", body).json()["status"] == "pending"

    assert alice.send("POST", "/domain-claims", body).json()["status"] == "approved"


def test_released_domain_is_free_and_members_stay(
    alice: Api, signed_in: As, corp: None
) -> None:
    body = {"domain": "corp.example"}
    alice.send("POST", "/domain-claims", body)

    assert alice.status("DELETE", "/domain-claims/Corp.example") == 204

    assert last_entry()[:4] == (
        "domain_claim.delete",
        "success",
        "domain_claim",
        "corp.example",
    )
    assert alice.status("DELETE", "/domain-claims/corp.example") == 404
    mallory = signed_in("mallory", "/v2/orgs/other")
    assert mallory.status("POST", "/domain-claims", body) == 201


def test_claim_of_others_cannot_be_released(signed_in: As, world: World) -> None:
    mallory = signed_in("mallory", "/v2/orgs/other")

    assert mallory.status("DELETE", "/domain-claims/acme.example") == 404
    assert DomainClaim.objects.filter(domain="acme.example").exists()


@race
def test_domain_goes_to_one_of_two_at_once() -> None:
    ensure_roles()
    people = [User.objects.create_user(name) for name in ("ada", "bea")]
    orgs = [services.create_organization(user=u, name=u.username) for u in people]
    for user in people:
        EmailAddress.objects.create(
            user=user, email=f"{user.username}@corp.example", verified=True
        )
    actors = [
        auth.member_actor(org.memberships.get(), user)
        for org, user in zip(orgs, people, strict=True)
    ]

    made = at_once(
        *(
            partial(services.request_domain_claim, actor=one, domain="corp.example")
            for one in actors
        )
    )

    assert made == 1
    assert DomainClaim.objects.filter(domain="corp.example").count() == 1
