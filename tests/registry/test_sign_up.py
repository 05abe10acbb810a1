"""Who may make an account: everybody, the invited, or nobody."""

from __future__ import annotations

import re
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.apps import apps
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import (
    AuditEntry,
    DomainClaim,
    Invitation,
    Membership,
    Organization,
    Role,
)

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough password"
BACKEND = "django.contrib.auth.backends.ModelBackend"


@pytest.fixture
def organization() -> Organization:
    owner = User.objects.create_user("owner", "owner@example.com")
    return services.create_organization(user=owner, name="acme")


def invite(organization: Organization, email: str = "") -> str:
    """Return the path of an invitation's link."""
    _, secret = services.invite_member(
        actor=system_actor(organization),
        email=email,
        role=Role.objects.get(organization=None, name=Role.MEMBER),
    )
    return reverse("registry:invitation_accept", args=[secret])


def sign_up(client: Client, email: str) -> Any:
    form = {"email": email, "password1": PASSWORD, "password2": PASSWORD}
    return client.post(reverse("account_signup"), form)


def organizations_of(email: str) -> list[str]:
    found = Membership.objects.filter(user__email=email)
    return list(found.values_list("organization__name", flat=True))


def test_open_sign_up_gives_an_organization(client: Client) -> None:
    sign_up(client, "ada@example.com")

    assert organizations_of("ada@example.com") == ["ada"]


@pytest.mark.parametrize("mode", ["closed", "invite"])
def test_stranger_is_told_to_ask_for_an_invitation(
    client: Client, settings: Any, mode: str
) -> None:
    settings.CONDUCTOR_SIGNUP = mode

    page = client.get(reverse("account_signup"))

    assert "Ask an admin of your organization for an invitation link" in page.text
    sign_up(client, "ada@example.com")
    assert not User.objects.exists()
    assert reverse("account_signup") not in client.get("/").text
    assert reverse("account_signup") not in client.get(reverse("account_login")).text


def test_invited_may_sign_up_where_only_they_may(
    client: Client, settings: Any, organization: Organization
) -> None:
    settings.CONDUCTOR_SIGNUP = "invite"

    page = client.get(invite(organization))
    assert reverse("account_signup") in page.text
    sign_up(client, "ada@example.com")

    assert organizations_of("ada@example.com") == ["acme"]


def test_closed_sign_up_lets_the_invited_join_with_an_account_only(
    client: Client, settings: Any, organization: Organization
) -> None:
    settings.CONDUCTOR_SIGNUP = "closed"

    page = client.get(invite(organization))

    assert reverse("account_signup") not in page.text
    assert reverse("account_login") in page.text


@pytest.mark.parametrize("change", ["accepted_at", "revoked_at", "expires_at"])
def test_link_that_is_used_revoked_or_old_opens_nothing(
    client: Client, settings: Any, organization: Organization, change: str
) -> None:
    settings.CONDUCTOR_SIGNUP = "invite"
    path = invite(organization)
    client.get(path)
    Invitation.objects.update(**{change: timezone.now() - timedelta(seconds=1)})

    sign_up(client, "ada@example.com")

    assert not User.objects.filter(email="ada@example.com").exists()
    page = client.get(path)
    assert page.status_code == 404
    assert "not valid any more" in page.text


def test_keys_and_invitations_can_be_made_on_the_pages(
    client: Client, organization: Organization
) -> None:
    client.force_login(User.objects.get(username="owner"))
    key = {"name": "first", "permissions": ["websocket.connect"]}
    role = Role.objects.get(organization=None, name=Role.MEMBER)

    made = client.post(reverse("registry:key_create", args=["acme"]), key)
    assert "dbos_" in made.text
    link = client.post(
        reverse("registry:invitation_create", args=["acme"]), {"role": role.pk}
    )
    assert link.status_code == 200
    assert Invitation.objects.count() == 1


def test_key_form_opened_for_an_application_is_for_that_one(
    client: Client, organization: Organization
) -> None:
    client.force_login(User.objects.get(username="owner"))
    services.create_application(actor=system_actor(organization), name="orders")

    page = client.get(
        reverse("registry:key_create", args=["acme"]), {"application": "orders"}
    )

    assert page.context["form"].initial["name"] == "orders"
    ticked = [
        box for box in page.context["form"]["applications"] if "checked" in str(box)
    ]
    assert len(ticked) == 1


