"""The pager: each workflow exactly once, in one order, whatever happens meanwhile.

The executor here orders the workflows of one moment anew at every question, as
PostgreSQL may, and puts those without a creation time where databases do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from apps import errors
from apps.executors.protocol.messages import ListWorkflows
from apps.executors.protocol.rows import WorkflowRow
from apps.workflows.live import pager
from apps.workflows.live.order import EPOCH, MILLISECOND, Position, moment_of
from apps.workflows.live.pager import Answered, Page, Pager

NOON = EPOCH + timedelta(days=20_000)


@dataclass
class Executor:
    rows: dict[str, WorkflowRow] = field(default_factory=dict)
    is_sqlite: bool = False
    ignores_prefix: bool = False
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    asked: list[ListWorkflows] = field(default_factory=list)
    # Done before each answer.
    meanwhile: Callable[[], None] = lambda: None

    def add(self, workflow_id: str, at_ms: int | None) -> None:
        created_at = None if at_ms is None else NOON + at_ms * MILLISECOND
        self.rows[workflow_id] = WorkflowRow(
            workflow_id, "SUCCESS", created_at=created_at
        )

    def answer(self, request: ListWorkflows) -> Answered:
        self.meanwhile()
        self.asked.append(request)
        rows = [row for row in self.rows.values() if self._is_within(row, request)]
        if not self.ignores_prefix:
            rows = _passing(request, rows)
        self.chance.shuffle(rows)
        # PostgreSQL takes no time for the greatest, SQLite for the least.
        extreme = EPOCH if self.is_sqlite else NOON + timedelta(days=10_000)
        rows.sort(key=lambda r: r.created_at or extreme, reverse=request.sort_desc)
        rows = rows[request.offset or 0 :][: request.limit]
        return Answered(rows, _passing(request, rows), self.ignores_prefix)

    def _is_within(self, row: WorkflowRow, request: ListWorkflows) -> bool:
        if request.start_time is None and request.end_time is None:
            return True
        return row.created_at is not None and (
            (request.start_time or EPOCH)
            <= row.created_at
            <= (request.end_time or row.created_at)
        )

    def read(self, reading: Any) -> Any:
        try:
            request = next(reading)
            while True:
                request = reading.send(self.answer(request))
        except StopIteration as done:
            return done.value

    def ordered(self, filters: ListWorkflows) -> list[str]:
        """The truth: by creation time, then by id; those without one last."""
        rows = _passing(filters, list(self.rows.values()))
        sign = -1 if filters.sort_desc else 1
        rows.sort(
            key=lambda row: (
                row.created_at is None,
                sign * (moment_of(row) - EPOCH),
                row.workflow_id,
            )
        )
        return [row.workflow_id for row in rows]


def _passing(request: ListWorkflows, rows: list[WorkflowRow]) -> list[WorkflowRow]:
    prefixes = request.workflow_id_prefix or ("",)
    return [row for row in rows if row.workflow_id.startswith(prefixes)]


def make_pager(filters: ListWorkflows, size: int, *, asks: int = 1_000) -> Pager:
    return Pager(filters, size, time.monotonic() + 60, batch=size * 2, asks=asks)


def follow(
    executor: Executor,
    filters: ListWorkflows,
    size: int,
    *,
    asks: int = 1_000,
    between: Callable[[], None] = lambda: None,
) -> list[str]:
    """Follow the pages to the end, by their links' text."""
    found: list[str] = []
    position: Position | None = None
    for _ in range(5_000):
        page = executor.read(make_pager(filters, size, asks=asks).after(position))
        found += [row.workflow_id for row in page.rows]
        assert len(page.rows) <= size
        if page.next is None:
            return found
        position = Position.parse(str(page.next))
        between()
    raise AssertionError("the pages do not end")


def crowd(seed: int) -> Executor:
    """Some moments with many, some with few; odd ids; some without a time."""
    chance = random.Random(seed)
    executor = Executor(chance=chance, is_sqlite=bool(seed % 2))
    for number in range(chance.choice((0, 1, 7, 60, 150))):
        moment = chance.choice((0, 0, 0, 5, chance.randrange(24)))
        prefix = chance.choice(("a", "B", "é", "\U0001f600", "z/ "))
        executor.add(f"{prefix}-{number}", moment)
    for number in range(chance.choice((0, 0, 1, 9, 30))):
        executor.add(f"timeless-{number}", None)
    executor.ignores_prefix = chance.random() < 0.3
    return executor


FILTERS = [
    ListWorkflows(sort_desc=desc, workflow_id_prefix=prefix)
    for desc in (True, False)
    for prefix in ((), ("a",), ("B", "é", "t"), ("none",))
]


