"""Replies are parsed where nobody waits for it, in bounded memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from apps import errors
from apps.executors import parsers
from apps.executors.protocol import codec, parsing
from apps.executors.protocol.messages import (
    GetWorkflow,
    ListWorkflows,
    Request,
)
from tests.executors.test_fuzz_frames import wait_until

MIB = 2**20


@pytest.fixture(autouse=True)
def _end_processes() -> Iterator[None]:
    yield
    parsers.stop()


def answer(members: str) -> str:
    return '{"request_id": "1", "output": [' + members + "]}"


def of_rows(count: int, payload: str = "") -> str:
    row = {"Status": "PENDING", "CreatedAt": "1700000000000", "Input": payload}
    return answer(
        ",".join(json.dumps(row | {"WorkflowUUID": str(n)}) for n in range(count))
    )


async def parse(
    text: str, request: Request | None = None, *, organization: int = 1
) -> Any:
    return await parsers.parse(
        request or ListWorkflows(),
        text,
        application_id=organization,
        organization_id=organization,
    )


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize(
    ("count", "payload"),
    [(3, "x"), (50, "x"), (400, "é"), (10_000, "1.5,"), (3, "1.5," * 500_000)],
    ids=["short", "page", "middle", "many rows", "long texts"],
)
def test_wherever_it_is_parsed_it_says_the_same(count: int, payload: str) -> None:
    text = of_rows(count, payload)

    reply = asyncio.run(parse(text))

    assert reply == codec.parse_reply(ListWorkflows(), text)
    assert len(reply.output) == count


def test_one_row_may_be_long() -> None:
    row = {"WorkflowUUID": "w", "Status": "SUCCESS", "Output": "💥" * MIB}
    text = json.dumps({"request_id": "1", "output": row}, ensure_ascii=False)

    reply = asyncio.run(parse(text, GetWorkflow(workflow_id="w")))

    assert reply.output.output == row["Output"]


@pytest.mark.parametrize("value", ["{}", "1", '""', "[]", "null", "-0.5", '{"a":1}'])
@pytest.mark.parametrize("size", [64 * 1024, MIB, 8 * MIB])
def test_nothing_but_values_keeps_nobody_waiting(value: str, size: int) -> None:
    text = answer(",".join([value] * (size // (len(value) + 1) - 30)))

    async def watch() -> float:
        longest, running = 0.0, asyncio.ensure_future(parse(text))
        while not running.done():
            begun = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - begun)
        try:
            await running
        except errors.ProtocolError as exc:
            assert "holds more than" in exc.message
        return longest

    # Generous: the old way took up to 4 s.
    assert asyncio.run(watch()) < 1.0


def test_a_reply_that_needs_too_much_memory_is_refused(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CONDUCTOR_MAX_MESSAGE_BYTES = MIB
    monkeypatch.setattr(parsers, "BASE_MEMORY_BYTES", 32 * MIB)
    text = answer(",".join(['{"a":{}}'] * 300_000))[:MIB]

    with pytest.raises(errors.ProtocolError):
        asyncio.run(parse(text + " " * (2 * MIB)))


def test_a_process_that_ends_or_hangs_costs_one_reply(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = of_rows(10_000)
    asyncio.run(parse(text))
    [process] = children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(5)

    with pytest.raises(errors.ProtocolError, match="takes too long"):
        asyncio.run(parse(text))
    assert len(asyncio.run(parse(text)).output) == 10_000

    monkeypatch.setattr(parsers, "LONG_SECS", 0.5)
    [process] = children()
    process.suspend()
    with pytest.raises(errors.ProtocolError, match="takes too long"):
        asyncio.run(parse(text))
    assert children() == []


def test_a_process_grown_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(parse(of_rows(10_000)))
    assert len(children()) == 1

    monkeypatch.setattr(parsers, "RETIRING_CHARS", 1_000)
    asyncio.run(parse(of_rows(10_000)))

    assert children() == []


def test_a_process_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    text = of_rows(10_000)
    asyncio.run(parse(text))
    [process] = children()
    assert asyncio.run(parse(text)) and children() == [process]

    monkeypatch.setattr(parsers, "KEPT_SECS", 0.0)
    asyncio.run(parse(text))

    [other] = children()
    assert other.pid != process.pid
    wait_until(lambda: other.status() == psutil.STATUS_ZOMBIE, secs=30)


def test_a_process_holds_no_secret() -> None:
    asyncio.run(parse(of_rows(10_000)))
    [process] = children()

    assert process.environ().keys() <= {"PATH", "LD_LIBRARY_PATH", "LC_CTYPE"}


def test_one_organization_cannot_take_every_turn() -> None:
    long, other = answer(",".join(["1"] * 900_000)), of_rows(10_000)

    async def ask() -> tuple[int, int]:
        hostile = [
            asyncio.ensure_future(parse(long, organization=1)) for _ in range(30)
        ]
        await asyncio.sleep(0)
        reply = await parse(other, organization=2)
        waiting = sum(not one.done() for one in hostile)
        await asyncio.gather(*hostile, return_exceptions=True)
        return len(reply.output), waiting

    found, waiting = asyncio.run(ask())

    assert found == 10_000
    assert waiting >= 8


def test_only_so_much_waits_for_its_turn(settings: Any) -> None:
    settings.CONDUCTOR_MAX_MESSAGE_BYTES = MIB
    text = answer(",".join(["1"] * 400_000))

    async def ask() -> list[Any]:
        many = [parse(text, organization=3) for _ in range(12)]
        return await asyncio.gather(*many, return_exceptions=True)

    given = asyncio.run(ask())

    refused = [one for one in given if isinstance(one, errors.EveryExecutorFailed)]
    assert len(refused) == 12 - 4 * MIB // len(text)
    assert all("Too many long replies" in one.message for one in refused)
    # What was counted is given back.
    assert len(asyncio.run(parse(of_rows(10_000), organization=3)).output) == 10_000


def test_more_rows_than_any_reply_has_are_refused() -> None:
    text = answer(",".join(["{}"] * (parsing.ROWS_LIMIT + 1)))

    with pytest.raises(errors.ProtocolError, match="holds more than 100,000 rows"):
        asyncio.run(parse(text))
