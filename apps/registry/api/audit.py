"""Operations of the HTTP API: the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from django.http import HttpRequest
from ninja import Path, Query, Router
from pydantic import AfterValidator

from apps.api import (
    ORG,
    InOrg,
    Int64,
    Output,
    Params,
    QueryInt64,
    Text,
    Time,
    omitted,
    operation,
)
from apps.registry import selectors
from apps.registry.callers import actor_in
from apps.registry.models import AuditEntry, Permission
from apps.registry.selectors import AuditFilter

router = Router()

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000

SubjectType = Literal["user", "api_key"]
TargetTypeName = Literal[
    "application",
    "token",
    "role",
    "user",
    "organization",
    "workflow",
    "schedule",
    "alerting_rule",
    "domain_claim",
]


def _limit(value: int) -> int:
    if not 1 <= value <= MAX_LIMIT:
        raise ValueError(f"From 1 to {MAX_LIMIT:,}.")
    return value


def _offset(value: int) -> int:
    if value < 0:
        raise ValueError("Not less than 0.")
    return value


# The contract describes no bounds.
Limit = Annotated[QueryInt64, AfterValidator(_limit)]
Offset = Annotated[QueryInt64, AfterValidator(_offset)]


class AuditQuery(Params):
    """From `startTime`, which is within, to `endTime`, which is not. `subject` is a
    name or an id, `target` an id."""

    start_time: Time | None = None
    end_time: Time | None = None
    operation: Text | None = None
    subject: Text | None = None
    target: Text | None = None
    limit: Limit | None = None
    offset: Offset | None = None


class AuditSubject(Output):
    """Who did it. Conductor itself is the user `system`."""

    type: SubjectType
    id: str
    display: str


class AuditTarget(Output):
    type: TargetTypeName
    id: str


class AuditLogEntry(Output):
    """One change, or one attempt. A denied one has the status failure."""

    id: str
    emit_time: Time
    operation: str
    status: Literal["success", "failure"]
    subject: AuditSubject
    target: AuditTarget | None = omitted()
    source_ip: str
    details: dict[str, Any] | None
    request_id: str | None
    user_agent: str | None
    # The prefix of the API key that the subject is.
    actor_key: str | None
    sequence: Int64
    previous_hash: str
    hash: str


@operation(
    router,
    "GET",
    f"{ORG}/audit-logs",
    "listAuditLogs",
    permission=Permission.ORGANIZATION_READ,
    tag="Audit",
    response=list[AuditLogEntry],
    needs_accounts=True,
)
def list_audit_logs(
    request: HttpRequest, path: Path[InOrg], query: Query[AuditQuery]
) -> list[AuditLogEntry]:
    """Newest first."""
    chosen = AuditFilter(
        start=query.start_time,
        end=query.end_time,
        operation=query.operation,
        subject=query.subject,
        target=query.target,
    )
    entries = selectors.audit_entries_of(actor_in(request, path.org_name), chosen)
    first = query.offset or 0
    last = min(first + (query.limit or DEFAULT_LIMIT), 2**63 - 1)
    return [_entry(one) for one in entries[first:last]]


def _entry(entry: AuditEntry) -> AuditLogEntry:
    is_key = entry.subject_type == "api_key"
    target = None
    if entry.target_id:
        target = AuditTarget(
            type=cast("TargetTypeName", entry.target_type), id=entry.target_id
        )
    return AuditLogEntry(
        id=str(entry.pk),
        emit_time=entry.emitted_at,
        operation=entry.operation,
        status="success" if entry.outcome == "success" else "failure",
        subject=AuditSubject(
            type="api_key" if is_key else "user",
            id=entry.subject_id,
            display=entry.subject_display,
        ),
        target=target,
        source_ip=entry.source_ip,
        details=entry.details,
        request_id=entry.request_id or None,
        user_agent=entry.user_agent or None,
        actor_key=entry.actor_key or None,
        sequence=entry.sequence,
        previous_hash=entry.previous_hash,
        hash=entry.hash,
    )
