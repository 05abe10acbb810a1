"""Clients that never come to the end of their request."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.site.test_server import Running, probe

SECS = 2.0
MANY = 20
# Of what a patient client would be given, and a busy machine takes.
AT_MOST_SECS = 25.0
HANDSHAKE = b"GET /echo/app/key HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
FORM = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("deadlines") / "log"
    with probe(log, head_secs=SECS, body_secs=SECS, max_unfinished=MANY) as running:
        yield running


def dribble(port: int, beginning: bytes) -> tuple[bytes, float]:
    """Send a byte ten times a second; return what the server says, and when."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(0.1)
        client.sendall(beginning)
        while time.monotonic() - began < AT_MOST_SECS:
            client.sendall(b"x")
            try:
                return client.recv(4096), time.monotonic() - began
            except TimeoutError:
                continue
    return b"", time.monotonic() - began


@pytest.mark.parametrize(
    ("beginning", "least_secs"),
    [(b"GET / HTTP/1.1\r\nHost: x\r\nX: ", SECS), (HANDSHAKE, SECS), (FORM, 2 * SECS)],
)
def test_dribbled_request_ends_in_time(
    server: Running, beginning: bytes, least_secs: float
) -> None:
    answer, secs = dribble(server.port, beginning)

    assert answer.startswith(b"HTTP/1.1 408 Request Time-out\r\n")
    assert b"application/problem+json" in answer
    assert secs >= least_secs


def test_second_request_of_a_connection_has_a_deadline_of_its_own(
    server: Running,
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(AT_MOST_SECS)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        # Between two requests one may rest for longer.
        time.sleep(SECS + 1.5)
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET / HT")
        assert client.recv(4096).startswith(b"HTTP/1.1 408")


def test_unfinished_requests_of_one_address_are_bounded(server: Running) -> None:
    clients = [
        socket.create_connection(("127.0.0.1", server.port)) for _ in range(MANY)
    ]
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as another:
            another.settimeout(AT_MOST_SECS)
            assert another.recv(4096).startswith(b"HTTP/1.1 429 Too Many Requests")
    finally:
        for client in clients:
            client.close()
    server.wait_for_log("no HTTP request 429", within_s=AT_MOST_SECS)
    with server.connect("/echo/app/key") as websocket:
        websocket.send("still here")
        assert websocket.recv(AT_MOST_SECS) == "still here"
