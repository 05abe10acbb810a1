"""Signing up, invitations, roles, and who is left in charge."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone

from apps import errors
from apps.registry import auth, services
from apps.registry.auth import system_actor
from apps.registry.models import AuditEntry, Invitation, Membership, Organization, Role
from tests.registry.races import at_once, ensure_roles, race
from tests.world import INVITATION, World

PASSWORD = "correct horse battery"
LINK = f"/invitations/{INVITATION}/"


def sign_up(client: Client, email: str) -> Any:
    return client.post(
        "/accounts/signup/",
        {"email": email, "password1": PASSWORD, "password2": PASSWORD},
    )


def organizations_of(email: str) -> set[str]:
    found = Membership.objects.filter(user__email=email)
    return set(found.values_list("organization__name", flat=True))


# --- Signing up ---


def test_who_signs_up_is_admin_of_a_new_organization(db: None) -> None:
    sign_up(Client(), "grace.hopper@example.com")

    membership = Membership.objects.get(user__email="grace.hopper@example.com")
    assert membership.organization.name == "grace_hopper"
    assert membership.role.name == Role.ADMIN
    entry = AuditEntry.objects.get(organization=membership.organization)
    assert entry.operation == "organization.create"


def test_name_that_is_taken_is_varied(world: World) -> None:
    sign_up(Client(), "acme@example.com")

    (name,) = organizations_of("acme@example.com")
    assert name.startswith("acme_")


@pytest.mark.parametrize("local", ["a", "ö", "x" * 60, "+.-"])
def test_any_address_gives_a_valid_organization(db: None, local: str) -> None:
    name = services.free_organization_name(local)

    user = User.objects.create_user("somebody")
    assert services.create_organization(user=user, name=name).name == name


def test_sign_up_tells_nothing_about_an_address_that_is_known(
    world: World, settings: Any
) -> None:
    # Possible only where mails can be sent: the address' owner gets the answer.
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    known = sign_up(Client(), "alice@example.com")
    unknown = sign_up(Client(), "new@example.com")

    assert known.status_code == unknown.status_code == 302
    assert known["Location"] == unknown["Location"]
    assert User.objects.filter(email="alice@example.com").count() == 1


def test_closed_sign_up_makes_nobody(world: World, settings: Any) -> None:
    settings.CONDUCTOR_SIGNUP = "closed"
    client = Client()
    client.get(LINK)

    sign_up(client, "new@example.com")

    assert not User.objects.filter(email="new@example.com").exists()


@pytest.mark.parametrize("state", ["none", "open", "used", "revoked", "expired"])
def test_only_the_invited_sign_up_where_invitations_are_needed(
    world: World, settings: Any, state: str
) -> None:
    settings.CONDUCTOR_SIGNUP = "invite"
    now = timezone.now()
    changes: dict[str, dict[str, Any]] = {
        "used": {"accepted_at": now},
        "revoked": {"revoked_at": now},
        "expired": {"expires_at": now},
    }
    Invitation.objects.update(**changes.get(state, {"revoked_at": None}))
    client = Client()
    if state != "none":
        client.get(LINK)

    sign_up(client, "new@example.com")

    assert User.objects.filter(email="new@example.com").exists() is (state == "open")
    assert organizations_of("new@example.com") == (
        {"acme"} if state == "open" else set()
    )


def test_invitation_of_another_signs_nobody_up(world: World, settings: Any) -> None:
    settings.CONDUCTOR_SIGNUP = "invite"
    Invitation.objects.update(email="New@example.com")
    client = Client()
    client.get(LINK)

    page = sign_up(client, "other@example.com")
    assert "another e-mail address" in page.content.decode()
    assert not User.objects.filter(email="other@example.com").exists()

    sign_up(client, "new@example.com")
    assert organizations_of("new@example.com") == {"acme"}


# --- Invitations ---


def test_invitation_joins_with_its_role_and_once(world: World) -> None:
    membership = services.accept_invitation(user=world.users["sam"], secret=INVITATION)

    assert membership.role == world.viewer
    with pytest.raises(errors.NotFound):
        services.accept_invitation(user=world.users["mallory"], secret=INVITATION)


@pytest.mark.parametrize("field", ["accepted_at", "revoked_at", "expires_at"])
def test_invitation_that_is_over_joins_nobody(world: World, field: str) -> None:
    Invitation.objects.update(**{field: timezone.now() - timedelta(seconds=1)})

    response = world.client("mallory").post(LINK)

    assert response.status_code == 404
    assert organizations_of("mallory@example.com") == {"other"}


def test_invitation_with_an_address_is_for_that_person(world: World) -> None:
    Invitation.objects.update(email="Sam@example.com")

    assert world.client("mallory").post(LINK).status_code == 403
    assert world.client("sam").post(LINK).status_code == 302
    assert organizations_of("sam@example.com") == {"acme"}


def test_member_does_not_use_an_invitation_up(world: World) -> None:
    assert world.client("bob").post(LINK).status_code == 409
    assert "You are a member already" in world.client("bob").get(LINK).content.decode()

    assert world.membership("bob").role == world.viewer
    assert world.client("mallory").post(LINK).status_code == 302


def test_who_has_an_account_comes_back_to_the_invitation(world: World) -> None:
    client = Client()
    assert f"/accounts/login/?next={LINK}" in client.get(LINK).content.decode()

    response = client.post(
        f"/accounts/login/?next={LINK}",
        {"login": "mallory@example.com", "password": "mallory pass word"},
    )

    assert response["Location"] == LINK


def test_invitation_grants_no_more_than_its_maker_holds(world: World) -> None:
    boss = Role.objects.create(
        organization=world.acme, name="boss", permissions=["organization.write"]
    )
    Membership.objects.filter(user=world.users["zoe"]).update(role=boss)

    response = world.client("zoe").post(
        "/orgs/acme/members/invite/", {"role": services.builtin_role(Role.ADMIN).pk}
    )

    assert response.status_code == 403


def test_link_is_kept_as_a_hash_only(world: World) -> None:
    page = world.client("alice").post(
        "/orgs/acme/members/invite/", {"role": world.viewer.pk}
    )

    secret = page.context["link"].rstrip("/").rpartition("/")[2]
    assert services.accept_invitation(user=world.users["sam"], secret=secret)
    assert secret not in str(world.state())
    assert secret not in str(list(AuditEntry.objects.values()))


# --- Roles ---


def _post(world: World, name: str, path: str, **data: Any) -> int:
    return int(world.client(name).post(f"/orgs/acme/members/{path}/", data).status_code)


def test_last_admin_can_be_neither_demoted_nor_removed(world: World) -> None:
    assert _post(world, "alice", "alice/role", role=world.viewer.pk) == 409
    assert _post(world, "alice", "alice/remove") == 409

    assert world.membership("alice").role.name == Role.ADMIN
    last = AuditEntry.objects.latest("pk")
    assert (last.operation, last.outcome) == ("user.remove", "failure")


def test_admin_can_go_once_there_is_another(world: World) -> None:
    admin = services.builtin_role(Role.ADMIN).pk
    assert _post(world, "alice", "bob/role", role=admin) == 302
    assert _post(world, "bob", "alice/remove") == 302

    assert world.client("alice").get("/orgs/acme/apps/").status_code == 404


def test_role_change_takes_effect_at_once(world: World) -> None:
    browser = world.client("carol")
    assert browser.get("/orgs/acme/keys/new/").status_code == 200

    _post(world, "alice", "carol/role", role=world.viewer.pk)

    assert browser.get("/orgs/acme/keys/new/").status_code == 403


def test_role_of_another_organization_cannot_be_given(world: World) -> None:
    other = Organization.objects.get(name="other")
    foreign = Role.objects.create(organization=other, name="foreign")

    assert _post(world, "alice", "bob/role", role=foreign.pk) == 422


def test_role_is_made_on_the_page_and_can_be_given(world: World) -> None:
    browser = world.client("alice")
    role = {"name": "auditor", "permissions": ["organization.read", "token.write"]}

    browser.post("/orgs/acme/roles/new/", role)

    made = Role.objects.get(name="auditor")
    assert made.permissions == role["permissions"]
    assert _post(world, "alice", "bob/role", role=made.pk) == 302
    refused = browser.post("/orgs/acme/roles/auditor/delete/")
    assert refused.status_code == 409
    assert "Members have this role" in refused.text


@pytest.mark.parametrize(
    ("path", "form", "words"),
    [
        ("roles/new", {"name": "viewer"}, "That name is taken."),
        ("roles/new", {"name": "a b"}, "Use 3 to 30 letters"),
        ("roles/new", {"name": "auditor", "permissions": "all"}, "Select a valid"),
        ("domains/claim", {"domain": "gmail.com"}, "Anybody can have an address"),
        ("domains/claim", {"domain": "acme.example"}, "claimed already"),
        ("domains/claim", {"domain": "no domain"}, "Enter a valid domain"),
    ],
)
def test_refusal_stands_at_the_field(
    world: World, path: str, form: dict[str, str], words: str
) -> None:
    page = world.client("alice").post(f"/orgs/acme/{path}/", form)

    assert page.status_code == 422
    assert words in page.text


def test_built_in_roles(db: None) -> None:
    admin = set(services.builtin_role(Role.ADMIN).permissions)
    member = set(services.builtin_role(Role.MEMBER).permissions)

    assert admin == auth.ALL_PERMISSIONS
    assert admin - member == {"organization.write", "workflow.import"}


@race
def test_two_admins_cannot_demote_each_other_at_once() -> None:
    ensure_roles()
    admin = services.builtin_role(Role.ADMIN)
    for number in range(10):
        one, two = (User.objects.create_user(f"u{number}{n}") for n in "ab")
        acme = services.create_organization(user=one, name=f"acme{number}")
        services.add_member(actor=system_actor(acme), user=two, role=admin)

        def demote(
            actor: User, target: User, organization: Organization = acme
        ) -> None:
            services.change_role(
                actor=auth.member_actor(
                    organization.memberships.get(user=actor), actor
                ),
                username=target.username,
                role_name=Role.MEMBER,
            )

        # Who was demoted first may not demote any more.
        assert at_once(partial(demote, one, two), partial(demote, two, one)) == 1
        assert acme.memberships.filter(role__name=Role.ADMIN).count() == 1


# --- Applications ---


@pytest.mark.parametrize("name", ["abc", "a-b_9", "x" * 256])
def test_application_name(world: World, name: str) -> None:
    services.create_application(actor=system_actor(world.acme), name=name)


@pytest.mark.parametrize(
    "name", ["", "ab", "x" * 257, "Orders", "or ders", "or/ders", "örders", "abc\n"]
)
def test_application_name_that_breaks_the_rule(world: World, name: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        services.create_application(actor=system_actor(world.acme), name=name)

    assert caught.value.details["field"] == "name"


def test_application_name_is_taken_once_in_an_organization(world: World) -> None:
    other = Organization.objects.get(name="other")
    services.create_application(actor=system_actor(other), name="orders")

    with pytest.raises(errors.Conflict):
        services.create_application(actor=system_actor(world.acme), name="orders")


# --- Sign-in ---


def _sign_in(email: str, password: str) -> Any:
    return Client().post("/accounts/login/", {"login": email, "password": password})


def test_guessing_a_password_is_slowed_down(world: World) -> None:
    for _ in range(5):
        assert (
            "not correct" in _sign_in("alice@example.com", "a guess").content.decode()
        )

    # Even the right one, until the time is over; for this account only.
    assert (
        "Too many" in _sign_in("alice@example.com", "alice pass word").content.decode()
    )
    assert _sign_in("bob@example.com", "bob pass word").status_code == 302


def test_sign_in_attempts_are_counted_for_all_processes(world: World) -> None:
    _sign_in("alice@example.com", "a guess")

    with connection.cursor() as cursor:
        cursor.execute("SELECT cache_key FROM conductor_cache")
        keys = [key for (key,) in cursor.fetchall()]
    assert [key for key in keys if "login_failed" in key]


def test_forwarded_header_alone_does_not_escape_the_limit(world: World) -> None:
    answers = [
        Client().post(
            "/accounts/login/",
            {"login": f"nobody{n}@example.com", "password": "a guess"},
            headers={"x-forwarded-for": f"203.0.113.{n}"},
        )
        for n in range(12)
    ]

    assert "Too many" in answers[-1].content.decode()
