"""Reading workflows: from a live executor, or from snapshots while none answers."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.db.models.functions import Left

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import (
    EventRow,
    NotificationRow,
    StepRow,
    WorkflowRow,
)
from apps.htmx import COUNT_LIMIT
from apps.registry.models import Application
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots

PAGE = 50
STEPS_PAGE = 100
READ_BUDGET_S = 10.0
# Where an SDK ignores a filter, so many workflows are read at a time, and so often.
SEARCH_BATCH = 250
SEARCH_ASKS = 8
# How many workflows of one and the same moment can be paged through.
TIES_LIMIT = 100_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Seventeen digits of microseconds stay within what a datetime holds.
_CURSOR = re.compile(r"([0-9]{1,17})(?:-([0-9]{1,6})|_([0-9]{1,18}))")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list is narrowed to; empty means all."""

    status: tuple[str, ...] = ()
    name: str = ""
    id_prefix: str = ""
    version: str = ""
    created_from: datetime | None = None
    created_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page begins, counted from the newest: at a moment, after some of it.

    Executors order by the moment only, so after how many; snapshots have a key.
    """

    created_at: datetime
    skip: int = 0
    pk: int | None = None

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises: InvalidInput."""
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise errors.InvalidInput("This link to a page is not complete.")
        created_at = _EPOCH + timedelta(microseconds=int(found[1]))
        return cls(created_at, int(found[2] or 0), int(found[3]) if found[3] else None)

    def __str__(self) -> str:
        micros = (self.created_at - _EPOCH) // timedelta(microseconds=1)
        key = f"-{self.skip}" if self.pk is None else f"_{self.pk}"
        return f"{micros}{key}"


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are, or that there are more than anybody needs to know."""

    value: int
    is_capped: bool = False
    # Of what an executor said just now; else of what Conductor knows.
    is_exact: bool = False


@dataclass(frozen=True, slots=True)
class WorkflowPage:
    """Some workflows, newest first. `as_of` is None where an executor said so just now,
    else when it was last known; `reason` says why no executor's answer is shown."""

    rows: Sequence[Any]
    next: Cursor | None
    count: Count | None = None
    as_of: datetime | None = None
    is_live: bool = True
    reason: str = ""
    # Snapshots only: whether the history was read to its end at least once.
    is_whole: bool = True
    # Live only: how many were read and the search is not over, where the SDK ignores a
    # filter and we do the filtering.
    searched: int | None = None


@dataclass(frozen=True, slots=True)
class WorkflowDetail:
    """One workflow with a page of its steps; what is None could not be read."""

    row: Any
    steps: Sequence[StepRow] | None = None
    steps_offset: int = 0
    has_more_steps: bool = False
    events: Sequence[EventRow] | None = None
    notifications: Sequence[NotificationRow] | None = None
    as_of: datetime | None = None
    is_live: bool = True
    reason: str = ""

    @property
    def next_steps_offset(self) -> int:
        return self.steps_offset + STEPS_PAGE


# --- Lists -------------------------------------------------------------------------


def list_workflows(
    *, application: Application, filters: Filters, cursor: Cursor | None = None
) -> WorkflowPage:
    """One page. Live lists are written through to the snapshots."""
    search = _Search(application, filters, cursor)
    try:
        search.run()
    except errors.ConductorError as exc:
        return _snapshot_page(application, filters, cursor, exc.message)
    snapshots.remember(application=application, rows=search.read)
    if cursor is None and search.next is None:
        count: Count | None = Count(len(search.rows), is_exact=True)
    else:
        count = _count(application, filters)
    return WorkflowPage(
        search.rows,
        search.next,
        count,
        searched=len(search.read) if search.is_unfinished else None,
    )


