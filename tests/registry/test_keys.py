"""API keys: shown once, kept as a hash, and never more than their maker."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta

import pytest
from django.utils import timezone

from apps import errors
from apps.registry import auth, keys, services
from apps.registry.auth import Actor, system_actor
from apps.registry.models import ApiKey, AuditEntry
from tests.world import World


@pytest.fixture
def actor(world: World) -> Actor:
    return system_actor(world.acme)


def test_secret_is_shown_once(world: World) -> None:
    alice = world.client("alice")
    page = alice.post(
        "/orgs/acme/keys/new/", {"name": "k2", "permissions": ["websocket.connect"]}
    )

    (secret,) = set(
        re.findall(r"dbos_[A-Za-z0-9]{8}_[A-Za-z0-9]{43}", page.content.decode())
    )
    assert "no-store" in page["Cache-Control"]
    found = keys.find_by_secret(secret)
    assert found is not None and found.name == "k2"
    for path in ("keys/", "audit/"):
        assert secret not in alice.get(f"/orgs/acme/{path}").content.decode()
    assert secret not in str(world.state())
    assert secret not in str(list(AuditEntry.objects.values()))


def test_only_hash_and_prefix_are_kept(actor: Actor) -> None:
    key, secret = services.create_api_key(actor=actor, name="k2")

    assert key.secret_hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret.startswith(f"dbos_{key.prefix}_")


def test_wrong_end_of_a_right_prefix_opens_nothing(actor: Actor) -> None:
    _, secret = services.create_api_key(actor=actor, name="k2")

    assert (
        keys.find_by_secret(secret[:-1] + ("a" if secret[-1] != "a" else "b")) is None
    )
    assert keys.find_by_secret(secret + "\n") is None
    assert keys.find_by_secret("") is None


def test_without_a_choice_a_key_may_only_connect(actor: Actor) -> None:
    key, _ = services.create_api_key(actor=actor, name="k2")

    assert key.permissions == ["websocket.connect"]
    assert auth.key_actor(key).permissions == {"websocket.connect"}


def test_key_for_one_application_sees_no_other(world: World, actor: Actor) -> None:
    billing = services.create_application(actor=actor, name="billing")
    key, _ = services.create_api_key(
        actor=actor, name="k2", application_names=[world.application.name]
    )

    assert auth.key_actor(key).sees(world.application)
    assert not auth.key_actor(key).sees(billing)
    with pytest.raises(errors.NotFound):
        auth.key_actor(key).require("application.read", billing)


def test_key_whose_only_application_is_gone_sees_nothing(
    world: World, actor: Actor
) -> None:
    key, _ = services.create_api_key(
        actor=actor, name="k2", application_names=[world.application.name]
    )
    billing = services.create_application(actor=actor, name="billing")
    services.delete_application(actor=actor, application=world.application)

    key.refresh_from_db()
    assert not auth.key_actor(key).sees(billing)


@pytest.mark.parametrize(
    ("permission", "error"),
    [
        ("token.write", errors.InvalidInput),
        ("everything", errors.InvalidInput),
        ("organization.write", errors.Forbidden),
    ],
)
def test_what_a_key_cannot_hold(
    world: World, permission: str, error: type[errors.ConductorError]
) -> None:
    member = auth.member_actor(world.membership("carol"), world.users["carol"])

    with pytest.raises(error):
        services.create_api_key(actor=member, name="k2", permissions=[permission])


def test_name_is_taken_once(actor: Actor) -> None:
    with pytest.raises(errors.Conflict):
        services.create_api_key(actor=actor, name="k1")


def test_key_cannot_be_born_expired(actor: Actor) -> None:
    with pytest.raises(errors.InvalidInput):
        services.create_api_key(actor=actor, name="k2", expires_at=timezone.now())


@pytest.mark.parametrize("days", ["30", "90", "365"])
def test_lifetime_is_chosen_in_days(world: World, days: str) -> None:
    world.client("alice").post(
        "/orgs/acme/keys/new/",
        {"name": "k2", "permissions": ["websocket.connect"], "expires": days},
    )

    expires_at = ApiKey.objects.get(name="k2").expires_at
    assert expires_at is not None
    assert abs(expires_at - timezone.now() - timedelta(days=int(days))) < timedelta(
        hours=1
    )


def test_revoking_twice_is_harmless(world: World, actor: Actor) -> None:
    assert services.revoke_api_key(actor=actor, key=world.key) is True
    first = ApiKey.objects.get(pk=world.key.pk).revoked_at

    assert services.revoke_api_key(actor=actor, key=world.key) is False
    assert ApiKey.objects.get(pk=world.key.pk).revoked_at == first
