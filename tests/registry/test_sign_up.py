"""Who may make an account: everybody, the invited, or nobody."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import Invitation, Membership, Organization, Role

pytestmark = pytest.mark.django_db

PASSWORD = "a long enough password"


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
