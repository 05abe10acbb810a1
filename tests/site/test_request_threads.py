"""What is synchronous in a request runs in a thread that later requests use again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async

from conductor_site import request_threads
from conductor_site.request_threads import request_thread


@pytest.fixture(autouse=True)
def _no_idle_threads() -> Iterator[None]:
    request_threads._idle.clear()
    yield
    request_threads._idle.clear()


async def one_request(before: asyncio.Event | None = None) -> set[int]:
    async with request_thread():
        first = await sync_to_async(threading.get_ident)()
        if before is not None:
            await before.wait()
        return {first, await sync_to_async(threading.get_ident)()}


def test_one_request_after_the_other_has_the_same_thread() -> None:
    async def ask() -> list[set[int]]:
        return [await one_request() for _ in range(3)]

    first, second, third = asyncio.run(ask())

    assert len(first) == 1
    assert first == second == third


def test_requests_at_a_time_have_one_each() -> None:
    async def ask() -> list[set[int]]:
        go = asyncio.Event()
        running = [asyncio.ensure_future(one_request(go)) for _ in range(5)]
        await asyncio.sleep(0.1)
        go.set()
        return await asyncio.gather(*running)

    threads = asyncio.run(ask())

    assert all(len(one) == 1 for one in threads)
    assert len(set.union(*threads)) == 5


def test_a_request_that_needs_none_starts_none() -> None:
    async def ask() -> int:
        before = threading.active_count()
        async with request_thread():
            return threading.active_count() - before

    assert asyncio.run(ask()) == 0


def test_only_so_many_are_kept() -> None:
    async def ask() -> None:
        go = asyncio.Event()
        many = [
            asyncio.ensure_future(one_request(go))
            for _ in range(request_threads.KEPT + 5)
        ]
        await asyncio.sleep(0.3)
        go.set()
        await asyncio.gather(*many)

    asyncio.run(ask())

    assert len(request_threads._idle) == request_threads.KEPT


def test_a_request_that_fails_gives_its_thread_back() -> None:
    async def fail() -> None:
        async with request_thread():
            await sync_to_async(threading.get_ident)()
            raise ValueError

    async def ask() -> None:
        for _ in range(3):
            with pytest.raises(ValueError):
                await fail()

    asyncio.run(ask())

    assert len(request_threads._idle) == 1


def test_what_was_given_up_keeps_no_later_request_waiting() -> None:
    async def ask() -> None:
        end = threading.Event()

        async def hang() -> None:
            async with request_thread():
                await sync_to_async(end.wait)()

        given_up = asyncio.ensure_future(hang())
        await asyncio.sleep(0.1)
        given_up.cancel()
        await asyncio.wait_for(one_request(), 10)
        end.set()
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(ask())
