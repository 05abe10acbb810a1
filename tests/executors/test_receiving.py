"""Answers that never end hold little memory, and nobody else's answers up."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import psutil
import pytest
from websockets.sync.client import connect

from tests.executors.test_fuzz_frames import Bystander, Server, honest, wait_until
from tests.executors.test_fuzz_frames import server as server
from tests.executors.test_hostile_tenant import Reader, provision

MIB = 2**20
ANSWER = 12 * MIB
OUTPUT = ANSWER - 4096
HOSTILE = 30
# One organization's share is 32 MiB; the rest is what the process needs otherwise.
MORE_MEMORY = 100 * MIB
PATIENCE_SECS = 5.0


class Large(Bystander):
    """Answers honestly; the steps of a workflow are as large as an answer may be."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["type"] != "list_steps":
            return super().answer(request)
        step = {"function_id": 1, "function_name": "f", "output": "x" * OUTPUT}
        return {**super().answer(request), "output": [step]}


class Unending:
    """Begins a large answer to what it is asked, and never ends it."""

    def __init__(self, url: str) -> None:
        self.websocket = connect(url, compression=None, max_size=None, legacy=True)
        for _ in range(2):  # The introduction, and which database it works on.
            request = json.loads(self.websocket.recv(20))
            if request["type"] == "executor_info":
                self.websocket.send(json.dumps(honest(request, f"unending-{id(self)}")))
        self.thread = threading.Thread(target=self.begin, daemon=True)
        self.thread.start()

    def begin(self) -> None:
        head = bytes((0x81, 0xFF)) + ANSWER.to_bytes(8, "big") + bytes(4)
        with contextlib.suppress(OSError):
            self.websocket.socket.sendall(head + b"x" * (ANSWER - MIB))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.websocket.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        self.websocket.close()


@pytest.fixture
def unending() -> Iterator[list[Unending]]:
    connections: list[Unending] = []
    yield connections
    for one in connections:
        one.close()


def memory(server: Server) -> int:
    """Return what the process with the sockets holds."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


def large_answer(reader: Reader) -> int:
    """Read the steps of a workflow; return how long the output of the first is."""
    steps = cast("list[dict[str, Any]]", reader.get("/workflows/w/steps"))
    return len(steps[0]["output"])


def url(server: Server, application: str, key: str) -> str:
    return f"{server.base}/websocket/{application}/{key}"


def in_background(call: Callable[[], int]) -> Callable[[], int]:
    """Begin a call; return what waits for its result."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def wait() -> int:
        thread.join(30)
        return results[0]

    return wait


def test_many_unended_answers_hold_little(
    server: Server, unending: list[Unending]
) -> None:
    hostile_key, good_key = provision(server, "unended"), provision(server, "patient")
    good = Large(url(server, "patient", good_key))
    reader = Reader(server, "patient", good_key)
    wait_until(lambda: good.asked > 1, secs=20)
    assert large_answer(reader) == OUTPUT
    reader.took.clear()
    before = most = memory(server)

    unending += [Unending(url(server, "unended", hostile_key)) for _ in range(HOSTILE)]
    ends_at = time.monotonic() + 4
    while time.monotonic() < ends_at:
        reader.get("/workflows?limit=10")
        most = max(most, memory(server))
        time.sleep(0.1)
    slowest = max(reader.took)
    print(
        f"memory {before // MIB} MiB, at most {most // MIB}; "
        f"small answers within {slowest * 1000:.0f} ms"
    )
    assert large_answer(reader) == OUTPUT
    for one in unending:
        one.close()

    assert most < before + MORE_MEMORY
    assert slowest < PATIENCE_SECS
    assert good.losses == []
    wait_until(lambda: memory(server) < before + 60 * MIB, secs=20)
    good.connection.close()


def test_an_answer_that_waits_for_room_arrives_whole(
    server: Server, unending: list[Unending]
) -> None:
    key = provision(server, "sharing", "honest", "begins")
    good = Large(url(server, "honest", key))
    reader = Reader(server, "sharing", key, "honest")
    wait_until(lambda: good.asked > 1, secs=20)
    # Of the organization's share they leave no room for a third.
    unending += [Unending(url(server, "begins", key)) for _ in range(2)]
    time.sleep(1)

    answer = in_background(lambda: large_answer(reader))
    time.sleep(2)
    for one in unending:
        one.close()

    assert answer() == OUTPUT
    assert reader.took[0] > 2, "it did not wait"
    assert good.losses == []
    good.connection.close()
