"""Pages of what live executors know, in one order, each workflow exactly once.

A moment is read whole before any of it is given out, and a page begins after a
workflow, never after a number of them. What a pager wants to know it yields as a
question, so that threads and coroutines share it; `asking` puts the questions.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from apps import errors
from apps.executors.protocol.messages import ListWorkflows
from apps.executors.protocol.rows import WorkflowRow
from apps.workflows.live.order import (
    EARLIEST,
    EPOCH,
    LATEST,
    MILLISECOND,
    Position,
    by_id,
    moment_of,
)

# So many workflows of one moment come in one answer; more of them in a second, larger.
MOMENT_PIECE = 10_000
MOMENT_LIMIT = 100_000
# What was read beyond the page and may be kept for the next.
HELD_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Answered:
    """What an executor answered, and which of it passes every filter."""

    rows: Sequence[WorkflowRow]
    passing: Sequence[WorkflowRow]
    # Whether it ignored a filter or took it loosely, so that its limit and offset count
    # too much.
    is_filtered_here: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some workflows in order; `next` is None after the last."""

    rows: Sequence[WorkflowRow]
    next: Position | None
    # What comes right after them, as far as it was read already.
    held: Sequence[WorkflowRow] = ()
    searched: int = 0
    # Whether it was given up for now before the page was full.
    is_unfinished: bool = False


_Rows = Generator[ListWorkflows, Answered, list[WorkflowRow]]


