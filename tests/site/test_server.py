"""The server, spoken to over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from conductor_site.daphne_server import ExecutorProtocol, Request, redact_path

ROOT = Path(__file__).resolve().parents[2]
KEY = "dbos_thisisasecret"
LIMIT = 1_000_000


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    log: Path

    def connect(self, path: str) -> ClientConnection:
        url = f"ws://127.0.0.1:{self.port}{path}"
        return connect(url, proxy=None, max_size=None, ping_interval=None)

    def refusal(self, path: str) -> InvalidStatus:
        with pytest.raises(InvalidStatus) as caught:
            self.connect(path)
        return caught.value

    def wait_for_log(self, text: str, *, within_s: float) -> float:
        started = time.monotonic()
        while text not in self.log.read_text():
            assert time.monotonic() - started < within_s, self.log.read_text()
            time.sleep(0.05)
        return time.monotonic() - started


@contextlib.contextmanager
def probe(log: Path, *, ping_secs: float = 10, **settings: float) -> Iterator[Running]:
    settings = {
        "max_message_bytes": LIMIT,
        "ping_secs": ping_secs,
        "pong_secs": ping_secs,
        "head_secs": 30,
        "body_secs": 60,
        "max_unfinished": 100,
    } | settings
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "tests.site.asgi_probe", json.dumps(settings)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield Running(process, int(process.stdout.readline() or 0), log)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with probe(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


def raw_websocket(port: int, path: str = "/echo/app/key") -> socket.socket:
    """Open a websocket whose peer will never answer anything."""
    raw = socket.create_connection(("127.0.0.1", port))
    raw.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert b" 101 " in raw.recv(4096)
    return raw


def test_denial_carries_status_headers_and_body(server: Running) -> None:
    response = server.refusal("/deny").response

    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-more"] == "yes"
    assert json.loads(response.body or b"") == {"status": 401, "title": "no such key"}


@pytest.mark.parametrize(("path", "status"), [("/close", 403), ("/raise", 500)])
def test_refusal_without_words_is_json_all_the_same(
    server: Running, path: str, status: int
) -> None:
    response = server.refusal(path).response

    assert response.status_code == status
    assert json.loads(response.body or b"")["status"] == status


def test_no_answer_names_a_version(server: Running) -> None:
    response = server.refusal("/deny").response

    assert response.headers["server"] == "conductor"
    with server.connect("/echo") as websocket:
        assert websocket.response is not None
        assert websocket.response.headers["server"] == "conductor"


def test_compression_is_not_negotiated(server: Running) -> None:
    with server.connect("/echo") as websocket:
        assert websocket.protocol.extensions == []


def test_close_code_and_reason_reach_the_peer(server: Running) -> None:
    with server.connect("/reason") as websocket, pytest.raises(ConnectionClosed):
        websocket.recv(timeout=5)

    assert (websocket.close_code, websocket.close_reason) == (1008, "go away")


def test_sending_on_a_closed_connection_is_an_os_error(server: Running) -> None:
    with server.connect("/late") as websocket, pytest.raises(ConnectionClosed):
        websocket.recv(timeout=5)

    server.wait_for_log("late: The connection is closed", within_s=5)


def test_message_over_the_limit_closes_only_its_connection(server: Running) -> None:
    with server.connect("/echo") as other, server.connect("/echo") as guilty:
        with contextlib.suppress(ConnectionClosed):
            guilty.send("x" * (LIMIT + 1))
        with pytest.raises(ConnectionClosed):
            guilty.recv(timeout=5)
        other.send("y" * LIMIT)

        assert guilty.close_code == 1009
        assert other.recv(timeout=5) == "y" * LIMIT


def test_peer_that_never_pongs_is_noticed(tmp_path: Path) -> None:
    with probe(tmp_path / "log", ping_secs=1) as running, raw_websocket(running.port):
        assert running.wait_for_log("gone", within_s=5) > 1.5


def test_peer_that_pongs_stays(tmp_path: Path) -> None:
    with (
        probe(tmp_path / "log", ping_secs=1) as running,
        running.connect("/echo") as websocket,
    ):
        time.sleep(5)
        websocket.send("still here")

        assert websocket.recv(timeout=5) == "still here"


def test_peer_in_the_middle_of_a_long_reply_stays(tmp_path: Path) -> None:
    with probe(tmp_path / "log", ping_secs=1) as running:
        raw = raw_websocket(running.port)
        length = 40
        raw.sendall(bytes([0x81, 0x80 | length, 0, 0, 0, 0]))
        for _ in range(length // 4):
            raw.sendall(b"aaaa")
            time.sleep(0.5)

        assert b"a" * length in raw.recv(4096) + raw.recv(4096)


def test_key_is_in_no_log(tmp_path: Path) -> None:
    with probe(tmp_path / "log") as running:
        for path in (f"/deny/app/{KEY}", f"/close/{KEY}", f"/raise/{KEY}"):
            running.refusal(f"{path}?key={KEY}")
        with running.connect(f"/websocket/my-app/{KEY}"):
            pass
        running.wait_for_log("gone", within_s=5)
        running.wait_for_log("broken on purpose", within_s=5)

        text = running.log.read_text()
        assert "websocket refused with 401 /deny/app/[redacted]" in text
        assert KEY not in text
        assert KEY.removeprefix("dbos_") not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_says_goodbye_and_ends_the_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    with probe(tmp_path / "log") as running, running.connect("/echo") as websocket:
        started = time.monotonic()
        running.process.send_signal(number)
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=5)

        assert websocket.close_code == 1001
        assert running.process.wait(5) == 0
        assert time.monotonic() - started < 3


def test_neither_hung_application_nor_silent_peer_holds_the_process(
    tmp_path: Path,
) -> None:
    with probe(tmp_path / "log") as running, raw_websocket(running.port):
        hung = socket.create_connection(("127.0.0.1", running.port))
        hung.sendall(
            b"GET /hang HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        time.sleep(0.3)
        running.process.terminate()

        assert running.process.wait(5) == 0


def test_blocked_thread_does_not_hold_the_process(tmp_path: Path) -> None:
    with probe(tmp_path / "log") as running, running.connect("/echo") as websocket:
        websocket.send("block")
        websocket.recv(timeout=5)
        running.process.terminate()

        assert running.process.wait(6) == 0


def test_answer_that_breaks_off_has_no_end(server: Running) -> None:
    with pytest.raises(http.client.IncompleteRead) as broken:
        get(server.port, "/breaks").read()

    assert broken.value.partial == b"some"
    server.wait_for_log("broke off /breaks", within_s=1)


def test_long_answer_waits_for_a_client_that_reads_slowly(tmp_path: Path) -> None:
    with probe(tmp_path / "log") as running:
        answer = get(running.port, "/long")
        time.sleep(0.5)
        # What the kernel holds of it, and not all that there is.
        assert "part 30" not in running.log.read_text()
        assert len(answer.read()) == 100 * 2**20


def test_client_that_reads_no_further_is_given_up(tmp_path: Path) -> None:
    with probe(tmp_path / "log", http_secs=1) as running:
        answer = get(running.port, "/long")
        running.wait_for_log("broke off /long", within_s=8)

        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            answer.read()


def get(port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    return connection.getresponse()


def test_same_application_runs_under_uvicorn() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--ws", "websockets-sansio"]
    command += ["--port", str(port), "tests.site.asgi_probe:application"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            running = Running(process, port, Path())  # type: ignore[arg-type]
            while True:
                with contextlib.suppress(ConnectionRefusedError):
                    response = running.refusal("/deny").response
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert response.status_code == 401
            assert json.loads(response.body or b"")["title"] == "no such key"
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("path", "is_websocket", "expected"),
    [
        (f"/websocket/app/{KEY}", True, "/websocket/app/[redacted]"),
        (f"/x/websocket/app/{KEY}?a=b", False, "/x/websocket/app/[redacted]"),
        ("/websocket/a/b/plainkey", True, "/websocket/a/[redacted]"),
        ("/wrong/app/plainkey", True, "/wrong/app/[redacted]"),
        ("/invitations/abc/", False, "/invitations/[redacted]"),
        ("/accounts/password/reset/key/1-a/", False, None),
        ("/orgs/acme/keys/?q=1", False, "/orgs/acme/keys/"),
    ],
)
def test_redacted_path(path: str, is_websocket: bool, expected: str | None) -> None:
    assert redact_path(path, is_websocket=is_websocket) == (
        expected or "/accounts/password/reset/key/[redacted]"
    )


def test_repr_hides_the_key() -> None:
    websocket = ExecutorProtocol()
    websocket.path = f"/websocket/app/{KEY}".encode()
    request = Request.__new__(Request)
    request.uri, request.client_addr = websocket.path, None

    assert "[redacted]" in repr(websocket)
    assert "[redacted]" in repr(request)
    assert "secret" not in repr(websocket) + repr(request)


def frame(opcode: int, payload: bytes, *, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Return a client's final frame of up to 125 bytes."""
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked


@pytest.mark.parametrize("payload", [b"", b"a", b"four", b"x" * 125])
def test_ping_is_answered_with_its_payload(server: Running, payload: bytes) -> None:
    with raw_websocket(server.port) as raw:
        raw.settimeout(10)
        raw.sendall(frame(0x9, payload))

        assert raw.recv(200) == bytes((0x8A, len(payload))) + payload


def test_pings_in_pieces_and_between_other_frames_are_answered(server: Running) -> None:
    ping, text = frame(0x9, b"one"), frame(0x1, b"hello")
    with raw_websocket(server.port) as raw:
        raw.settimeout(10)
        for piece in (ping[:1], ping[1:], ping + text, text[:3], text[3:] + ping):
            raw.sendall(piece)
            time.sleep(0.05)
        expected = 3 * b"\x8a\x03one" + 2 * b"\x81\x05hello"
        answered = b""
        while len(answered) < len(expected):
            answered += raw.recv(200)

    assert sorted(answered) == sorted(expected)
