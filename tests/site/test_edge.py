"""Client addresses behind proxies, and what a request may carry."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from asgiref.testing import ApplicationCommunicator

from conductor_site import edge
from conductor_site.edge import BodyLimit, TrustedProxies, forwarded_address
from tests.e2e.world import Embedded

LIMIT = 100_000


@pytest.mark.parametrize(
    ("header", "count", "expected"),
    [
        ("203.0.113.7", 1, "203.0.113.7"),
        ("1.1.1.1, 203.0.113.7", 1, "203.0.113.7"),
        ("1.1.1.1, 203.0.113.7, 10.0.0.2", 2, "203.0.113.7"),
        ("203.0.113.7:4711", 1, "203.0.113.7"),
        ("[2001:db8::1]:443", 1, "2001:db8::1"),
        ("2001:db8::1", 1, "2001:db8::1"),
        # Fewer than there are proxies: it did not come through all of them.
        ("203.0.113.7", 2, None),
        ("", 1, None),
        ("unknown", 1, None),
        ("<script>", 1, None),
    ],
)
def test_forwarded_address(header: str, count: int, expected: str | None) -> None:
    headers = [(b"x-forwarded-for", header.encode())]

    assert forwarded_address(headers, count) == expected


def test_header_given_twice_is_one_list() -> None:
    headers = [(b"x-forwarded-for", b"1.1.1.1"), (b"X-Forwarded-For", b"2.2.2.2")]

    assert forwarded_address(headers, 1) == "2.2.2.2"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(("count", "expected"), [(0, "127.0.0.1"), (1, "2.2.2.2")])
async def test_address_of_a_connection(kind: str, count: int, expected: str) -> None:
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope)

    scope = {
        "type": kind,
        "client": ["127.0.0.1", 5],
        "headers": [(b"x-forwarded-for", b"1.1.1.1, 2.2.2.2")],
    }
    await TrustedProxies(application, count)(scope, None, None)  # type: ignore[arg-type]

    assert seen["client"][0] == expected


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    ("declared", "parts", "status"),
    [
        (b"10", [b"x" * 10], 200),
        (None, [b"x" * 5, b"x" * 5], 200),
        (b"11", [], 413),
        (None, [b"x" * 5, b"x" * 6], 413),
        # A lie is found out.
        (b"1", [b"x" * 11], 413),
    ],
)
async def test_body_limit(
    declared: bytes | None, parts: list[bytes], status: int
) -> None:
    headers = [(b"content-length", declared)] if declared else []
    scope = {"type": "http", "path": "/", "headers": headers}
    peer = ApplicationCommunicator(BodyLimit(read_all, 10), scope)
    for number, part in enumerate(parts, 1):
        more = number < len(parts)
        await peer.send_input({"type": "http.request", "body": part, "more_body": more})

    start = await peer.receive_output()

    assert start["status"] == status
    if status == 413:
        page = (await peer.receive_output())["body"].decode()
        assert "Request Entity Too Large" in page and "10" in page


# --- The real server ---


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDUCTOR_MAX_BODY_BYTES", str(LIMIT))
        patch.setenv("CONDUCTOR_TRUSTED_PROXIES", "1")
        running = Embedded(tmp_path_factory.mktemp("edge"))
    try:
        yield running
    finally:
        running.stop()


def test_body_over_the_limit_is_answered_with_a_page(conductor: Embedded) -> None:
    for body in (b"x" * LIMIT, b"x" * (LIMIT + 1), b"x" * (2 * LIMIT)):
        answer = httpx.post(f"{conductor.urls[0]}/accounts/login/", content=body)
        assert answer.status_code == (403 if len(body) == LIMIT else 413)
    assert "Request Entity Too Large" in answer.text
    assert "97.7" in answer.text


def test_chunked_body_over_the_limit_too(conductor: Embedded) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    answer = httpx.post(f"{conductor.urls[0]}/accounts/login/", content=chunks())

    assert answer.status_code == 413


def test_endless_body_is_cut_off(conductor: Embedded) -> None:
    host, port = conductor.urls[0].removeprefix("http://").split(":")
    sent = 0
    with socket.create_connection((host, int(port))) as raw:
        raw.settimeout(20)
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        with pytest.raises(OSError):
            while sent < 50_000_000:
                raw.sendall(b"x" * 65_536)
                sent += 65_536

    assert sent < 20_000_000
    assert httpx.get(f"{conductor.urls[0]}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("path", "received", "asked", "limit"),
    [
        ("/websocket/orders/dbos_key", 0, 1, 64 * 1024),  # the introduction
        ("/websocket/orders/dbos_key", 1, 0, 64 * 1024),  # what nobody asked for
        ("/websocket/orders/dbos_key", 1, 1, 2**24),
        ("/conductor/v1alpha1/websocket/orders/dbos_key/", 1, 1, 2**24),
        ("/orgs/acme/apps/orders/live/", 1, 1, 1024),
        ("/", 1, 1, 1024),
    ],
)
def test_messages_are_as_large_as_somebody_needs(
    path: str, received: int, asked: int, limit: int
) -> None:
    assert edge.message_limit(2**24)(path, received, asked) == limit
