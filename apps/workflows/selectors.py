"""Reading workflows: from a live executor, or from snapshots while none answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import StepRow, WorkflowRow
from apps.registry.models import Application
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots

PAGE = 50
STEPS_LIMIT = 500
READ_TIMEOUT_S = 10.0
MAX_OFFSET = 100_000

STATUSES = (
    "PENDING",
    "ENQUEUED",
    "DELAYED",
    "SUCCESS",
    "ERROR",
    "CANCELLED",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
)
# What `SnapshotSync` or a refusal can explain; anything else is an error of the page.
_AWAY = (errors.NoHealthyExecutor, errors.EveryExecutorFailed)


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
class WorkflowPage:
    """Some workflows, newest first. `as_of` is None where an executor said so just now,
    else when it was last known; `reason` says why no executor was asked."""

    rows: Sequence[Any]
    offset: int
    has_more: bool
    as_of: datetime | None = None
    is_live: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkflowDetail:
    """One workflow with its steps; `steps` is None where they are not known."""

    row: Any
    steps: Sequence[StepRow] | None
    as_of: datetime | None = None
    is_live: bool = True
    reason: str = ""


def list_workflows(
    *, application: Application, filters: Filters, offset: int = 0
) -> WorkflowPage:
    """One page. Live lists are written through to the snapshots."""
    offset = max(0, min(offset, MAX_OFFSET))
    request = messages.ListWorkflows(
        status=filters.status,
        workflow_name=(filters.name,) if filters.name else (),
        workflow_id_prefix=(filters.id_prefix,) if filters.id_prefix else (),
        application_version=(filters.version,) if filters.version else (),
        start_time=filters.created_from,
        end_time=filters.created_to,
        limit=PAGE + 1,
        offset=offset,
        sort_desc=True,
    )
    try:
        reply = gateway.ask(application, request, timeout_s=READ_TIMEOUT_S)
    except _AWAY as exc:
        return _snapshot_page(application, filters, offset, exc.message)
    rows: list[WorkflowRow] = codec.refilter(
        request, codec.Peer(None, None), reply.output
    )
    snapshots.remember(application=application, rows=rows)
    return WorkflowPage(rows[:PAGE], offset, len(reply.output) > PAGE)


def get_workflow(*, application: Application, workflow_id: str) -> WorkflowDetail:
    """One workflow, with payloads where an executor can be asked. Raises: NotFound."""
    request = messages.GetWorkflow(
        workflow_id=workflow_id,
        load_input=not application.private_mode,
        load_output=not application.private_mode,
    )
    try:
        row = gateway.ask(application, request, timeout_s=READ_TIMEOUT_S).output
    except _AWAY as exc:
        return _snapshot_detail(application, workflow_id, exc.message)
    if row is None:
        snapshots.forget(application=application, workflow_ids=[workflow_id])
        raise errors.NotFound("No such workflow.")
    snapshots.remember(application=application, rows=[row])
    return WorkflowDetail(row, _steps(application, workflow_id))


def _steps(application: Application, workflow_id: str) -> list[StepRow] | None:
    request = messages.ListSteps(
        workflow_id=workflow_id,
        load_output=not application.private_mode,
        limit=STEPS_LIMIT,
    )
    try:
        reply = gateway.ask(application, request, timeout_s=READ_TIMEOUT_S)
    except errors.ConductorError:
        return None
    steps: list[StepRow] = reply.output[:STEPS_LIMIT]
    return steps


def _snapshot_page(
    application: Application, filters: Filters, offset: int, reason: str
) -> WorkflowPage:
    found = WorkflowSnapshot.objects.filter(application=application)
    if filters.status:
        found = found.filter(status__in=filters.status)
    if filters.name:
        found = found.filter(name=filters.name)
    if filters.id_prefix:
        found = found.filter(workflow_id__startswith=filters.id_prefix)
    if filters.version:
        found = found.filter(application_version=filters.version)
    if filters.created_from is not None:
        found = found.filter(created_at__gte=filters.created_from)
    if filters.created_to is not None:
        found = found.filter(created_at__lte=filters.created_to)
    rows = list(found.order_by("-created_at", "-id")[offset : offset + PAGE + 1])
    return WorkflowPage(
        rows[:PAGE], offset, len(rows) > PAGE, _as_of(application), False, reason
    )


def _snapshot_detail(
    application: Application, workflow_id: str, reason: str
) -> WorkflowDetail:
    row = WorkflowSnapshot.objects.filter(
        application=application, workflow_id=workflow_id
    ).first()
    if row is None:
        raise errors.NotFound(
            "This workflow is not known, and no executor can be asked. " + reason
        )
    return WorkflowDetail(row, None, row.seen_at, False, reason)


def _as_of(application: Application) -> datetime | None:
    """When the snapshots were last brought up to date."""
    return (
        SnapshotSync.objects.filter(application=application)
        .values_list("last_synced_at", flat=True)
        .first()
    )
