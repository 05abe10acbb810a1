"""What one process takes from another over Redis is bounded, and soon gone there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio as redis
from django.conf import settings as configured
from pytest_django import Settings

from apps.executors import sockets
from apps.executors.bus import INLINE_BYTES, Bus, TooLong, most_bytes
from apps.executors.sockets import TimedOut

pytestmark = [pytest.mark.services, pytest.mark.real_bus]

LIMIT = 4 * INLINE_BYTES
# Asks with a text of one length, for an answer of another.
Ask = Callable[[int, int], Awaitable[str]]


@pytest.fixture(autouse=True)
def small_limits(settings: Settings) -> None:
    if configured.CONDUCTOR_EMBEDDED:
        pytest.skip("needs Redis")
    settings.CONDUCTOR_MAX_MESSAGE_BYTES = LIMIT
    settings.CONDUCTOR_MAX_BODY_BYTES = INLINE_BYTES


@pytest.fixture
async def ask(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ask]:
    """Ask over a socket that another process has; an executor that is asked for an
    empty answer is slow."""

    async def answer(_: str, text: str, *, request_id: str, timeout_s: float) -> str:
        length = int(text.partition(" ")[0])
        if not length:
            await asyncio.sleep(timeout_s + 0.5)
        return "x" * (length or LIMIT)

    monkeypatch.setattr(sockets, "ask", answer)
    server = Bus(str(uuid.uuid4()), has_sockets=True)
    worker = Bus(str(uuid.uuid4()), has_sockets=False)
    for bus in (server, worker):
        await bus.start()
        await bus._listening.wait()

    async def ask(question: int, length: int) -> str:
        return await worker.ask(
            instance_id=server.address,
            connection_id="elsewhere",
            request_id=str(uuid.uuid4()),
            text=f"{length} ".ljust(question),
            timeout_s=1 if not length else 20,
        )

    yield ask
    for bus in (server, worker):
        await bus.stop()


async def count_bodies() -> int:
    async with redis.Redis.from_url(configured.REDIS_URL) as store:
        return len([key async for key in store.scan_iter("conductor:body:*")])


async def bodies_are_gone() -> bool:
    async with asyncio.timeout(10):
        while await count_bodies():
            await asyncio.sleep(0.05)
    return True


@pytest.mark.parametrize("length", [1, INLINE_BYTES + 1, LIMIT])
async def test_what_a_process_can_have_received_passes(ask: Ask, length: int) -> None:
    assert len(await ask(1, length)) == length
    assert len(await ask(3 * INLINE_BYTES, length)) == length
    assert await bodies_are_gone()


async def test_a_longer_answer_is_no_answer(ask: Ask) -> None:
    with pytest.raises(TooLong, match="CONDUCTOR_MAX_MESSAGE_BYTES"):
        await ask(1, 2**20 + most_bytes())

    assert await bodies_are_gone()


async def test_nor_is_a_longer_question_asked(ask: Ask) -> None:
    with pytest.raises(TooLong):
        await ask(2**20 + most_bytes(), 1)

    assert await bodies_are_gone()


async def test_an_answer_nobody_waits_for_is_not_kept(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.executors.bus.GRACE_SECS", 0.1)
    with pytest.raises(TimedOut):
        await ask(1, 0)
    await asyncio.sleep(1)  # Now it has come.

    assert await bodies_are_gone()


async def test_nor_is_what_nobody_receives(ask: Ask) -> None:
    bus = Bus(str(uuid.uuid4()), has_sockets=False)
    await bus.start()

    assert await bus._publish("nobody", {}, "x" * LIMIT) == 0
    assert await bodies_are_gone()
    await bus.stop()