# --- Claimed domains ---


@pytest.fixture
def claimed(organization: Organization) -> None:
    """The organization gets the newcomers of corp.example."""
    DomainClaim.objects.create(
        organization=organization, domain="corp.example", status="approved"
    )


def confirm(client: Client) -> None:
    """Follow the link of the last mail, and click."""
    (path,) = re.findall(r"/accounts/confirm-email/\S+", str(mail.outbox[-1].body))
    assert client.post(path).status_code == 302


def test_newcomer_of_a_claimed_domain_joins_once_the_address_is_theirs(
    client: Client, settings: Any, claimed: None
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"

    sign_up(client, "Ada@Corp.example")
    assert organizations_of("ada@corp.example") == []
    confirm(client)

    assert organizations_of("ada@corp.example") == ["acme"]
    membership = Membership.objects.get(user__email="ada@corp.example")
    assert membership.role.name == Role.MEMBER
    entry = AuditEntry.objects.latest("pk")
    assert (entry.operation, entry.target_id) == ("user.join", "ada")


def test_claim_that_is_released_meanwhile_joins_nobody(
    client: Client, settings: Any, claimed: None
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    sign_up(client, "ada@corp.example")
    DomainClaim.objects.all().delete()

    confirm(client)

    assert organizations_of("ada@corp.example") == []


@pytest.mark.parametrize("verification", ["optional", "none"])
def test_address_that_anybody_could_have_typed_joins_nothing(
    client: Client, settings: Any, claimed: None, verification: str
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = verification

    sign_up(client, "ada@corp.example")

    assert organizations_of("ada@corp.example") == ["ada"]


def test_member_of_another_organization_is_not_moved(
    client: Client, settings: Any, claimed: None
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    sign_up(client, "ada@elsewhere.example")
    confirm(client)
    client.force_login(User.objects.get(email="ada@elsewhere.example"), BACKEND)

    later = {"action_add": "", "email": "ada@corp.example"}
    client.post(reverse("account_email"), later)
    confirm(client)

    assert EmailAddress.objects.get(email="ada@corp.example").verified
    assert organizations_of("ada@elsewhere.example") == ["ada"]


def test_invitation_goes_before_a_claim(
    client: Client, settings: Any, claimed: None, organization: Organization
) -> None:
    settings.ACCOUNT_EMAIL_VERIFICATION = "mandatory"
    role = Role.objects.create(organization=organization, name="viewer")
    _, secret = services.invite_member(actor=system_actor(organization), role=role)
    client.get(reverse("registry:invitation_accept", args=[secret]))

    sign_up(client, "ada@corp.example")
    confirm(client)

    membership = Membership.objects.get(user__email="ada@corp.example")
    assert membership.role == role


# --- Usernames ---


@pytest.mark.parametrize(
    ("email", "username"),
    [
        ("Grace.Hopper+dbos@example.com", "grace_hopper_dbos"),
        ("a@example.com", "a_user"),
        ("ö@example.com", "user"),
        (f"{'x' * 60}@example.com", "x" * 24),
    ],
)
def test_username_is_one_that_the_api_can_name(
    db: None, email: str, username: str
) -> None:
    assert services.free_username(email) == username

    User.objects.create_user(username)
    another = services.free_username(email)
    assert re.fullmatch(r"[a-z0-9_]{3,30}", another)
    assert another.startswith(username)


def test_who_signs_up_gets_such_a_username(client: Client) -> None:
    sign_up(client, "ada.l@example.com")

    assert User.objects.get().username == "ada_l"


def test_username_of_old_is_changed_by_the_migration(db: None) -> None:
    migration = import_module("apps.registry.migrations.0009_usernames")
    valid = User.objects.create_user("ada_l")
    old = [User.objects.create_user(n) for n in ("Ada.L@example.com", "ÄÖ", "x")]

    migration.rename(apps, None)

    for user in (valid, *old):
        user.refresh_from_db()
    assert valid.username == "ada_l"
    assert re.fullmatch(r"ada_l_[0-9a-f]{4}", old[0].username)
    assert [user.username for user in old[1:]] == ["user", "x_user"]