@pytest.mark.parametrize("seed", range(24))
def test_each_comes_once_and_in_order(seed: int) -> None:
    executor = crowd(seed)

    for filters in FILTERS:
        for size in (1, 7, 50):
            assert follow(executor, filters, size) == executor.ordered(filters)


@pytest.mark.parametrize("seed", range(24))
def test_any_offset_counts_the_same_order(seed: int) -> None:
    executor = crowd(seed)
    executor.ignores_prefix = False

    for filters in FILTERS:
        everything = executor.ordered(filters)
        for offset in (1, 2, 6, 50, 59, 61, 151, 200):
            for size in (1, 7, 50):
                page = executor.read(make_pager(filters, size).at(offset))
                wanted = everything[offset : offset + size]
                assert [row.workflow_id for row in page.rows] == wanted
                assert (page.next is None) == (offset + size >= len(everything))


@pytest.mark.parametrize("seed", range(24))
def test_old_ones_come_once_while_work_arrives_and_goes(seed: int) -> None:
    executor = crowd(seed)
    old = set(executor.rows)
    chance = random.Random(seed)
    gone: set[str] = set()

    def meanwhile() -> None:
        number = len(executor.rows) + len(gone)
        # Now at the newest end, now late at a moment that was read already.
        if len(executor.rows) < 400:
            executor.add(f"new-{number}", chance.choice((50 + number, 5, 0)))
        if chance.random() < 0.2:
            victim = chance.choice(sorted(executor.rows))
            gone.add(victim)
            del executor.rows[victim]

    executor.meanwhile = meanwhile
    found = follow(executor, ListWorkflows(sort_desc=True), 7)

    assert len(found) == len(set(found))
    assert old - gone <= set(found)


@pytest.mark.parametrize("seed", range(20))
def test_a_search_that_is_given_up_goes_on_where_it_was(seed: int) -> None:
    executor = crowd(seed)
    executor.ignores_prefix = True

    for filters in FILTERS:
        assert follow(executor, filters, 3, asks=1) == executor.ordered(filters)


def test_common_pages_are_one_question() -> None:
    executor = Executor()
    for number in range(120):
        executor.add(f"w-{number}", number)

    first = executor.read(make_pager(ListWorkflows(sort_desc=True), 50).after())
    executor.read(make_pager(ListWorkflows(sort_desc=True), 50).after(first.next))
    executor.read(make_pager(ListWorkflows(), 10).at(20))

    assert [(q.limit, q.offset) for q in executor.asked] == [
        (51, None),
        (52, None),
        (12, 19),
    ]


def test_too_many_of_one_moment_are_an_honest_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pager, "MOMENT_PIECE", 10)
    monkeypatch.setattr(pager, "MOMENT_LIMIT", 20)
    executor = Executor()
    for number in range(20):
        executor.add(f"w-{number:02}", 0)
    assert len(follow(executor, ListWorkflows(), 3)) == 20
    executor.add("one-more", 0)

    with pytest.raises(errors.ProtocolError, match="cannot be paged through"):
        follow(executor, ListWorkflows(), 3)


def test_an_executor_that_heeds_nothing_is_read_once() -> None:
    """It answers with the same workflows whatever it is asked."""
    rows = [WorkflowRow(f"w-{n}", "SUCCESS", created_at=NOON) for n in range(3)]
    rows.append(WorkflowRow("timeless", "SUCCESS"))

    def answer(request: ListWorkflows) -> Answered:
        return Answered(rows[: request.limit], rows[: request.limit])

    for size in (1, 2, 50):
        executor = Executor()
        executor.answer = answer  # type: ignore[method-assign]
        page: Page = executor.read(make_pager(ListWorkflows(), size).after())
        assert len({row.workflow_id for row in page.rows}) == len(page.rows)


def test_a_position_stays_when_its_workflow_goes() -> None:
    executor = Executor()
    for number in range(9):
        executor.add(f"w-{number}", 0)
    page = executor.read(make_pager(ListWorkflows(), 4).after())
    del executor.rows["w-3"]

    page = executor.read(make_pager(ListWorkflows(), 4).after(page.next))

    assert [row.workflow_id for row in page.rows] == ["w-4", "w-5", "w-6", "w-7"]


@pytest.mark.parametrize("workflow_id", ["", "a", "1-2", "x\n y?#%", "\U0001f600"])
def test_positions_are_written_and_read(workflow_id: str) -> None:
    for created_at in (EPOCH, NOON + MILLISECOND):
        position = Position(created_at, workflow_id)
        assert Position.parse(str(position)) == position
