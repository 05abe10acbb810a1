"""Searching the workflows that live executors know, page by page.

Executors order by the moment of creation only, and leave the order within a moment
open. So a page begins at the last moment of the page before, and what was read of that
moment already is left out by its id: nothing comes twice, nothing is missed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.models import UNFINISHED

PAGE = 500
# Payloads may be large, and an answer travels in one piece.
PAGE_WITH_PAYLOADS = 50
PAGE_SECS = 24.0
# Of workflows of one and the same millisecond, so many can be paged through.
TIES_LIMIT = 100_000


@dataclass(frozen=True, slots=True)
class Search:
    """What passes, less the first `offset`, and no more than `limit` (None: all)."""

    filters: messages.ListWorkflows
    limit: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the next page begins. The same object is the same place."""

    offset: int
    limit: int | None
    moment: datetime | None = None
    # Those of this moment that are behind us.
    seen: frozenset[str] = frozenset()


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
    pager = _Pager(application, _queues_told(search.filters))
    if place is None:
        if search.limit is not None and search.limit <= pager.size:
            rows = await pager.read_at_once(search)
            if rows is not None:
                return Page(rows, None)
        place = Place(search.offset, search.limit)
        page = await pager.read_from(place)
        if not page.rows and page.next is not None:
            raise errors.ExecutorTimeout(
                f"Nothing was found within {PAGE_SECS:g} s, and the search is not over:"
                " narrow it by startTime and endTime."
            )
        return page
    return await pager.read_from(place)


def _queues_told(filters: messages.ListWorkflows) -> messages.ListWorkflows:
    """Say what `queues_only` means by itself, for SDKs that do not know it."""
    if filters.queues_only and not filters.status:
        return replace(filters, status=UNFINISHED)
    return filters


@dataclass(slots=True)
class _Pager:
    application: Application
    filters: messages.ListWorkflows
    deadline: float = field(default_factory=lambda: time.monotonic() + PAGE_SECS)

    @property
    def size(self) -> int:
        has_payloads = self.filters.load_input or self.filters.load_output
        return PAGE_WITH_PAYLOADS if has_payloads else PAGE

    async def read_at_once(self, search: Search) -> list[WorkflowRow] | None:
        """Have the executor count limit and offset; None where it ignores a filter,
        and so counts too much."""
        request = replace(self.filters, limit=search.limit, offset=search.offset)
        rows, passing = await self._ask(request)
        return rows if passing is None else None

    async def read_from(self, place: Place) -> Page:
        size = self.size
        wanted = size if place.limit is None else min(size, place.limit)
        offset, moment, seen = place.offset, place.moment, set(place.seen)
        found: list[WorkflowRow] = []
        is_last = False
        while len(found) < wanted and not is_last and time.monotonic() < self.deadline:
            asked = size + len(seen)
            rows, passing = await self._ask(self._request(moment, asked))
            fresh = [row for row in rows if row.workflow_id not in seen]
            is_last = len(rows) < asked or not fresh
            for row in fresh:
                if self._is_beyond(row, moment):
                    moment = row.created_at
                    seen.clear()
                seen.add(row.workflow_id)
                if passing is not None and id(row) not in passing:
                    continue
                if offset:
                    offset -= 1
                    continue
                found.append(row)
                if len(found) == wanted:
                    is_last = is_last and row is fresh[-1]
                    break
            if len(seen) > TIES_LIMIT:
                raise errors.ProtocolError(
                    f"More than {TIES_LIMIT:,} workflows were created in one "
                    "millisecond; these cannot be paged through."
                )
        left = None if place.limit is None else place.limit - len(found)
        if is_last or left == 0:
            return Page(found, None)
        return Page(found, Place(offset, left, moment, frozenset(seen)))

    def _is_beyond(self, row: WorkflowRow, moment: datetime | None) -> bool:
        if row.created_at is None or moment is None:
            return row.created_at is not None
        if self.filters.sort_desc:
            return row.created_at < moment
        return row.created_at > moment

    def _request(self, moment: datetime | None, limit: int) -> messages.ListWorkflows:
        request = replace(self.filters, limit=limit)
        if moment is None:
            return request
        if request.sort_desc:
            return replace(request, end_time=moment)
        return replace(request, start_time=moment)

    async def _ask(
        self, request: messages.ListWorkflows
    ) -> tuple[list[WorkflowRow], set[int] | None]:
        """Return the rows, and which of them pass (by identity); None if all do."""
        told = request
        is_queues_ours = request.queues_only and not set(request.status) <= set(
            UNFINISHED
        )
        if is_queues_ours:
            # TypeScript's SDK has only unfinished ones of queues, whatever is asked.
            told = replace(request, queues_only=None)
        answer = await gateway.aanswer(
            self.application, told, timeout_s=max(self.deadline - time.monotonic(), 0.5)
        )
        rows: list[WorkflowRow] = answer.reply.output[: request.limit]
        ignored = codec.ignored_filters(told, answer.by.peer)
        if not ignored and not is_queues_ours:
            return rows, None
        passing = codec.refilter(told, answer.by.peer, rows)
        if is_queues_ours:
            passing = [row for row in passing if row.queue_name]
        return rows, {id(row) for row in passing}
