"""Programs that a person signs in by a code: Conductor as an OpenID provider."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from allauth.idp.oidc.models import Client as Program
from allauth.idp.oidc.models import Token
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from apps.registry import (
    callers,
    limits,
    remembered,
    services,
    signing,
    wrong_tokens,
)
from apps.registry.models import AuditEntry, Device, SigningKey
from apps.registry.tokens import find_user_by_token
from tests.registry.races import at_once, race
from tests.world import World, make_world

pytestmark = pytest.mark.django_db

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
AGENT = "dbosctl/0.9.0"


@pytest.fixture(autouse=True)
def clean() -> None:
    """Counts of earlier tests."""
    cache.clear()
    remembered.forget()
    wrong_tokens.forget()


@pytest.fixture
def world() -> World:
    made = make_world()
    Device.objects.all().delete()
    Token.objects.all().delete()
    return made


class Terminal:
    """A program without a browser, at an address of its own."""

    def __init__(self) -> None:
        self.http = Client(
            enforce_csrf_checks=True, REMOTE_ADDR="192.0.2.7", HTTP_USER_AGENT=AGENT
        )
        self.discovered = self.http.get("/.well-known/openid-configuration").json()

    def post(self, endpoint: str, **fields: Any) -> Any:
        fields.setdefault("client_id", "dbosctl")
        return self.http.post(
            self.discovered[endpoint].removeprefix("http://testserver"),
            "&".join(f"{name}={value}" for name, value in fields.items()),
            content_type="application/x-www-form-urlencoded",
        )

    def begin(self) -> dict[str, Any]:
        answer = self.post(
            "device_authorization_endpoint", scope="openid offline_access"
        )
        assert answer.status_code == 200, answer.content
        started: dict[str, Any] = answer.json()
        return started

    def poll(self, started: dict[str, Any]) -> Any:
        """Ask for the tokens, as if its interval had passed."""
        key = f"allauth.idp.oidc.device_code[{started['device_code']}]"
        if entry := cache.get(key):
            cache.set(key, {**entry, "last_poll_at": 0}, 60)
        return self.poll_now(started)

    def poll_now(self, started: dict[str, Any]) -> Any:
        """Ask for the tokens."""
        return self.post(
            "token_endpoint",
            grant_type=DEVICE_GRANT,
            device_code=started["device_code"],
        )

    def renew(self, refresh_token: str) -> Any:
        return self.post(
            "token_endpoint", grant_type="refresh_token", refresh_token=refresh_token
        )


def decide(client: Client, started: dict[str, Any], decision: str) -> Any:
    return client.post("/device/", {"code": started["user_code"], "decision": decision})


def sign_in(world: World, name: str = "bob") -> tuple[Terminal, dict[str, Any]]:
    """A program that this person has signed in, and its tokens."""
    terminal = Terminal()
    started = terminal.begin()
    assert decide(world.client(name), started, "approve").status_code == 200
    answer = terminal.poll(started)
    assert answer.status_code == 200, answer.content
    return terminal, answer.json()


def whoami(token: str) -> int:
    """The status with which the HTTP API takes a token."""
    remembered.forget()
    answer = Client(raise_request_exception=False).get(
        "/v2/orgs/acme/permissions", HTTP_AUTHORIZATION=f"Bearer {token}"
    )
    return answer.status_code


# --- Discovery and the grant -------------------------------------------------------


def test_discovery_names_what_is_there_and_nothing_else() -> None:
    found = Terminal().discovered

    assert found["issuer"] == "http://testserver"
    assert found["grant_types_supported"] == [DEVICE_GRANT, "refresh_token"]
    assert "authorization_endpoint" not in found
    (key,) = Client().get("/.well-known/jwks.json").json()["keys"]
    assert key["kty"] == "RSA"
    assert "d" not in key


def test_approved_program_acts_as_the_person(world: World) -> None:
    terminal = Terminal()
    started = terminal.begin()
    waiting = terminal.poll(started)

    assert (started["interval"], started["expires_in"]) == (5, 600)
    assert waiting.status_code == 400
    assert waiting.json()["error"] == "authorization_pending"

    decide(world.client("bob"), started, "approve")
    tokens = terminal.poll(started).json()

    assert tokens["expires_in"] == 3600
    assert find_user_by_token(tokens["access_token"]) == world.users["bob"]
    assert whoami(tokens["access_token"]) == 200
    device = Device.objects.get()
    assert (device.source_ip, device.user_agent) == ("192.0.2.7", AGENT)


def test_code_buys_tokens_once(world: World) -> None:
    terminal = Terminal()
    started = terminal.begin()
    decide(world.client("bob"), started, "approve")
    terminal.poll(started)

    assert terminal.poll(started).json()["error"] == "invalid_grant"


def test_impatient_program_is_told_to_slow_down() -> None:
    terminal = Terminal()
    started = terminal.begin()
    terminal.poll(started)

    assert terminal.poll_now(started).json()["error"] == "slow_down"


def test_denied_program_gets_nothing(world: World) -> None:
    terminal = Terminal()
    started = terminal.begin()

    decide(world.client("bob"), started, "deny")

    assert terminal.poll(started).json()["error"] == "access_denied"
    assert not Token.objects.exists()


def test_deactivated_person_signs_nothing_in(world: World) -> None:
    terminal = Terminal()
    started = terminal.begin()
    decide(world.client("bob"), started, "approve")
    services.set_user_active(actors=[], user=world.users["bob"], is_active=False)

    assert terminal.poll(started).json()["error"] == "access_denied"


# --- Tokens ------------------------------------------------------------------------


def test_renewed_program_has_new_tokens_and_the_old_open_nothing(world: World) -> None:
    terminal, old = sign_in(world)

    new = terminal.renew(old["refresh_token"]).json()

    assert whoami(old["access_token"]) == 401
    assert whoami(new["access_token"]) == 200
    assert terminal.renew(old["refresh_token"]).json()["error"] == "invalid_grant"
    assert Device.objects.count() == 1
    assert Token.objects.count() == 2


def test_renewal_brings_an_id_token_that_the_public_key_proves(world: World) -> None:
    terminal, old = sign_in(world)
    token = terminal.renew(old["refresh_token"]).json()["id_token"]
    keys = jwt.PyJWKSet.from_dict(Client().get("/.well-known/jwks.json").json())

    claims = jwt.decode(
        token,
        keys[jwt.get_unverified_header(token)["kid"]],
        algorithms=["RS256"],
        audience="dbosctl",
        issuer="http://testserver",
    )

    assert claims["sub"] == str(world.users["bob"].pk)


def test_expired_access_token_is_nobodys(world: World) -> None:
    _, tokens = sign_in(world)
    Token.objects.filter(type="at").update(expires_at=timezone.now())

    assert find_user_by_token(tokens["access_token"]) is None


def test_token_of_another_program_is_nobodys(world: World) -> None:
    sign_in(world)
    other = Program.objects.create(id="other", name="other")
    token = Token(
        type="at",
        client=other,
        user=world.users["alice"],
        expires_at=timezone.now() + timedelta(hours=1),
    )
    token.set_value("another-token")
    token.save()

    assert find_user_by_token("another-token") is None


@pytest.mark.parametrize("kind", ["refresh_token", "nonsense", "a.b.c", ""])
def test_what_is_no_access_token_is_nobodys(world: World, kind: str) -> None:
    _, tokens = sign_in(world)

    assert find_user_by_token(tokens.get(kind, kind)) is None


def test_inactive_person_is_nobody(world: World) -> None:
    _, tokens = sign_in(world)

    services.set_user_active(actors=[], user=world.users["bob"], is_active=False)

    assert whoami(tokens["access_token"]) == 401


def test_look_up_is_one_query(world: World, django_assert_num_queries: Any) -> None:
    _, tokens = sign_in(world)

    with django_assert_num_queries(1):
        find_user_by_token(tokens["access_token"])


def test_use_is_noted_once_a_minute(
    world: World, django_assert_num_queries: Any
) -> None:
    _, tokens = sign_in(world)
    Device.objects.update(last_used_at=timezone.now() - timedelta(hours=1))

    with django_assert_num_queries(2):
        find_user_by_token(tokens["access_token"])
    with django_assert_num_queries(1):
        find_user_by_token(tokens["access_token"])


def test_tokens_and_device_codes_are_kept_as_hashes_only(world: World) -> None:
    _, tokens = sign_in(world)
    kept = {token.hash for token in Token.objects.all()}

    assert kept.isdisjoint({tokens["access_token"], tokens["refresh_token"]})


def test_expired_tokens_are_deleted_and_their_programs_with_them(world: World) -> None:
    terminal, tokens = sign_in(world)
    sign_in(world, "alice")
    Token.objects.filter(user=world.users["bob"]).update(expires_at=timezone.now())

    assert services.forget_expired_tokens() == 2
    assert [device.user for device in Device.objects.all()] == [world.users["alice"]]
    assert terminal.renew(tokens["refresh_token"]).json()["error"] == "invalid_grant"


# --- At once -----------------------------------------------------------------------


@pytest.fixture
def one_person(transactional_db: None) -> User:
    Program.objects.get_or_create(
        id="dbosctl",
        defaults={
            "name": "dbosctl",
            "type": "public",
            "grant_types": f"{DEVICE_GRANT}\nrefresh_token",
            "scopes": "openid\noffline_access",
        },
    )
    return User.objects.create_user("one", "one@example.com")


@race
def test_decision_is_not_lost_to_a_poll_at_the_same_time(one_person: User) -> None:
    for _ in range(10):
        cache.clear()
        terminal = Terminal()
        browser = Client()
        browser.force_login(one_person, "django.contrib.auth.backends.ModelBackend")
        started = terminal.begin()

        at_once(
            lambda b=browser, s=started: decide(b, s, "approve"),
            lambda t=terminal, s=started: t.poll_now(s),
        )

        polled = terminal.poll(started).json()
        assert polled.get("access_token") or polled["error"] == "invalid_grant"
        assert Device.objects.filter(user=one_person).count() == 1
        Device.objects.all().delete()


@race
def test_code_buys_tokens_once_for_two_at_the_same_time(one_person: User) -> None:
    terminal = Terminal()
    started = terminal.begin()
    browser = Client()
    browser.force_login(one_person, "django.contrib.auth.backends.ModelBackend")
    decide(browser, started, "approve")

    at_once(lambda: terminal.poll_now(started), lambda: terminal.poll_now(started))

    assert Device.objects.count() == 1


@race
def test_renewal_does_not_bring_back_who_is_signed_out(one_person: User) -> None:
    for _ in range(5):
        cache.clear()
        terminal = Terminal()
        browser = Client()
        browser.force_login(one_person, "django.contrib.auth.backends.ModelBackend")
        started = terminal.begin()
        decide(browser, started, "approve")
        old = terminal.poll(started).json()
        path = f"/devices/{Device.objects.get().pk}/sign-out/"

        at_once(
            lambda b=browser, p=path: b.post(p),
            lambda t=terminal, o=old: t.renew(o["refresh_token"]),
        )

        assert not Device.objects.exists()
        assert not Token.objects.exists()


def test_token_without_a_device_renews_nothing(world: World) -> None:
    terminal, tokens = sign_in(world)
    Device.objects.all().delete()

    assert terminal.renew(tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert not Device.objects.exists()


# --- Signing out -------------------------------------------------------------------


def test_person_signs_a_program_out(world: World) -> None:
    terminal, tokens = sign_in(world)
    client = world.client("bob")
    page = client.get("/devices/").content.decode()
    assert AGENT in page

    client.post(f"/devices/{Device.objects.get().pk}/sign-out/")

    assert whoami(tokens["access_token"]) == 401
    assert terminal.renew(tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert not Token.objects.exists()


def test_program_signs_itself_out_by_its_refresh_token(world: World) -> None:
    terminal, tokens = sign_in(world)

    answer = terminal.post("revocation_endpoint", token=tokens["refresh_token"])

    assert answer.status_code == 200
    assert whoami(tokens["access_token"]) == 401
    assert "None." in world.client("bob").get("/devices/").content.decode()


def test_nobody_signs_out_anothers_program(world: World) -> None:
    _, tokens = sign_in(world)
    path = f"/devices/{Device.objects.get().pk}/sign-out/"

    assert world.client("alice").post(path).status_code == 404
    assert whoami(tokens["access_token"]) == 200


def test_decisions_and_signing_out_are_recorded(world: World) -> None:
    terminal = Terminal()
    decide(world.client("bob"), terminal.begin(), "deny")
    sign_in(world)
    pk = Device.objects.get().pk
    world.client("bob").post(f"/devices/{pk}/sign-out/")

    details = {"program": "dbosctl", "device_ip": "192.0.2.7"}
    entries = AuditEntry.objects.filter(operation__startswith="device.").order_by("pk")
    assert [
        (entry.operation, entry.subject_display, entry.details) for entry in entries
    ] == [
        (operation, "bob@example.com", details)
        for operation in ("device.deny", "device.approve", "device.sign_out")
    ]


# --- The page ----------------------------------------------------------------------


def test_stranger_signs_in_first_and_comes_back(world: World) -> None:
    answer = world.client(None).get("/device/?code=BCDF-GHJK")

    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/login/?next=/device/%3Fcode%3DBCDF-GHJK"


def test_page_says_who_asks_and_from_where(world: World) -> None:
    started = Terminal().begin()

    page = world.client("bob").get(f"/device/?code={started['user_code']}")

    text = page.content.decode()
    for part in (
        "dbosctl",
        started["user_code"],
        "192.0.2.7",
        AGENT,
        "bob@example.com",
    ):
        assert part in text
    assert "another network address" in text


def test_looking_at_the_page_decides_nothing(world: World) -> None:
    terminal = Terminal()
    started = terminal.begin()
    world.client("bob").get(f"/device/?code={started['user_code']}&decision=approve")
    world.client("bob").post("/device/", {"code": started["user_code"]})

    assert terminal.poll(started).json()["error"] == "authorization_pending"


def test_decision_needs_a_form_of_ours(world: World) -> None:
    started = Terminal().begin()
    client = world.client("bob", enforce_csrf_checks=True)

    assert decide(client, started, "approve").status_code == 403


@pytest.mark.parametrize("code", ["", "WRON-GCOD", "\0", "ü" * 300, "' OR 1=1"])
def test_wrong_code_is_said_to_be_wrong(world: World, code: str) -> None:
    answer = world.client("bob").post("/device/", {"code": code, "decision": "approve"})

    assert answer.status_code == 422
    assert not AuditEntry.objects.filter(operation__startswith="device.").exists()


def test_code_is_taken_as_people_type(world: World) -> None:
    started = Terminal().begin()
    code = started["user_code"].lower().replace("-", " ")

    assert world.client("bob").get(f"/device/?code={code}").status_code == 200


def test_decided_code_is_not_decided_again(world: World) -> None:
    terminal = Terminal()
    started = terminal.begin()
    decide(world.client("bob"), started, "deny")

    assert decide(world.client("alice"), started, "approve").status_code == 422
    assert terminal.poll(started).json()["error"] == "access_denied"


def test_guessing_codes_is_limited_for_each_person(world: World) -> None:
    started = Terminal().begin()
    guesser = world.client("mallory")
    for _ in range(10):
        guesser.get("/device/?code=WRON-GCOD")

    refused = guesser.get(f"/device/?code={started['user_code']}")
    other = world.client("bob").get(f"/device/?code={started['user_code']}")

    assert (refused.status_code, other.status_code) == (422, 200)


# --- Bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"client_id": ""},
        {"client_id": "nobody"},
        {"client_id": "%00"},
        {"client_id": "dbosctl", "scope": "openid everything"},
        {"client_id": "dbosctl", "scope": "%00"},
        {"client_id": "dbosctl", "resource": "no-url"},
        {"client_id": "dbosctl&client_id=other"},
        {"client_id": "%FF"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "endpoint", ["device_authorization_endpoint", "token_endpoint"]
)
def test_bad_request_is_an_error_in_json(endpoint: str, fields: dict[str, str]) -> None:
    terminal = Terminal()
    answer = terminal.post(endpoint, **{"client_id": "", **fields})

    assert answer.status_code in (400, 401)
    assert answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\xfe", b"grant_type"])
@pytest.mark.parametrize("path", ["device-code", "token", "revoke"])
def test_bad_body_is_an_error_in_json(path: str, body: bytes) -> None:
    answer = Client(raise_request_exception=False).post(
        f"/identity/{path}", body, content_type="application/x-www-form-urlencoded"
    )

    assert answer.status_code in (400, 401)
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "grant", ["authorization_code", "password", "client_credentials", "x", "%00"]
)
def test_other_grants_are_refused(grant: str) -> None:
    answer = Terminal().post(
        "token_endpoint",
        grant_type=grant,
        username="bob",
        password="bob+pass+word",
        code="x",
    )

    assert answer.status_code in (400, 401)
    assert not Token.objects.exists()


def test_asking_for_codes_is_limited_for_each_address() -> None:
    terminal = Terminal()
    for _ in range(30):
        terminal.begin()

    answer = terminal.post("device_authorization_endpoint", scope="openid")

    assert answer.status_code == 429
    assert Client().get("/.well-known/openid-configuration").status_code == 200


# --- The signing key ---------------------------------------------------------------


def test_signing_key_is_made_once_and_kept_encrypted() -> None:
    pem = signing.private_key_pem()

    assert signing.private_key_pem() == pem
    assert "PRIVATE KEY" not in SigningKey.objects.get().encrypted_pem


def test_signing_key_under_another_secret_is_replaced(settings: Any) -> None:
    pem = signing.private_key_pem()
    settings.SECRET_KEY = "another one"

    new = signing.private_key_pem()

    assert new != pem
    assert signing.private_key_pem() == new
    assert SigningKey.objects.count() == 1


# --- Wrong tokens ------------------------------------------------------------------


def call(token: str, address: str = "192.0.2.9") -> Any:
    return Client(raise_request_exception=False, REMOTE_ADDR=address).get(
        "/v2/orgs/acme/permissions", HTTP_AUTHORIZATION=f"Bearer {token}"
    )


def test_many_wrong_tokens_from_one_address_are_too_many(world: World) -> None:
    _, tokens = sign_in(world)
    for number in range(wrong_tokens.LIMIT):
        assert call(f"wrong-{number}").status_code == 401

    refused = call("wrong-again")

    assert refused.status_code == 429
    assert refused["Content-Type"] == "application/problem+json"
    assert 0 < int(refused["Retry-After"]) <= wrong_tokens.WINDOW_SECS
    # A right one is taken all the same, and other addresses are others.
    assert call(tokens["access_token"]).status_code == 200
    assert call("wrong", "192.0.2.10").status_code == 401


def test_wrong_tokens_are_forgotten_after_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(wrong_tokens.LIMIT):
        wrong_tokens.count("192.0.2.9")
    later = time.monotonic() + wrong_tokens.WINDOW_SECS
    monkeypatch.setattr(limits.time, "monotonic", lambda: later)

    wrong_tokens.count("192.0.2.9")


def test_counts_of_addresses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_ADDRESSES", 3)
    for number in range(10):
        wrong_tokens.count(f"192.0.2.{number}")

    assert len(wrong_tokens._limit._counts) == 3


def test_network_of_ipv6_is_one_source() -> None:
    wrong_tokens.count("2001:db8::1")
    wrong_tokens.count("2001:db8::2")

    assert len(wrong_tokens._limit._counts) == 1


def test_no_token_at_all_is_no_wrong_one() -> None:
    Client(raise_request_exception=False).get("/v2/orgs/acme/permissions")

    assert not wrong_tokens._limit._counts
    assert callers.MAX_TOKEN_CHARS >= 4096
