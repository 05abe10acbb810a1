"""Whatever is wrong with a request to the API: a problem, never a page, never a 500."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.test import Client

from conductor_site.edge import is_api_path
from tests.e2e.world import Embedded

LIMIT = 100_000
APPS = "/v2/orgs/acme/apps"
WRITE = "application.write"


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDUCTOR_MAX_BODY_BYTES", str(LIMIT))
        running = Embedded(tmp_path_factory.mktemp("problems"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def http(conductor: Embedded) -> Iterator[httpx.Client]:
    conductor.provision("orders")
    headers = {"Authorization": f"Bearer {conductor.provision(permission=WRITE)}"}
    with httpx.Client(base_url=conductor.urls[0], headers=headers) as client:
        yield client


def check(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert {"type", "title", "detail"} <= body.keys() or status == 405
    return body


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2", True),
        ("/v2?x=1", True),
        ("/v2/orgs", True),
        ("/conductor/v1alpha1/api/acme/applications", True),
        ("/openapi.json", True),
        ("/openapi.json/more", False),
        ("/v2x", False),
        ("/orgs/v2", False),
        ("", False),
        ("*", False),
    ],
)
def test_api_path(path: str, expected: bool) -> None:
    assert is_api_path(path) is expected


@pytest.mark.parametrize(
    "path",
    [
        *("/v2", "/v2/", "/v2/nothing", "/v1", "/v1/nothing", "/v1alpha1/x"),
        *("/api/x", "/mcp/x", "/schemas/", "/schemas/Nothing.json", "/conductor/x"),
        *(f"{APPS}/", "/v2//orgs/acme/apps", f"{APPS}/%ff", f"{APPS}/a%00b"),
        f"{APPS}/%ed%a0%80",
    ],
)
def test_unknown_path(http: httpx.Client, path: str) -> None:
    check(http.get(path), 404)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "TRACE", "BREW"])
def test_unknown_method(http: httpx.Client, method: str) -> None:
    response = http.request(method, APPS)

    assert response.status_code == 405
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["allow"] == "GET"
    assert bool(response.content) is (method != "HEAD")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 50_000, 400),
        (b"9" * 10_000, 400),
        (b"[]", 422),
        (b'"x"', 422),
        (b"null", 422),
        (b'{"private_mode": true}', 422),
        (b"", 204),
        (b"{}", 204),
        (b'{"privateMode": "yes"}', 422),
        (b'{"privateMode": "\\ud800"}', 422),
        (b'{"privateMode": NaN}', 422),
        (b'{"privateMode": 1e999}', 422),
        (b'{"privateMode": 99999999999999999999999999}', 422),
        (b'{"unknown": 1}', 422),
        (b'{"\\ud800": "\\udfff"}', 422),
        (b'{"a\\u0000": 1}', 422),
    ],
)
def test_body(http: httpx.Client, body: bytes, status: int) -> None:
    for more in ({}, {"Content-Type": "application/json"}, {"Content-Type": "x/y"}):
        response = http.put(f"{APPS}/orders", content=body, headers=more)
        if status == 204:
            assert (response.status_code, response.content) == (204, b"")
        else:
            check(response, status)


def test_body_over_the_limit(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    for content in (b"x" * (LIMIT + 1), chunks()):
        response = http.put(f"{APPS}/orders", content=content)
        assert "at most 97.7" in check(response, 413)["detail"]


def raw(conductor: Embedded, request: bytes) -> tuple[int, str, bytes]:
    """Send bytes; return the status, the content type and the body."""
    host, port = conductor.urls[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as peer:
        peer.sendall(request)
        response = b""
        while part := peer.recv(65_536):
            response += part
    head, _, body = response.partition(b"\r\n\r\n")
    fields = httpx.Headers(
        [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]  # type: ignore[misc]
    )
    assert "daphne" not in response.decode("latin1").lower()
    return int(head.split()[1]), fields.get("content-type", ""), body


CLOSE = b"Host: localhost\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /v2/orgs\xff HTTP/1.1\r\n" + CLOSE + b"\r\n",
        b"GET /v2/orgs?x=\xff HTTP/1.1\r\n" + CLOSE + b"\r\n",
        b"GET /v2/orgs HTTP/1.1\r\nBad Name: x\r\n" + CLOSE + b"\r\n",
        b"GET /v2/orgs HTTP/1.1\r\nnocolon\r\n" + CLOSE + b"\r\n",
        b"PUT /v2/orgs HTTP/1.1\r\nContent-Length: x\r\n" + CLOSE + b"\r\n",
        b"PUT /v2/orgs HTTP/1.1\r\nContent-Length: -1\r\n" + CLOSE + b"\r\n",
        b"PUT /v2/orgs HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT /v2/orgs HTTP/1.1\r\nTransfer-Encoding: odd\r\n" + CLOSE + b"\r\n",
        b"PUT /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\nzz\r\n",
        b"GET /v2/orgs?" + b"x" * 20_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n",
        b"GET /v2/orgs HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n" + CLOSE + b"\r\n",
        b"GET /v2/orgs HTTP/1.1\r\n" + b"X: x\r\n" * 600 + CLOSE + b"\r\n",
        b"GET /v2/orgs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
def test_what_is_no_request(conductor: Embedded, request_: bytes) -> None:
    status, content_type, body = raw(conductor, request_)

    assert (status, content_type) == (400, "application/problem+json"), body
    assert json.loads(body)["status"] == 400


def test_target_with_an_authority_is_a_path(conductor: Embedded) -> None:
    for target in (b"http://localhost/v2/x", b"HTTPS://localhost/v2/x?y=1"):
        answer = raw(conductor, b"GET " + target + b" HTTP/1.1\r\n" + CLOSE + b"\r\n")
        assert answer[:2] == (404, "application/problem+json")
    assert raw(conductor, b"GET http://x HTTP/1.1\r\n" + CLOSE + b"\r\n")[0] == 200


def test_page_of_another_site_may_not_call(http: httpx.Client) -> None:
    path = f"{APPS}/orders"
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ):
        check(http.put(path, headers=headers), 403)
    own = {"Origin": str(http.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert http.put(path, headers=own).status_code == 204


def test_every_answer_carries_the_headers_of_security(http: httpx.Client) -> None:
    for path in (APPS, "/v2/nothing", "/openapi.json"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] in ("no-store", "no-cache")


def test_a_failure_of_ours_is_logged_once_and_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr("apps.registry.callers.authenticate", fail)
    with caplog.at_level(logging.WARNING):
        response = Client(headers={"host": "localhost"}).get(APPS)

    assert response.status_code == 500
    assert response["Content-Type"] == "application/problem+json"
    assert b"secret" not in response.content and b"Traceback" not in response.content
    assert [record.getMessage() for record in caplog.records] == [
        "an operation of the API failed"
    ]


def test_what_a_client_did_wrong_is_no_news(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert Client(headers={"host": "localhost"}).get(APPS).status_code == 401

    assert caplog.records == []
