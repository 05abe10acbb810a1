"""JWTs of other OpenID providers, as user tokens of the HTTP API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.models import User
from django.test import Client

from apps import errors
from apps.registry import issuers, remembered, wrong_tokens
from apps.registry.tokens import find_user_by_token
from tests.issuer import Provider, new_key, running
from tests.world import INVITATION, World, make_world

pytestmark = pytest.mark.django_db

ALICE = {"sub": "alice-1", "email": "alice@example.com", "email_verified": True}
EVE = {"sub": "eve-1", "email": "eve@example.com", "email_verified": True}


@pytest.fixture(scope="module")
def server() -> Iterator[Provider]:
    with running() as provider:
        yield provider


@pytest.fixture
def provider(server: Provider, settings: Any) -> Provider:
    """Configured, and its keys are not known yet."""
    text = json.dumps([server.configuration()])
    settings.CONDUCTOR_OIDC_PROVIDERS = issuers.parse(text)
    issuers._keys_of.cache_clear()
    remembered.forget()
    wrong_tokens.forget()
    server.person, server.fetched = dict(ALICE), 0
    return server


@pytest.fixture
def world() -> World:
    return make_world()


def call(token: str) -> Any:
    remembered.forget()
    client = Client(raise_request_exception=False)
    path = "/v2/orgs/acme/permissions"
    return client.get(path, HTTP_AUTHORIZATION=f"Bearer {token}")


# --- Whose it is -------------------------------------------------------------------


def test_person_is_found_by_their_verified_address(
    provider: Provider, world: World
) -> None:
    assert find_user_by_token(provider.mint()) == world.users["alice"]
    assert call(provider.mint()).status_code == 200


def test_person_stays_the_same_when_their_address_changes(
    provider: Provider, world: World
) -> None:
    find_user_by_token(provider.mint())

    changed = provider.mint(email="mallory@example.com")

    assert find_user_by_token(changed) == world.users["alice"]


def test_known_person_is_found_with_one_query(
    provider: Provider, world: World, django_assert_num_queries: Any
) -> None:
    find_user_by_token(provider.mint())

    with django_assert_num_queries(1):
        find_user_by_token(provider.mint())


def test_unknown_person_is_somebody_without_membership(
    provider: Provider, world: World
) -> None:
    provider.person = dict(EVE)

    user = find_user_by_token(provider.mint())

    assert user is not None
    assert (user.email, user.has_usable_password()) == ("eve@example.com", False)
    assert not user.memberships.exists()
    assert find_user_by_token(provider.mint()) == user
    assert call(provider.mint()).status_code == 404


def test_unknown_person_registers_over_the_api(
    provider: Provider, world: World
) -> None:
    provider.person = dict(EVE)

    assert register(provider.mint(), name="eve_1").status_code == 201

    user = User.objects.get(username="eve_1")
    assert user.memberships.get().organization.name == "eve_1"


def test_unknown_person_registers_by_invitation_only_where_that_is_so(
    provider: Provider, world: World, settings: Any
) -> None:
    settings.CONDUCTOR_SIGNUP = "invite"
    provider.person = dict(EVE)

    assert register(provider.mint(), name="eve_1").status_code == 403
    eve = User.objects.get(email="eve@example.com")
    client = Client()
    client.force_login(eve, "django.contrib.auth.backends.ModelBackend")
    assert client.post("/new-organization/", {"name": "own"}).status_code == 403
    assert not eve.memberships.exists()

    invited = register(provider.mint(), name="eve_1", secret=INVITATION)

    assert invited.status_code == 201
    assert eve.memberships.get().organization == world.acme


def register(token: str, **fields: str) -> Any:
    remembered.forget()
    return Client(raise_request_exception=False).post(
        "/v2/users",
        fields,
        content_type="application/json",
        HTTP_AUTHORIZATION=f"Bearer {token}",
    )


def test_unknown_person_is_nobody_where_signup_is_closed(
    provider: Provider, world: World, settings: Any
) -> None:
    settings.CONDUCTOR_SIGNUP = "closed"
    provider.person = dict(EVE)

    answer = call(provider.mint())

    assert answer.status_code == 401
    assert "sign-up is closed" in answer.json()["detail"]
    assert not User.objects.filter(email="eve@example.com").exists()


def test_inactive_person_is_nobody(provider: Provider, world: World) -> None:
    User.objects.filter(username="alice").update(is_active=False)

    assert find_user_by_token(provider.mint()) is None


@pytest.mark.parametrize("claim", [False, None, "true", 1])
def test_address_that_is_not_verified_there_counts_for_nothing(
    provider: Provider, world: World, claim: Any
) -> None:
    with pytest.raises(errors.NotSignedIn):
        find_user_by_token(provider.mint(email_verified=claim))

    assert not SocialAccount.objects.filter(uid="alice-1").exists()


def test_address_that_is_not_verified_here_links_nobody(
    provider: Provider, world: World
) -> None:
    """Else whoever signed up with it first would be them."""
    EmailAddress.objects.filter(email="alice@example.com").update(verified=False)

    answer = call(provider.mint())

    assert answer.status_code == 401
    assert "connect it with Corp" in answer.json()["detail"]


@pytest.mark.parametrize("email", ["nonsense", "a\0b@example.com", "", 7, "x" * 500])
def test_address_that_is_none_counts_for_nothing(
    provider: Provider, world: World, email: Any
) -> None:
    assert call(provider.mint(email=email)).status_code == 401


@pytest.mark.parametrize("subject", ["", "a\0b", "x" * 192, 7, None])
def test_subject_that_cannot_be_kept_is_nobody(
    provider: Provider, world: World, subject: Any
) -> None:
    key = provider.keys["k1"]
    token = provider.mint(sub=None)
    claims = jwt.decode(token, options={"verify_signature": False})
    if subject is not None:
        claims["sub"] = subject
    header = {"kid": "k1"}
    try:
        forged = jwt.encode(claims, key, algorithm="RS256", headers=header)
    except TypeError:  # PyJWT itself writes no subject that is not text
        body = json.dumps(claims).encode()
        forged = jwt.PyJWS().encode(body, key, algorithm="RS256", headers=header)

    assert find_user_by_token(forged) is None


# --- What is refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://another.example"},
        {"iss": None},
        {"aud": "another client"},
        {"aud": None},
        {"exp": None},
        {"exp": int(time.time()) - 60},
        {"nbf": int(time.time()) + 3600},
    ],
    ids=str,
)
def test_token_for_somebody_else_is_nobodys(
    provider: Provider, world: World, claims: dict[str, Any]
) -> None:
    assert find_user_by_token(provider.mint(**claims)) is None


def test_token_signed_by_another_key_is_nobodys(
    provider: Provider, world: World
) -> None:
    assert find_user_by_token(provider.mint(key=new_key())) is None


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_token_signed_in_another_way_is_nobodys(
    provider: Provider, world: World, algorithm: str
) -> None:
    key = "" if algorithm == "none" else "a shared secret of thirty-two bytes"

    token = provider.mint(key=key or None, algorithm=algorithm) if key else None
    token = token or jwt.encode(ALICE | {"iss": provider.url}, None, algorithm="none")

    assert find_user_by_token(token) is None


@pytest.mark.parametrize("token", ["a.b.c", "..", "e30.e30.", "ü.ü.ü", "e30.e30.e30"])
def test_what_is_no_jwt_is_nobodys(provider: Provider, token: str) -> None:
    assert find_user_by_token(token) is None


def test_audience_may_be_configured(
    provider: Provider, world: World, settings: Any
) -> None:
    text = json.dumps([provider.configuration(audience="conductor-api")])
    settings.CONDUCTOR_OIDC_PROVIDERS = issuers.parse(text)

    assert find_user_by_token(provider.mint()) is None
    assert find_user_by_token(provider.mint(aud=["x", "conductor-api"])) is not None


# --- Keys --------------------------------------------------------------------------


def test_keys_are_fetched_once(provider: Provider, world: World) -> None:
    for _ in range(5):
        find_user_by_token(provider.mint())

    assert provider.fetched == 1


def test_unknown_keys_are_asked_for_rarely(provider: Provider, world: World) -> None:
    for number in range(20):
        find_user_by_token(provider.mint(kid=f"x{number}", key=provider.keys["k1"]))

    assert provider.fetched == 1


def test_new_key_is_found_and_a_withdrawn_one_forgotten(
    provider: Provider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = provider.mint()
    find_user_by_token(old)
    first = provider.keys.pop("k1")
    provider.keys["k2"] = new_key()
    monkeypatch.setattr(issuers, "RETRY_SECS", 0.0)

    assert find_user_by_token(provider.mint("k2")) is not None
    assert find_user_by_token(old) is None
    provider.keys = {"k1": first}


def test_known_keys_serve_on_while_the_provider_is_away(
    provider: Provider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.mint()
    find_user_by_token(token)
    monkeypatch.setattr(issuers, "MAX_AGE_SECS", 0.0)
    monkeypatch.setattr(issuers, "RETRY_SECS", 0.0)
    monkeypatch.setattr(provider, "get", lambda *_: None)

    assert find_user_by_token(token) is not None


def test_document_of_another_issuer_is_not_believed(
    provider: Provider, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = provider.get("/.well-known/openid-configuration", {})
    liar = document | {"issuer": "https://another.example"}
    monkeypatch.setattr(provider, "get", lambda *_: liar)

    assert find_user_by_token(provider.mint()) is None


# --- Configuration -----------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://sso.example.com"},
        {"issuer": "sso.example.com"},
        {"id": "Corp SSO"},
        {"client_id": ""},
        {"secret": "typing error"},
    ],
    ids=str,
)
def test_bad_configuration_is_refused(change: dict[str, str]) -> None:
    good = Provider("https://sso.example.com").configuration()
    assert issuers.parse(json.dumps([good]))[0].name == "Corp"

    with pytest.raises(ValueError, match="validation error"):
        issuers.parse(json.dumps([good | change]))


def test_two_providers_differ() -> None:
    good = Provider("https://sso.example.com").configuration()

    with pytest.raises(ValueError, match="same id"):
        issuers.parse(json.dumps([good, good | {"issuer": "https://b.example"}]))


def test_nothing_is_configured_by_default() -> None:
    assert issuers.parse("") == ()
