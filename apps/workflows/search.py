"""Searching the workflows that live executors know, page by page, for the HTTP API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from apps import errors
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.live import asking
from apps.workflows.live.order import Position
from apps.workflows.live.pager import Page as LivePage
from apps.workflows.live.pager import Pager
from apps.workflows.models import UNFINISHED

PAGE = 500
# Payloads may be large, and an answer travels in one piece.
PAGE_WITH_PAYLOADS = 50
PAGE_SECS = 24.0


@dataclass(frozen=True, slots=True)
class Search:
    """What passes, less the first `offset`, and no more than `limit` (None: all)."""

    filters: messages.ListWorkflows
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the next page begins. The same object is the same place."""

    # How many are still to be left out, and how many still wanted.
    offset: int
    limit: int | None
    position: Position | None = None
    # What follows the position and was read already.
    held: Sequence[WorkflowRow] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """Some workflows; `next` is None after the last."""

    rows: Sequence[WorkflowRow]
    next: Place | None


async def read_page(
    application: Application, search: Search, place: Place | None = None
) -> Page:
    """Ask until the page is full, the list is at its end, or time is up.

    Raises: what the gateway raises; UnsupportedByExecutor for a filter that an
    executor's SDK does not know and that its rows do not tell either; ExecutorTimeout
    where no first page was found in time.
    """
    reader = _Reader(application, search, time.monotonic() + PAGE_SECS)
    page = await reader.read(place or Place(search.offset, search.limit))
    if place is None and not page.rows and page.next is not None:
        raise errors.ExecutorTimeout(
            f"Nothing was found within {PAGE_SECS:g} s, and the search is not over: "
            "narrow it by startTime and endTime."
        )
    return page


@dataclass(slots=True)
class _Reader:
    application: Application
    search: Search
    deadline: float

    async def read(self, place: Place) -> Page:
        filters = self.search.filters
        size = PAGE
        if filters.load_input or filters.load_output:
            size = PAGE_WITH_PAYLOADS
        if place.limit is not None:
            size = min(size, place.limit)
        offset, page = await self._read_live(place, size)
        rows = list(page.rows)
        left = None if place.limit is None else place.limit - len(rows)
        if filters.load_input or filters.load_output:
            rows = await self._with_payloads(rows)
        if page.next is None or left == 0:
            return Page(rows, None)
        return Page(rows, Place(offset, left, page.next, page.held))

    async def _read_live(self, place: Place, size: int) -> tuple[int, LivePage]:
        """Return the page, and how many are still to be left out after it."""
        pager = Pager(_without_payloads(self.search.filters), size, self.deadline, PAGE)
        if len(place.held) > size:
            rows, rest = place.held[:size], place.held[size:]
            return 0, LivePage(rows, Position.of(rows[-1]), rest)
        offset, position = place.offset, place.position
        if offset and position is None:
            counted = await self._put(pager.at(offset))
            if counted is not None:
                return 0, counted
        while True:
            # What is left out is read in the same pages.
            pager.size = PAGE if offset else size
            page = await self._put(pager.after(position))
            skipped = min(offset, len(page.rows))
            offset -= skipped
            rows, rest = page.rows[skipped:][:size], page.rows[skipped:][size:]
            if rows and rest:
                return offset, LivePage(rows, Position.of(rows[-1]), rest)
            if rows or page.next is None or time.monotonic() > self.deadline:
                return offset, replace(page, rows=rows)
            position = page.next

    async def _put(self, reading: asking.Reading[asking.T]) -> asking.T:
        return await asking.aread(self.application, reading, self.deadline)

    async def _with_payloads(self, rows: list[WorkflowRow]) -> list[WorkflowRow]:
        """Read the rows again with their payloads, by their ids. What meanwhile went,
        or does not pass any more, is left out."""
        full: dict[str, WorkflowRow] = {}
        for ids in codec.id_parts([row.workflow_id for row in rows]):
            request = replace(
                _queues_told(self.search.filters), workflow_uuids=ids, limit=len(ids)
            )
            answer = await asking.aask(self.application, request, self.deadline)
            full |= {row.workflow_id: row for row in answer.passing}
        return [full[row.workflow_id] for row in rows if row.workflow_id in full]


def _without_payloads(filters: messages.ListWorkflows) -> messages.ListWorkflows:
    return replace(_queues_told(filters), load_input=False, load_output=False)


def _queues_told(filters: messages.ListWorkflows) -> messages.ListWorkflows:
    """Say what `queues_only` means by itself, for SDKs that do not know it."""
    if filters.queues_only and not filters.status:
        return replace(filters, status=UNFINISHED)
    return filters
