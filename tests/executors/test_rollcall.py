"""The roll call over Redis: every server is asked, and silence is no answer."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from unittest.mock import AsyncMock

import pytest
from django.conf import settings

from apps.executors import rollcall, sockets
from apps.executors.bus import Bus
from apps.executors.presence import Registration
from apps.executors.sockets import Key, Socket

pytestmark = [pytest.mark.services, pytest.mark.real_bus]

APPLICATION_ID = 7


@pytest.fixture(autouse=True)
def needs_redis() -> None:
    if settings.CONDUCTOR_EMBEDDED:
        pytest.skip("needs Redis")


@pytest.fixture
async def server() -> AsyncIterator[Bus]:
    """A server process' end of the bus."""
    bus = Bus(str(uuid.uuid4()), has_sockets=True)
    await bus.start()
    await bus._listening.wait()
    yield bus
    await bus.stop()


@pytest.fixture
async def worker() -> AsyncIterator[Bus]:
    """The end of a process that only asks."""
    bus = Bus(str(uuid.uuid4()), has_sockets=False)
    await bus.start()
    yield bus
    await bus.stop()


@pytest.fixture
def connected() -> Iterator[set[Key]]:
    """Executors with a socket open in this process."""
    keys = {(APPLICATION_ID, f"x{number} ü") for number in range(400)}
    for number, (application_id, executor_id) in enumerate(sorted(keys)):
        socket = Socket(f"rc{number}", application_id, None, AsyncMock(), AsyncMock())
        socket.registration = Registration(
            socket.connection_id, application_id, executor_id
        )
        sockets.open_sockets[socket.connection_id] = socket
    yield keys
    for number in range(len(keys)):
        del sockets.open_sockets[f"rc{number}"]


async def test_every_server_says_who_is_connected(
    server: Bus, worker: Bus, connected: set[Key]
) -> None:
    absent = {(APPLICATION_ID, "absent"), (APPLICATION_ID + 1, "x1 ü")}

    answers = await worker.call_roll(connected | absent, timeout_s=10)

    assert answers == {server.address: connected}


@pytest.fixture
def ask_as_worker(worker: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollcall.bus, "current", AsyncMock(return_value=worker))
    monkeypatch.setattr(rollcall, "TIMEOUT_S", 0.5)


@pytest.mark.usefixtures("ask_as_worker")
async def test_a_living_server_that_hears_and_is_silent_makes_it_unknown(
    server: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_answer_roll_call", AsyncMock())

    with pytest.raises(rollcall.Unknown):
        await rollcall._ask_all({(1, "x")}, {server.address}, set())


@pytest.mark.usefixtures("ask_as_worker")
async def test_a_living_server_that_does_not_hear_makes_it_unknown(
    server: Bus,
) -> None:
    assert await rollcall._ask_all({(1, "x")}, {server.address}, set()) == set()
    with pytest.raises(rollcall.Unknown):
        await rollcall._ask_all({(1, "x")}, {server.address, "deaf"}, set())


@pytest.mark.usefixtures("ask_as_worker")
async def test_a_frozen_server_is_waited_for_while_it_may_hold_sockets_open(
    server: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = Bus(str(uuid.uuid4()), has_sockets=True)
    monkeypatch.setattr(frozen, "_answer_roll_call", AsyncMock())
    await frozen.start()
    await frozen._listening.wait()

    with pytest.raises(rollcall.Unknown):
        await rollcall._ask_all({(1, "x")}, {server.address}, {frozen.address})
    # Its heartbeat stopped so long ago that no executor is connected to it any more.
    assert await rollcall._ask_all({(1, "x")}, {server.address}, set()) == set()

    await frozen.stop()
    # What is gone has closed its connection to Redis, and holds up nobody.
    found = await rollcall._ask_all({(1, "x")}, {server.address}, {frozen.address})
    assert found == set()
