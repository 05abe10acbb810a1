"""Pages of a search are one list: nothing twice, nothing missed, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps import errors
from apps.executors import gateway
from apps.executors.gateway import Answer, Target
from apps.executors.protocol.codec import Peer
from apps.executors.protocol.messages import ListWorkflows
from apps.executors.protocol.replies import WorkflowsReply
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows import search
from apps.workflows.search import Search, read_page

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
NEW, OLD = Peer("python", "3.2.0"), Peer("python", "1.14.0")
APPLICATION = Application(pk=1, name="orders")


@dataclass
class Executor:
    """Rows, listed as SDKs list them: by the moment only, in any order within one."""

    peer: Peer = NEW
    rows: list[WorkflowRow] = field(default_factory=list)
    asked: list[ListWorkflows] = field(default_factory=list)

    def add(self, count: int, *, every_ms: int = 1, **more: Any) -> None:
        first = len(self.rows)
        self.rows += [
            WorkflowRow(
                f"w-{number}",
                created_at=NOON + timedelta(milliseconds=number // max(every_ms, 1)),
                **{"status": "SUCCESS", "name": "job", **more},
            )
            for number in range(first, first + count)
        ]

    async def answer(
        self, application: Application, request: ListWorkflows, *, timeout_s: float
    ) -> Answer:
        self.asked.append(request)
        await asyncio.sleep(0)
        found = [row for row in self.rows if self._passes(row, request)]
        random.shuffle(found)
        last = NOON + timedelta(days=1)
        found.sort(key=lambda row: row.created_at or last, reverse=request.sort_desc)
        found = found[request.offset or 0 :]
        reply = WorkflowsReply(None, found[: request.limit])
        return Answer(reply, Target("x1", "v1", "c1", "i1", self.peer))

    def _passes(self, row: WorkflowRow, request: ListWorkflows) -> bool:
        if self.peer is NEW and request.queues_only and not row.queue_name:
            return False
        wanted = request.queue_name if self.peer is NEW else ()
        if wanted and row.queue_name not in wanted:
            return False
        several = len(request.status) > 1 and self.peer is OLD
        if request.status and not several and row.status not in request.status:
            return False
        # As LIKE does on SQLite.
        prefixes = tuple(prefix.upper() for prefix in request.workflow_id_prefix)
        if prefixes and not row.workflow_id.upper().startswith(prefixes):
            return False
        # An empty text is no filter to many SDKs.
        names = tuple(filter(None, request.workflow_name))
        if names and row.name not in names:
            return False
        if request.workflow_uuids and row.workflow_id not in request.workflow_uuids:
            return False
        at = row.created_at
        if at is None:
            return request.start_time is None and request.end_time is None
        begin, end = request.start_time or at, request.end_time or at
        return begin <= at <= end


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    random.seed(7)
    executor = Executor()
    monkeypatch.setattr(gateway, "aanswer", executor.answer)
    monkeypatch.setattr(search, "PAGE", 10)
    monkeypatch.setattr(search, "PAGE_WITH_PAYLOADS", 3)
    return executor


async def all_pages(wanted: Search) -> list[list[WorkflowRow]]:
    pages, place = [], None
    while True:
        page = await read_page(APPLICATION, wanted, place)
        pages.append(list(page.rows))
        place = page.next
        if place is None:
            return pages


def found(wanted: Search) -> list[WorkflowRow]:
    return [row for page in asyncio.run(all_pages(wanted)) for row in page]


def is_slice_of_an_order(
    rows: list[WorkflowRow], everything: list[WorkflowRow], *, offset: int, desc: bool
) -> bool:
    """Whether some order by creation has these rows after `offset` others."""
    moments = sorted((row.created_at or NOON for row in everything), reverse=desc)
    ids = [row.workflow_id for row in rows]
    wanted = moments[offset : offset + len(rows)]
    return [row.created_at for row in rows] == wanted and len(set(ids)) == len(ids)


@pytest.mark.parametrize("desc", [True, False])
@pytest.mark.parametrize("ties", [1, 4, 25, 1_000])
def test_everything_comes_once_and_in_order(
    executor: Executor, ties: int, desc: bool
) -> None:
    executor.add(73, every_ms=ties)

    rows = found(Search(ListWorkflows(sort_desc=desc)))

    assert len(rows) == 73
    assert is_slice_of_an_order(rows, executor.rows, offset=0, desc=desc)


@pytest.mark.parametrize("peer", [NEW, OLD], ids=str)
@pytest.mark.parametrize("ties", [1, 4, 25])
@pytest.mark.parametrize(
    ("limit", "offset"), [(5, 0), (10, 7), (23, 0), (23, 30), (1_000, 70), (2**62, 0)]
)
def test_limit_and_offset_are_exact(
    executor: Executor, peer: Peer, ties: int, limit: int, offset: int
) -> None:
    executor.peer = peer
    executor.add(80, every_ms=ties, queue_name="fast")
    passing = list(executor.rows)
    executor.add(40, every_ms=ties, queue_name="slow")
    filters = ListWorkflows(queue_name=("fast",), sort_desc=True)

    rows = found(Search(filters, limit, offset))

    assert len(rows) == min(limit, 80 - offset)
    assert is_slice_of_an_order(rows, passing, offset=offset, desc=True)


def test_a_bounded_search_is_one_question(executor: Executor) -> None:
    executor.add(40)

    found(Search(ListWorkflows(), 10, 20))

    (asked,) = executor.asked
    # One more on either side.
    assert (asked.limit, asked.offset) == (12, 19)


def test_pages_are_bounded_and_smaller_with_payloads(executor: Executor) -> None:
    executor.add(20)

    pages = asyncio.run(all_pages(Search(ListWorkflows(load_input=True))))

    assert [len(page) for page in pages] == [3, 3, 3, 3, 3, 3, 2]


def test_what_an_sdk_ignores_is_left_out_here(executor: Executor) -> None:
    executor.peer = OLD
    executor.add(30, status="ERROR")
    executor.add(30, status="PENDING", queue_name="fast")
    executor.add(5, status="ERROR", queue_name="fast")

    two = ListWorkflows(status=("ERROR", "CANCELLED"))
    of_queues = ListWorkflows(queues_only=True)

    assert {row.status for row in found(Search(two))} == {"ERROR"}
    assert len(found(Search(of_queues))) == 30


def test_finished_ones_of_queues_are_found_whatever_the_sdk_makes_of_it(
    executor: Executor,
) -> None:
    executor.add(12, status="SUCCESS", queue_name="fast")
    executor.add(12, status="SUCCESS")

    rows = found(Search(ListWorkflows(queues_only=True, status=("SUCCESS",)), 12))

    assert len(rows) == 12
    assert {row.queue_name for row in rows} == {"fast"}
    assert executor.asked[-1].queues_only is None


@pytest.mark.parametrize("limit", [None, 4])
def test_prefixes_tell_capitals_apart_whatever_the_database_does(
    executor: Executor, limit: int | None
) -> None:
    executor.add(40, every_ms=3)
    for row in executor.rows[::2]:
        executor.rows.append(replace(row, workflow_id=row.workflow_id.upper()))
    # Three of each millisecond, these by their ids.
    numbers = sorted(range(40), key=lambda number: (number // 3, f"w-{number}"))
    in_order = [f"w-{number}" for number in numbers]
    wanted = Search(ListWorkflows(workflow_id_prefix=("w-",)), limit)

    rows = []
    while page := found(replace(wanted, offset=len(rows))):
        rows += page

    assert [row.workflow_id for row in rows] == in_order


def test_an_empty_text_is_a_filter_that_hardly_anything_passes(
    executor: Executor,
) -> None:
    executor.add(30)
    executor.rows[17] = replace(executor.rows[17], name="")
    executor.rows[18] = replace(executor.rows[18], name=None)

    rows = found(Search(ListWorkflows(workflow_name=("",))))

    assert [row.workflow_id for row in rows] == ["w-17"]


def test_a_filter_that_cannot_be_made_up_for_is_refused_by_name(
    executor: Executor,
) -> None:
    executor.peer = OLD
    executor.add(3)

    with pytest.raises(errors.UnsupportedByExecutor) as refused:
        found(Search(ListWorkflows(has_parent=True)))

    assert "has_parent" in refused.value.message
    assert "it came with python 2.18" in refused.value.message


def test_a_search_that_finds_nothing_in_time_says_so(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor.peer = OLD
    executor.add(200, queue_name="slow")
    monkeypatch.setattr(search, "PAGE_SECS", 0.002)

    with pytest.raises(errors.ExecutorTimeout, match="narrow it by startTime"):
        found(Search(ListWorkflows(queue_name=("fast",))))


@pytest.mark.parametrize("desc", [True, False])
def test_rows_without_a_moment_come_last(executor: Executor, desc: bool) -> None:
    executor.add(25)
    executor.rows[3] = WorkflowRow("odd", "SUCCESS")

    rows = found(Search(ListWorkflows(sort_desc=desc)))

    assert len(rows) == 25
    assert rows[-1].workflow_id == "odd"


@pytest.mark.parametrize("payloads", [True, False])
def test_offsets_page_through_a_crowded_moment(
    executor: Executor, payloads: bool
) -> None:
    """Before: of 120 of one moment by 10, dozens never came."""
    executor.add(120, every_ms=1_000)
    filters = ListWorkflows(sort_desc=True, load_output=payloads)

    rows = [
        row
        for offset in range(0, 120, 10)
        for row in found(Search(filters, 10, offset))
    ]

    assert len({row.workflow_id for row in rows}) == len(rows) == 120