@dataclass(slots=True)
class Pager:
    """Reads pages of `size`. `filters` holds no limit, no offset and no payloads."""

    filters: ListWorkflows
    size: int
    deadline: float
    # How many are read at a time once the first answer did not fill the page, and how
    # often, where an SDK ignores a filter.
    batch: int = 500
    asks: int = 1_000
    # Whether those without a creation time are wanted, which costs two questions more.
    with_timeless: bool = True
    searched: int = field(default=0, init=False)

    def after(
        self, position: Position | None = None
    ) -> Generator[ListWorkflows, Answered, Page]:
        """Read the page that follows a position, or the first."""
        found: list[WorkflowRow] = []
        timeless: list[WorkflowRow] | None = None
        bound = position.created_at if position else None
        # One more tells whether there is more; the position's own comes again.
        limit = self.size + (2 if position and position.workflow_id else 1)
        asked = 0
        while bound != EPOCH:
            if asked and (asked >= self.asks or time.monotonic() > self.deadline):
                start = Position(bound) if bound else None
                return Page(found, start, (), self.searched, True)
            answer = yield self._from(bound, limit)
            asked += 1
            self.searched += len(answer.rows)
            is_end = len(answer.rows) < limit
            if is_end and self._is_open(bound):
                timeless = by_id(r for r in answer.passing if moment_of(r) <= EPOCH)
            moments = self._moments(answer, bound)
            following = self._beyond(moments[-1][0]) if moments else None
            for moment, rows in moments:
                if not is_end and moment == moments[-1][0]:
                    if len(found) >= self.size:
                        return self._cut(found, has_more=True)
                    if len(moments) > 1:
                        # The next answer begins with the whole of it.
                        following = moment
                        break
                    rows = yield from self._whole(moment, rows)
                found += _following(rows, moment, position)
            if len(found) > self.size:
                return self._cut(found)
            if is_end:
                break
            if following is None:
                if bound is not None or not answer.rows:
                    break
                # None of them has a creation time. Bounds leave these out.
                bound = LATEST if self.filters.sort_desc else EARLIEST
            else:
                bound = following
            limit = self.batch
        if timeless is None:
            timeless = yield from self._timeless()
        found += _following(timeless, EPOCH, position)
        return self._cut(found)

    def at(self, offset: int) -> Generator[ListWorkflows, Answered, Page | None]:
        """Read the page after so many, which the executor counts; None where it ignores
        a filter, and so counts too much."""
        # One more on either side tells whether the moments at the edges are whole.
        limit = self.size + 2
        first = offset - 1
        answer = yield self._counted(first, limit)
        if answer.is_filtered_here:
            return None
        rows = sorted(answer.rows, key=moment_of, reverse=self.filters.sort_desc)
        is_end = len(rows) < limit
        found: list[WorkflowRow] = []
        begin = first
        groups = [list(group) for _, group in itertools.groupby(rows, key=moment_of)]
        for index, group in enumerate(groups):
            if begin + len(found) >= offset + self.size:
                return self._cut(found[offset - begin :], has_more=True)
            is_cut = index == len(groups) - 1 and not is_end
            if index == 0 and (len(group) > 1 or is_cut):
                whole = yield from self._whole(moment_of(group[0]), group)
                begin = first + len(group) - len(whole)
                if is_cut:
                    begin = yield from self._begin_of(group[0], begin, first)
                group = whole
            elif is_cut:
                group = yield from self._whole(moment_of(group[0]), group)
            found += by_id(group)
        found = found[max(offset - begin, 0) :]
        if is_end and len(found) <= self.size:
            timeless = yield from self._timeless()
            if timeless:
                total = first + len(rows) if rows else (yield from self._total(first))
                found += timeless[max(offset - total, 0) :]
        return self._cut(found)

    def _cut(self, found: list[WorkflowRow], *, has_more: bool = False) -> Page:
        rows, rest = found[: self.size], found[self.size :]
        start = Position.of(rows[-1]) if rows and (rest or has_more) else None
        return Page(rows, start, rest[:HELD_LIMIT], self.searched)

    def _moments(
        self, answer: Answered, bound: datetime | None
    ) -> list[tuple[datetime, list[WorkflowRow]]]:
        """Return what passes by its moment, in order; also the moments of which nothing
        passes. Rows beyond the bound are an executor's that does not heed it."""
        found: dict[datetime, list[WorkflowRow]] = {}
        for row in answer.rows:
            moment = moment_of(row)
            if moment > EPOCH and (bound is None or not self._is_before(moment, bound)):
                found.setdefault(moment, [])
        for row in answer.passing:
            if moment_of(row) in found:
                found[moment_of(row)].append(row)
        return sorted(found.items(), reverse=self.filters.sort_desc)

    def _whole(self, moment: datetime, known: Sequence[WorkflowRow]) -> _Rows:
        """Read all that were created at a moment. Raises: ProtocolError."""
        for limit in (MOMENT_PIECE, MOMENT_LIMIT + 1):
            answer = yield replace(
                self.filters, start_time=moment, end_time=moment, limit=limit
            )
            if len(answer.rows) < limit:
                passing = [row for row in answer.passing if moment_of(row) == moment]
                return by_id([*known, *passing])
        raise errors.ProtocolError(
            f"More than {MOMENT_LIMIT:,} workflows were created in one millisecond; "
            "these cannot be paged through."
        )

    def _timeless(self) -> _Rows:
        """Read those without a creation time. Databases put them at either end, and
        leave them out where a time is asked for."""
        if not self.with_timeless or not self._is_open(None):
            return []
        found: list[WorkflowRow] = []
        for is_newest_first in (True, False):
            for limit in (1, MOMENT_PIECE):
                answer = yield replace(
                    self.filters, sort_desc=is_newest_first, limit=limit
                )
                if not answer.rows or moment_of(answer.rows[0]) > EPOCH:
                    break
                found += [row for row in answer.passing if moment_of(row) <= EPOCH]
                if len(answer.rows) < limit:
                    break
        return by_id(found)

    def _begin_of(
        self, row: WorkflowRow, low: int, high: int
    ) -> Generator[ListWorkflows, Answered, int]:
        """Return at which number a row's moment begins, between two numbers."""
        moment = moment_of(row)
        return (
            yield from self._first(
                max(low, 0), high, lambda rows: moment_of(rows[0]) == moment
            )
        )

    def _total(self, high: int) -> Generator[ListWorkflows, Answered, int]:
        """Return how many have a creation time, where `high` of them are too many."""
        return (yield from self._first(0, high, lambda rows: False))

    def _first(
        self, low: int, high: int, reached: Callable[[Sequence[WorkflowRow]], bool]
    ) -> Generator[ListWorkflows, Answered, int]:
        """Search by halves for the first number at which it is reached, or nothing
        is."""
        while low < high:
            middle = (low + high) // 2
            answer = yield self._counted(middle, 1)
            if not answer.rows or reached(answer.rows):
                high = middle
            else:
                low = middle + 1
        return low

    # --- Questions -----------------------------------------------------------------

    def _from(self, bound: datetime | None, limit: int) -> ListWorkflows:
        request = replace(self.filters, limit=limit)
        if bound is None:
            return request
        if request.sort_desc:
            end = min(bound, request.end_time) if request.end_time else bound
            return replace(request, end_time=end)
        start = max(bound, request.start_time) if request.start_time else bound
        return replace(request, start_time=start)

    def _counted(self, offset: int, limit: int) -> ListWorkflows:
        """Of those that have a creation time only: where others come, depends."""
        return replace(
            self.filters,
            start_time=self.filters.start_time or EARLIEST,
            end_time=self.filters.end_time or LATEST,
            offset=offset,
            limit=limit,
        )

    def _is_open(self, bound: datetime | None) -> bool:
        filters = self.filters
        return bound is None and filters.start_time is None and filters.end_time is None

    def _is_before(self, moment: datetime, bound: datetime) -> bool:
        return moment > bound if self.filters.sort_desc else moment < bound

    def _beyond(self, moment: datetime) -> datetime:
        if self.filters.sort_desc:
            return moment - MILLISECOND
        return moment + MILLISECOND


def _following(
    rows: Sequence[WorkflowRow], moment: datetime, position: Position | None
) -> list[WorkflowRow]:
    """Return what comes after the position, of one moment's."""
    ordered = by_id(rows)
    if position is None or position.created_at != moment:
        return ordered
    return [row for row in ordered if row.workflow_id > position.workflow_id]