@dataclass(slots=True)
class _Search:
    """Reads on until the page is full, the list is at its end, or enough was read.

    Most pages take one question. More where the SDK ignores a filter: each answer is
    filtered for the version that gave it.
    """

    application: Application
    filters: Filters
    cursor: Cursor | None
    rows: list[WorkflowRow] = field(default_factory=list)
    read: list[WorkflowRow] = field(default_factory=list)
    next: Cursor | None = None
    is_unfinished: bool = False

    def run(self) -> None:
        deadline = time.monotonic() + READ_BUDGET_S
        place = self.cursor and Cursor(self.cursor.created_at, self.cursor.skip)
        limit = PAGE + 1
        for _ in range(SEARCH_ASKS):
            request = self._request(place, limit)
            left = max(deadline - time.monotonic(), 0.5)
            answer = gateway.answer(self.application, request, timeout_s=left)
            rows: list[WorkflowRow] = answer.reply.output[:limit]
            passing = {id(row) for row in codec.refilter(request, answer.by.peer, rows)}
            for row in rows:
                if len(self.rows) == PAGE:
                    self.next = place
                    return
                place = _after(place, row)
                self.read.append(row)
                if id(row) in passing and row.workflow_id:
                    self.rows.append(row)
            if len(rows) < limit or (place is not None and place.skip > TIES_LIMIT):
                return
            limit = SEARCH_BATCH
        self.next, self.is_unfinished = place, len(self.rows) < PAGE

    def _request(self, place: Cursor | None, limit: int) -> messages.ListWorkflows:
        filters = self.filters
        until = [filters.created_to, place.created_at if place else None]
        return messages.ListWorkflows(
            status=filters.status,
            workflow_name=(filters.name,) if filters.name else (),
            workflow_id_prefix=(filters.id_prefix,) if filters.id_prefix else (),
            application_version=(filters.version,) if filters.version else (),
            start_time=filters.created_from,
            end_time=min((one for one in until if one is not None), default=None),
            limit=limit,
            offset=place.skip if place else 0,
            sort_desc=True,
        )


def _after(place: Cursor | None, row: WorkflowRow) -> Cursor | None:
    created_at = row.created_at
    if place is None:
        return Cursor(created_at, 1) if created_at is not None else None
    if created_at is None or created_at == place.created_at:
        return Cursor(place.created_at, place.skip + 1)
    return Cursor(created_at, 1)


def _snapshot_page(
    application: Application, filters: Filters, cursor: Cursor | None, reason: str
) -> WorkflowPage:
    if application.private_mode:
        reason += " The application is in private mode: nothing is kept about it."
        return WorkflowPage([], None, is_live=False, reason=reason)
    if not snapshots.is_kept(application):
        reason += " Nothing is kept of the chosen database."
        return WorkflowPage([], None, is_live=False, reason=reason)
    found = snapshots_matching(application, filters)
    page = list(older_than(found, cursor).order_by("-created_at", "-id")[: PAGE + 1])
    rows = page[:PAGE]
    sync = SnapshotSync.objects.filter(application=application).first()
    as_of = sync.last_synced_at if sync else None
    if as_of is None and rows:
        as_of = max(row.seen_at for row in rows)
    return WorkflowPage(
        rows,
        Cursor(rows[-1].created_at, pk=rows[-1].pk) if len(page) > PAGE else None,
        _count(application, filters),
        as_of,
        is_live=False,
        reason=reason,
        is_whole=sync is not None and sync.completed_at is not None,
    )


def snapshots_matching(
    application: Application, filters: Filters
) -> QuerySet[WorkflowSnapshot]:
    """The snapshots that pass; every combination has an index (benchmarks)."""
    found = WorkflowSnapshot.objects.filter(application=application)
    if len(filters.status) == 1:
        found = found.filter(status=filters.status[0])
    elif filters.status:
        found = found.filter(status__in=filters.status)
    if filters.name:
        found = found.filter(name=filters.name)
    if filters.id_prefix:
        # LIKE uses the index on PostgreSQL, and on SQLite it takes A for a.
        found = found.filter(workflow_id__startswith=filters.id_prefix)
        found = found.alias(head=Left("workflow_id", len(filters.id_prefix)))
        found = found.filter(head=filters.id_prefix)
    if filters.version:
        found = found.filter(application_version=filters.version)
    if filters.created_from is not None:
        found = found.filter(created_at__gte=filters.created_from)
    if filters.created_to is not None:
        found = found.filter(created_at__lte=filters.created_to)
    return found


