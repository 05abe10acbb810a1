"""Who waits, who is refused and who is served while far more ask than can be served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

from apps.registry import acquainted
from conductor_site import gate
from conductor_site.gate import Gate


@pytest.fixture(autouse=True)
def nobody_known() -> Iterator[None]:
    yield
    acquainted.clear()


class Site:
    """Answers when it may, and counts how many it serves at once."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.may_go = asyncio.Event()
        if is_open:
            self.may_go.set()
        self.now = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.may_go.wait()
        self.now -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    entrance: Gate,
    path: str,
    *,
    method: str = "GET",
    address: str = "::1",
    **headers: str,
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "client": [address, 5],
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }
    await entrance(scope, None, send)  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def test_anonymous_requests_leave_room_for_whoever_is_signed_in() -> None:
    site = Site()
    entrance = Gate(site, anonymous=4)
    acquainted.note(acquainted.fingerprint("token"))
    many = [
        asyncio.create_task(ask(entrance, "/accounts/login/", address=f"192.0.2.{n}"))
        for n in range(200)
    ]
    await asyncio.sleep(0.05)
    assert site.now == 4

    known = asyncio.create_task(ask(entrance, "/v2/orgs", authorization="Bearer token"))
    newcomer = asyncio.create_task(
        ask(entrance, "/orgs/acme/apps/", cookie="conductor_session=abc")
    )
    await asyncio.sleep(0.05)
    assert site.now == 6
    site.may_go.set()

    answers = await asyncio.gather(known, newcomer, *many)
    assert {status for status, _, _ in answers} == {200}


async def test_newcomers_found_to_be_good_stand_in_nobodys_way() -> None:
    """Their first request may wait long for an executor."""
    site = Site()

    async def authenticate_then_serve(scope: Any, receive: Any, send: Any) -> None:
        credential = gate.credential_of(scope)
        if scope["path"] == "/v2/good":
            await asyncio.to_thread(acquainted.note, credential)
        await site(scope, receive, send)

    entrance = Gate(authenticate_then_serve, newcomers=1)
    good = [
        asyncio.create_task(ask(entrance, "/v2/good", authorization=f"Bearer {n}"))
        for n in range(20)
    ]
    while site.now < 20:
        await asyncio.sleep(0.01)
    bad = [
        asyncio.create_task(ask(entrance, "/v2/bad", authorization=f"Bearer bad-{n}"))
        for n in range(20)
    ]
    await asyncio.sleep(0.05)
    assert site.now == 21
    site.may_go.set()

    assert {status for status, _, _ in await asyncio.gather(*good, *bad)} == {200}
    assert entrance.newcomers.turns._value == 1
    assert acquainted._awaited == {}


async def test_one_caller_is_served_few_at_once_and_sixty_tabs_in_the_end() -> None:
    site = Site()
    entrance = Gate(site, per_caller=8)
    acquainted.note(acquainted.fingerprint("abc"))
    tabs = [
        asyncio.create_task(ask(entrance, "/", cookie="conductor_session=abc"))
        for _ in range(60)
    ]
    await asyncio.sleep(0.05)
    site.may_go.set()

    answers = await asyncio.gather(*tabs)

    assert {status for status, _, _ in answers} == {200}
    assert site.most == 8
    assert entrance.callers == {}


async def test_waiting_from_one_address_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    entrance = Gate(site, anonymous=1)
    many = [
        asyncio.create_task(ask(entrance, "/accounts/login/"))
        for _ in range(gate.WAITING_PER_SOURCE + 11)
    ]
    await asyncio.sleep(0.05)
    site.may_go.set()

    statuses = [status for status, _, _ in await asyncio.gather(*many)]

    assert statuses.count(429) == 10


async def test_wait_is_bounded_and_refused_as_the_path_wants_it() -> None:
    entrance = Gate(Site(), newcomers=1, wait_secs=0.01)
    first = asyncio.create_task(ask(entrance, "/v2/orgs", authorization="Bearer x"))
    await asyncio.sleep(0)

    status, headers, body = await ask(entrance, "/v2/orgs", authorization="Bearer y")
    first.cancel()

    assert (status, headers[b"retry-after"]) == (503, b"5")
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["status"] == 503


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/identity/token", settings.CONDUCTOR_IDENTITY_REQUESTS_PER_MINUTE),
        ("/identity/device-code", settings.CONDUCTOR_IDENTITY_REQUESTS_PER_MINUTE),
        ("/accounts/signup/", settings.CONDUCTOR_ACCOUNT_REQUESTS_PER_MINUTE),
        ("/accounts/password/reset/", settings.CONDUCTOR_ACCOUNT_REQUESTS_PER_MINUTE),
    ],
)
async def test_what_needs_no_account_is_limited_for_each_address(
    path: str, limit: int
) -> None:
    entrance = Gate(Site(is_open=True))
    statuses = [(await ask(entrance, path, method="POST"))[0] for _ in range(limit)]
    assert set(statuses) == {200}

    status, headers, _ = await ask(entrance, path, method="POST")

    assert status == 429
    assert 0 < int(headers[b"retry-after"]) <= 60
    other, _, _ = await ask(entrance, path, method="POST", address="192.0.2.1")
    assert other == 200


@pytest.mark.parametrize("path", ["/healthz", "/static/app.css", "/v2/orgs"])
async def test_what_needs_no_database_waits_for_nobody(path: str) -> None:
    entrance = Gate(Site(is_open=True), anonymous=0)

    assert (await ask(entrance, path))[0] == 200
