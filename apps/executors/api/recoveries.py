"""Operations of the HTTP API: recoveries, and connections that were refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from django.http import HttpRequest
from ninja import Path, Query, Router
from pydantic import Field

from apps import errors
from apps.api import (
    APP,
    ORG,
    InApp,
    InOrg,
    Int64,
    Output,
    Params,
    Text,
    Time,
    operation,
)
from apps.executors import databases, recovery
from apps.executors.models import Recovery as RecoveryRow
from apps.executors.models import RecoveryAttempt as AttemptRow
from apps.executors.models import RejectedConnection as RejectedRow
from apps.registry.callers import actor_in, application_in
from apps.registry.models import Application, Permission

router = Router()

RECOVERY = f"{APP}/recoveries/{{recoveryId}}"
TAG = "Executors"
ATTEMPTS_LIMIT = 100
Limit = Annotated[int, Field(ge=1, le=1_000)]
# What a bigint holds, so that no id is too large for the database.
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
State = Literal["WAITING", "REQUESTED", "CONFIRMED", "RETURNED"]


class InRecovery(InApp):
    recovery_id: Id


class RecoveryParams(Params):
    state: State | None = None
    executor_id: Text | None = None
    before_id: Id | None = None
    limit: Limit = 100


class RejectedParams(Params):
    limit: Limit = 100


class Recovery(Output):
    """One dead executor: what it left behind, who took it over, and the proof."""

    recovery_id: str
    app_id: str
    executor_id: str
    app_version: str
    language: str | None
    hostname: str | None
    database: str
    state: State
    disconnected_at: Time | None
    dead_at: Time
    requested_at: Time | None
    confirmed_at: Time | None
    returned_at: Time | None
    returned_after_takeover: bool
    taken_over_by: str | None
    attempt_count: Int64
    next_try_at: Time | None
    waiting_reason: str | None
    pending_count: Int64 | None
    pending_left: Int64 | None
    proved_by: str | None
    last_error: str | None


class RecoveryAttempt(Output):
    """One order to one executor, and what came of it."""

    executor_id: str
    started_at: Time
    duration_ms: Int64
    outcome: str
    detail: str | None


class RecoveryDetail(Recovery):
    """A recovery with its last attempts, the newest first."""

    attempts: list[RecoveryAttempt]


class RejectedConnection(Output):
    """Attempts to connect that were refused for one cause with one key."""

    app_name: str
    token_name: str | None
    key_prefix: str | None
    reason: str
    status: Int64
    count: Int64
    first_seen_at: Time
    last_seen_at: Time
    remote_ip: str | None


@operation(
    router,
    "GET",
    f"{APP}/recoveries",
    "listRecoveries",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[Recovery],
    is_extension=True,
)
def list_recoveries(
    request: HttpRequest, path: Path[InApp], query: Query[RecoveryParams]
) -> list[Recovery]:
    """The newest first; `beforeId`, the last one's id, continues the list."""
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    found = application.recoveries.select_related("database")
    if query.state is not None:
        found = found.filter(state=query.state)
    if query.executor_id is not None:
        found = found.filter(executor_id=query.executor_id)
    if query.before_id is not None:
        found = found.filter(pk__lt=query.before_id)
    return [Recovery(**_fields(row)) for row in found.order_by("-id")[: query.limit]]


@operation(
    router,
    "GET",
    RECOVERY,
    "getRecovery",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=RecoveryDetail,
    is_extension=True,
)
def get_recovery(request: HttpRequest, path: Path[InRecovery]) -> RecoveryDetail:
    """One dead executor: what it left behind, and what became of it."""
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    row = _get(application, path.recovery_id)
    attempts = row.attempt_set.order_by("-id")[:ATTEMPTS_LIMIT]
    return RecoveryDetail(**_fields(row), attempts=[_attempt(one) for one in attempts])


@operation(
    router,
    "POST",
    f"{RECOVERY}/retry",
    "retryRecovery",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
    is_extension=True,
)
def retry_recovery(request: HttpRequest, path: Path[InRecovery]) -> None:
    """Make one that waits due at once; 409 where it does not wait."""
    actor, application = application_in(request, path, None)
    recovery.retry_now(actor=actor, recovery=_get(application, path.recovery_id))


@operation(
    router,
    "GET",
    f"{ORG}/rejected-connections",
    "listRejectedConnections",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[RejectedConnection],
    is_extension=True,
)
def list_rejected_connections(
    request: HttpRequest, path: Path[InOrg], query: Query[RejectedParams]
) -> list[RejectedConnection]:
    """The latest first. A key for certain applications sees those of their names."""
    actor = actor_in(request, path.org_name)
    actor.require(Permission.APPLICATION_READ)
    found = RejectedRow.objects.filter(organization=actor.organization)
    if actor.application_ids is not None:
        seen = Application.objects.filter(pk__in=actor.application_ids)
        found = found.filter(application_name__in=seen.values("name"))
    found = found.select_related("api_key").order_by("-last_seen_at", "-id")
    return [_rejected(row) for row in found[: query.limit]]


def _get(application: Application, pk: int) -> RecoveryRow:
    rows = application.recoveries.select_related("application", "database")
    row = rows.filter(pk=pk).first()
    if row is None:
        raise errors.NotFound("There is no such recovery.")
    return row


def _fields(row: RecoveryRow) -> dict[str, Any]:
    return {
        "recovery_id": str(row.pk),
        "app_id": str(row.application_id),
        "executor_id": row.executor_id,
        "app_version": row.application_version,
        "language": row.language or None,
        "hostname": row.hostname or None,
        "database": row.database.label if row.database else databases.UNKNOWN_LABEL,
        "state": row.state,
        "disconnected_at": row.disconnected_at,
        "dead_at": row.dead_at,
        "requested_at": row.requested_at,
        "confirmed_at": row.confirmed_at,
        "returned_at": row.returned_at,
        "returned_after_takeover": row.returned_after_takeover,
        "taken_over_by": row.taken_over_by or None,
        "attempt_count": row.attempts,
        "next_try_at": row.next_try_at if row.state in RecoveryRow.OPEN else None,
        "waiting_reason": row.waiting_reason or None,
        "pending_count": row.pending_count,
        "pending_left": row.pending_left,
        "proved_by": row.proved_by or None,
        "last_error": row.last_error or None,
    }


def _attempt(row: AttemptRow) -> RecoveryAttempt:
    return RecoveryAttempt(
        executor_id=row.executor_id,
        started_at=row.started_at,
        duration_ms=row.duration_ms,
        outcome=row.outcome,
        detail=row.detail or None,
    )


def _rejected(row: RejectedRow) -> RejectedConnection:
    return RejectedConnection(
        app_name=row.application_name,
        token_name=row.api_key.name if row.api_key else None,
        key_prefix=row.key_prefix or None,
        reason=row.reason,
        status=row.status,
        count=row.count,
        first_seen_at=row.first_seen_at,
        last_seen_at=row.last_seen_at,
        remote_ip=row.remote_ip or None,
    )
