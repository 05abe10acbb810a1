"""The record of an order: made before anything is sent, closed with what came of it.

Its audit entry is written once, by the closing. An order whose giver ended before that
(a crash, a bug) is closed by `close_abandoned`, so that it leaves its trace too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from apps import errors
from apps.executors import clock
from apps.registry.auth import Actor, past_actor
from apps.registry.models import Application, AuditEntry, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.services import failure_audited, record_audit
from apps.workflows.models import WorkflowCommand

ABANDONED_AFTER = timedelta(minutes=5)
# What one run of `close_abandoned` closes at most.
ABANDONED_BATCH = 500
ID_CHARS = 512
State = WorkflowCommand.State


@dataclass(slots=True)
class Record:
    """An order being carried out. `details` go into its audit entry; a `failure` (a
    sentence) makes a failed one of it without raising."""

    details: dict[str, Any]
    failure: str = ""


@contextmanager
def recorded(
    *,
    actor: Actor,
    application: Application,
    operation: Operation,
    target_type: TargetType,
    target_id: str,
    workflow_ids: Sequence[str] = (),
    details: dict[str, Any] | None = None,
    permission: str = Permission.APPLICATION_WRITE,
) -> Iterator[Record]:
    """One order: permitted, recorded, closed and audited, whatever comes of it.

    No transaction is open meanwhile, so the order may wait for executors. Raises:
    NotFound, Forbidden, which leave an entry but no record; what the order raises.
    """
    details = {"application_name": application.name, **(details or {})}
    with failure_audited(
        actor=actor,
        operation=operation,
        target_type=target_type,
        target_id=target_id,
        details=details,
    ):
        actor.require(permission, application)
    command = WorkflowCommand.objects.create(
        application=application,
        operation=operation,
        target_type=target_type,
        target_id=target_id[:ID_CHARS],
        workflow_ids=[one[:ID_CHARS] for one in workflow_ids],
        actor=actor.identity(),
        detail=details,
    )
    record = Record(details)
    try:
        yield record
    except errors.ConductorError as exc:
        is_denied = isinstance(exc, errors.Forbidden)
        _close(command, record.details, exc.message, is_denied=is_denied)
        exc.is_audited = True
        raise
    _close(command, record.details, record.failure)


def close_abandoned() -> int:
    """Close the records whose giver ended before it could; return how many."""
    abandoned = WorkflowCommand.objects.filter(
        state=State.SENT, created_at__lt=clock.now() - ABANDONED_AFTER
    ).select_related("application__organization")
    sentence = "Conductor stopped before the answer came. It may have been carried out."
    return sum(
        _close(command, command.detail, sentence)
        for command in abandoned.order_by("created_at")[:ABANDONED_BATCH]
    )


def _close(
    command: WorkflowCommand,
    details: dict[str, Any],
    failure: str,
    *,
    is_denied: bool = False,
) -> bool:
    """From sent to done, or failed for a reason; whoever closes it audits it. Return
    False where somebody else did."""
    outcomes = AuditEntry.Outcome
    outcome = outcomes.SUCCESS
    if failure:
        outcome = outcomes.DENIED if is_denied else outcomes.FAILURE
    row = WorkflowCommand.objects.filter(pk=command.pk)
    with transaction.atomic():
        closed = row.filter(state=State.SENT).update(
            state=State.FAILED if failure else State.DONE,
            error=failure[:500],
            detail=details,
            finished_at=clock.now(),
        )
        # One that went with its application meanwhile was still given.
        if not closed and row.exists():
            return False
        application = command.application
        record_audit(
            actor=past_actor(application.organization, command.actor),
            operation=Operation(command.operation),
            target_type=TargetType(command.target_type),
            target_id=command.target_id,
            details={**details, "reason": failure} if failure else details,
            outcome=outcome,
        )
    return True


def forget_old(*, limit: int) -> int:
    """Delete up to `limit` closed commands older than their retention; return how
    many. Their audit entries stay."""
    age = timedelta(days=settings.CONDUCTOR_COMMAND_RETENTION_DAYS)
    old = WorkflowCommand.objects.filter(created_at__lt=clock.now() - age)
    ids = old.exclude(state=State.SENT).order_by("created_at").values_list("pk")
    count, _ = WorkflowCommand.objects.filter(
        pk__in=[pk for (pk,) in ids[:limit]]
    ).delete()
    return count
