"""Reading workflows: from a live executor, or from snapshots while none answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
)
from apps.htmx import COUNT_LIMIT
from apps.registry.models import Application
from apps.workflows.live import asking, counting
from apps.workflows.live.order import EPOCH, Position
from apps.workflows.live.pager import Pager
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots

PAGE = 50
STEPS_PAGE = 100
READ_BUDGET_S = 10.0
# Where an SDK ignores a filter, so many workflows are read at a time, and so often.
SEARCH_BATCH = 250
SEARCH_ASKS = 8


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
    next: Position | None
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
    *, application: Application, filters: Filters, cursor: Position | None = None
) -> WorkflowPage:
    """One page. Live lists are written through to the snapshots."""
    deadline = time.monotonic() + READ_BUDGET_S
    request = _request(filters)
    pager = Pager(request, PAGE, deadline, SEARCH_BATCH, SEARCH_ASKS)
    try:
        page = asking.read(application, pager.after(cursor), deadline)
    except errors.ConductorError as exc:
        return _snapshot_page(application, filters, cursor, exc.message)
    # Where the page is the whole list, it is counted. SDKs answer one question after
    # the other, so an executor asked to count meanwhile would give its rows later.
    is_all = cursor is None and page.next is None
    count = len(page.rows) if is_all else counting.find_count(application, request)
    snapshots.remember(application=application, rows=page.rows)
    return WorkflowPage(
        page.rows,
        page.next,
        None if count is None else Count(count, is_exact=True),
        searched=page.searched if page.is_unfinished else None,
    )


def _request(filters: Filters) -> messages.ListWorkflows:
    return messages.ListWorkflows(
        status=filters.status,
        workflow_name=(filters.name,) if filters.name else (),
        workflow_id_prefix=(filters.id_prefix,) if filters.id_prefix else (),
        application_version=(filters.version,) if filters.version else (),
        start_time=filters.created_from,
        end_time=filters.created_to,
        sort_desc=True,
    )


def _snapshot_page(
    application: Application, filters: Filters, cursor: Position | None, reason: str
) -> WorkflowPage:
    if application.private_mode:
        reason += " The application is in private mode: nothing is kept about it."
        return WorkflowPage([], None, is_live=False, reason=reason)
    if not snapshots.is_kept(application):
        reason += " Nothing is kept of the chosen database."
        return WorkflowPage([], None, is_live=False, reason=reason)
    found = snapshots_matching(application, filters)
    page = list(newest_first(older_than(found, cursor))[: PAGE + 1])
    rows = page[:PAGE]
    sync = SnapshotSync.objects.filter(application=application).first()
    as_of = sync.last_synced_at if sync else None
    if as_of is None and rows:
        as_of = max(row.seen_at for row in rows)
    return WorkflowPage(
        rows,
        Position(rows[-1].created_at, rows[-1].workflow_id)
        if len(page) > PAGE
        else None,
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
        # What has no creation time is not of any time.
        found = found.filter(created_at__lte=filters.created_to, created_at__gt=EPOCH)
    return found


def newest_first(found: QuerySet[WorkflowSnapshot]) -> QuerySet[WorkflowSnapshot]:
    """Order as `live.order` does: ids by code points, as the column's collation is."""
    return found.order_by("-created_at", "workflow_id")


def older_than(
    found: QuerySet[WorkflowSnapshot], cursor: Position | None
) -> QuerySet[WorkflowSnapshot]:
    """What comes after a cursor. The redundant first bound is what lets the planner
    begin there."""
    if cursor is None:
        return found
    return found.filter(created_at__lte=cursor.created_at).filter(
        Q(created_at__lt=cursor.created_at) | Q(workflow_id__gt=cursor.workflow_id)
    )


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
