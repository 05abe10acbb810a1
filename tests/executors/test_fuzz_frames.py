"""Nonsense from one executor harms no other connection and raises nothing unhandled.

The real server runs in a process of its own. A well-behaved bystander is connected all
the time; after everything its first connection must still be the one that answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = "fuzzed"
MEGABYTE = 2**20
UNHANDLED = ("Traceback", "ERROR", "CRITICAL", "Unhandled", "never retrieved")


@dataclass
class Server:
    """The server process, where it is, and a key for it."""

    base: str
    key: str
    log: Path
    process: subprocess.Popen[bytes]
    # What tells another process of the same Conductor where its data is.
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return f"{self.base}/websocket/{APPLICATION}/{self.key}"

    def complaints(self) -> list[str]:
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(mark in line for mark in UNHANDLED)]


@dataclass
class Bystander:
    """A well-behaved executor that shall not notice anything."""

    url: str
    asked: int = 0
    losses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = connect(
            self.url, compression=None, max_size=None, legacy=True
        )
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        try:
            for text in self.connection:
                request = json.loads(text)
                self.asked += 1
                self.connection.send(json.dumps(self.answer(request)))
        except ConnectionClosed as exc:
            self.losses.append(str(exc))
        else:
            self.losses.append("closed by the server")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return honest(request, "bystander")


def honest(request: dict[str, Any], executor_id: str) -> dict[str, Any]:
    """Answer as an executor without workflows does."""
    reply = {"type": request["type"], "request_id": request["request_id"]}
    match request["type"]:
        case "executor_info":
            return {
                **reply,
                "executor_id": executor_id,
                "application_version": "v1",
                "language": "python",
                "dbos_version": "3.2.0",
            }
        case "exist_pending_workflows":
            return {**reply, "exist": False}
        case _:
            return {**reply, "output": [], "success": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data = tmp_path_factory.mktemp("fuzz")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # At full scale, of services mode, where it is given a database.
    others = {"DJANGO_SETTINGS_MODULE"}
    if os.environ.get("CHAOS") != "full":
        others |= {"DATABASE_URL", "REDIS_URL"}
    environment = {k: v for k, v in os.environ.items() if k not in others}
    environment |= {
        "PORT": str(port),
        "CONDUCTOR_DATA_DIR": str(data),
        "CONDUCTOR_EXECUTOR_TIMEOUT_SECS": "1",
        "CONDUCTOR_SWEEP_SECS": "0.5",
        "CONDUCTOR_SNAPSHOT_SECS": "0.5",
    }
    log = data / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "conductor_site.server"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: is_up(port, process), secs=60)
        provisioned = subprocess.run(
            [
                sys.executable,
                "manage.py",
                "provision",
                "--org=fuzz",
                "--email=fuzz@example.com",
                f"--password={secrets.token_urlsafe(20)}",
                f"--app={APPLICATION}",
                "--key-name=fuzz",
                "--json",
            ],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        key = json.loads(provisioned.stdout.strip().splitlines()[-1])["key"]
        yield Server(f"ws://127.0.0.1:{port}", key, log, process, environment)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def bystander(server: Server) -> Iterator[Bystander]:
    bystander = Bystander(server.url)
    wait_until(lambda: bystander.asked > 0, secs=10)
    yield bystander
    bystander.connection.close()


@pytest.fixture(autouse=True)
def nobody_else_suffers(server: Server, bystander: Bystander) -> Iterator[None]:
    complaints = len(server.complaints())
    yield
    # The bystander is still asked things, on the connection it opened first.
    asked = bystander.asked
    with contextlib.closing(introduced(server, f"after-{secrets.token_hex(4)}")):
        bystander.connection.ping().wait(10)
    wait_until(lambda: bystander.asked > asked or bystander.losses, secs=30)
    assert bystander.losses == []
    assert server.process.poll() is None
    assert server.complaints()[complaints:] == []


def wait_until(reached: Callable[[], object], *, secs: float) -> None:
    deadline = time.monotonic() + secs
    while not reached():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def is_up(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the server ended"
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/healthz", timeout=2
        ) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def dial(server: Server) -> ClientConnection:
    return connect(
        server.url, compression=None, max_size=None, close_timeout=1, legacy=True
    )


def introduced(server: Server, executor_id: str) -> ClientConnection:
    connection = dial(server)
    request = json.loads(connection.recv(10))
    connection.send(json.dumps(honest(request, executor_id)))
    return connection


def drain(connection: ClientConnection, secs: float = 0.3) -> None:
    """Let the server react; it may close, which is its right."""
    with contextlib.suppress(ConnectionClosed, TimeoutError):
        while True:
            connection.recv(secs)


NONSENSE: dict[str, str | bytes] = {
    "empty": "",
    "not json": "{]",
    "half a message": '{"type": "executor_info", "request_id": "',
    "null": "null",
    "number": "1e999",
    "string": '"hello"',
    "list": "[1, 2, 3]",
    "empty object": "{}",
    "bare nan": '{"type": "executor_info", "request_id": NaN}',
    "request id of wrong type": '{"type": "recovery", "request_id": {"a": []}}',
    "unknown request id": '{"type": "list_workflows", "request_id": "nobody-asked"}',
    "unknown type": '{"type": "launch_missiles", "request_id": "1"}',
    "type of wrong type": '{"type": 5, "request_id": "1"}',
    "nul characters": '{"type": "\\u0000", "request_id": "\\u0000"}',
    "lone surrogate": '{"type": "\\ud800", "request_id": "\\udfff"}',
    "deep nesting": "[" * 100_000,
    "deep object": '{"a":' * 50_000,
    "huge number": '{"request_id": ' + "9" * 20_000 + "}",
    "many keys": json.dumps({f"k{n}": n for n in range(50_000)}),
    "binary": b"\x00\xff\xfe" * 100,
    "binary json": b'{"type": "executor_info", "request_id": "1"}',
}


@pytest.mark.parametrize("frame", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_before_the_introduction(server: Server, frame: str | bytes) -> None:
    with contextlib.closing(dial(server)) as connection:
        for _ in range(3):
            with contextlib.suppress(ConnectionClosed):
                connection.send(frame)

        drain(connection)


def test_nonsense_from_an_introduced_executor(server: Server) -> None:
    with contextlib.closing(introduced(server, "talker")) as connection:
        for frame in NONSENSE.values():
            with contextlib.suppress(ConnectionClosed):
                connection.send(frame)

        drain(connection, 1)


def closing_code(connection: ClientConnection) -> int | None:
    """Return the code with which the server closes, once what it sent is read; None
    where it does not close."""
    deadline = time.monotonic() + 20
    try:
        while time.monotonic() < deadline:
            connection.recv(10)
    except ConnectionClosed as exc:
        return exc.rcvd.code if exc.rcvd else None
    except TimeoutError:
        return None
    return None


def test_what_nobody_asked_for_is_small(server: Server) -> None:
    """The answer to `executor_info` is the only one that a new connection owes."""
    with contextlib.closing(dial(server)) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send("x" * (64 * 1024 + 1))
        assert closing_code(connection) == 1009
    with contextlib.closing(dial(server)) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(iter(["x" * 40_000, "x" * 40_000]))
        assert closing_code(connection) == 1009


def test_a_flood_of_frames_closes_its_connection(server: Server) -> None:
    with contextlib.closing(introduced(server, "flood")) as connection:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20_000):
                connection.send("{}")
        assert closing_code(connection) == 1008
    with contextlib.closing(introduced(server, "pings")) as connection:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(20_000):
                connection.ping()
        assert closing_code(connection) == 1008


@pytest.mark.parametrize("kind", [str, bytes])
def test_fifty_megabytes(server: Server, kind: type) -> None:
    body = "x" * (50 * MEGABYTE)
    frame = '{"type": "list_workflows", "request_id": "1", "output": "' + body + '"}'
    with contextlib.closing(introduced(server, "heavy")) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(frame if kind is str else frame.encode())

        drain(connection, 2)


def test_invalid_utf8_in_a_text_frame(server: Server) -> None:
    with contextlib.closing(introduced(server, "mangled")) as connection:
        with contextlib.suppress(ConnectionClosed):
            connection.send(b'{"type": "\xff\xfe"}', text=True)

        drain(connection)


WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    5,
    -1.5,
    float("nan"),
    "",
    "\u0000",
    "\ud800",
    "x" * 100_000,
    [],
    [None],
    [[]],
    {},
    {"a": {"b": [1]}},
    10**400,
)


@pytest.mark.parametrize(
    "name",
    [
        "executor_id",
        "application_version",
        "hostname",
        "language",
        "dbos_version",
        "executor_metadata",
        "error_message",
        "type",
    ],
)
def test_wrong_types_in_the_introduction(server: Server, name: str) -> None:
    for value in WRONG_VALUES:
        with contextlib.closing(dial(server)) as connection:
            request = json.loads(connection.recv(10))
            connection.send(json.dumps({**honest(request, "odd"), name: value}))

            drain(connection, 0.1)


def test_the_introduction_answered_many_times(server: Server) -> None:
    with contextlib.closing(dial(server)) as connection:
        request = json.loads(connection.recv(10))
        for number in range(20):
            connection.send(json.dumps(honest(request, f"many-{number}")))

        drain(connection)


def test_wrong_types_twice_in_every_answer(server: Server) -> None:
    """A liar is the only executor of its version, so it gets real questions."""
    asked = set()
    with contextlib.closing(introduced(server, "liar")) as connection:
        with contextlib.closing(introduced(server, "victim")):
            pass  # it dies, so there is something to recover
        ends_at = time.monotonic() + 12
        turn = 0
        while time.monotonic() < ends_at:
            try:
                request = json.loads(connection.recv(1))
            except TimeoutError:
                continue
            except ConnectionClosed:
                connection = introduced(server, "liar")
                continue
            asked.add(request["type"])
            turn += 1
            wrong = WRONG_VALUES[turn % len(WRONG_VALUES)]
            lie = {
                "type": request["type"],
                "request_id": request["request_id"],
                "error_message": wrong if turn % 3 == 0 else None,
                "success": wrong,
                "exist": wrong,
                "output": [{"WorkflowUUID": wrong, "CreatedAt": wrong}, wrong]
                if turn % 2
                else wrong,
            }
            with contextlib.suppress(ConnectionClosed):
                connection.send(json.dumps(lie))
                connection.send(json.dumps(lie))
                connection.send(json.dumps({**lie, "success": False}))

    assert asked


def test_answers_to_questions_put_to_another_connection(server: Server) -> None:
    """A request id learned elsewhere must not work here."""
    with contextlib.closing(dial(server)) as first:
        request = json.loads(first.recv(10))
        with contextlib.closing(introduced(server, "thief")) as thief:
            thief.send(json.dumps(honest(request, "stolen")))
            drain(thief)
        first.send(json.dumps(honest(request, "rightful")))

        drain(first)


def test_half_a_handshake_and_raw_bytes(server: Server) -> None:
    host, _, port = server.base.removeprefix("ws://").partition(":")
    path = server.url.removeprefix(server.base)
    for data in (
        b"\x00" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        f"GET {path} HTTP/1.1\r\nUpgrade: websocket\r\n".encode(),
    ):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(data)
            time.sleep(0.2)


def test_a_refused_dial_does_not_disturb(server: Server) -> None:
    for path in ("/websocket/nope/nope", "/websocket/%00/%ff", "/websocket//", "/x"):
        with (
            pytest.raises((InvalidHandshake, OSError, EOFError)),
            connect(server.base + path),
        ):
            pass