def older_than(
    found: QuerySet[WorkflowSnapshot], cursor: Cursor | None
) -> QuerySet[WorkflowSnapshot]:
    """What comes after a cursor. The redundant first bound is what lets the planner
    begin there. A live list's cursor has no key: its whole moment is shown again."""
    if cursor is None:
        return found
    found = found.filter(created_at__lte=cursor.created_at)
    if cursor.pk is None:
        return found
    return found.filter(Q(created_at__lt=cursor.created_at) | Q(pk__lt=cursor.pk))


def _count(application: Application, filters: Filters) -> Count | None:
    """How many are known, without counting a million of them."""
    if application.private_mode:
        return None
    found = snapshots_matching(application, filters)
    value = found.order_by()[: COUNT_LIMIT + 1].count()
    return Count(min(value, COUNT_LIMIT), value > COUNT_LIMIT)


# --- One workflow --------------------------------------------------------------------


def get_workflow(
    *, application: Application, workflow_id: str, steps_offset: int = 0
) -> WorkflowDetail:
    """One workflow, with payloads where an executor can be asked. Raises: NotFound."""
    deadline = time.monotonic() + READ_BUDGET_S
    request = messages.GetWorkflow(
        workflow_id=workflow_id,
        load_input=not application.private_mode,
        load_output=not application.private_mode,
    )
    try:
        row = gateway.ask(application, request, timeout_s=READ_BUDGET_S).output
    except errors.ConductorError as exc:
        return _snapshot_detail(application, workflow_id, exc.message)
    if row is None:
        snapshots.forget(application=application, workflow_ids=[workflow_id])
        raise errors.NotFound(
            f"{application.name} has no workflow with this id. It never existed, or it "
            "was deleted."
        )
    snapshots.remember(application=application, rows=[row])
    if application.private_mode:
        # Old SDKs send what was not asked for.
        row = replace(row, input=None, output=None, error=None)
    steps = _steps(application, workflow_id, steps_offset, deadline)
    events = notifications = None
    if not application.private_mode:
        by_id = {"workflow_id": workflow_id}
        told = _part(application, messages.GetWorkflowEvents(**by_id), deadline)
        events = told.events if told else None
        told = _part(application, messages.GetWorkflowNotifications(**by_id), deadline)
        notifications = told.notifications if told else None
    return WorkflowDetail(
        row,
        steps[:STEPS_PAGE] if steps is not None else None,
        steps_offset,
        steps is not None and len(steps) > STEPS_PAGE,
        events,
        notifications,
    )


def _steps(
    application: Application, workflow_id: str, offset: int, deadline: float
) -> list[StepRow] | None:
    """One page and one more; where the SDK ignores the bounds, cut out of all."""
    request = messages.ListSteps(
        workflow_id=workflow_id,
        load_output=not application.private_mode,
        limit=STEPS_PAGE + 1,
        offset=offset,
    )
    try:
        answer = gateway.answer(application, request, timeout_s=_left(deadline))
    except errors.ConductorError:
        return None
    steps: list[StepRow] = answer.reply.output
    if "limit" in codec.untold(request, answer.by.peer):
        steps = steps[offset:]
    steps = steps[: STEPS_PAGE + 1]
    if application.private_mode:
        steps = [replace(step, output=None, error=None) for step in steps]
    return steps


def _part(
    application: Application, request: messages.Request, deadline: float
) -> Any | None:
    """What a page can do without: None where it cannot be had in time."""
    try:
        return gateway.ask(application, request, timeout_s=_left(deadline))
    except errors.ConductorError:
        return None


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.5)


def _snapshot_detail(
    application: Application, workflow_id: str, reason: str
) -> WorkflowDetail:
    row = None
    if not application.private_mode and snapshots.is_kept(application):
        row = WorkflowSnapshot.objects.filter(
            application=application, workflow_id=workflow_id
        ).first()
    if row is None:
        raise errors.NotFound(
            "Conductor does not know this workflow, and cannot ask for it now. "
            + reason
        )
    return WorkflowDetail(row, as_of=row.seen_at, is_live=False, reason=reason)
