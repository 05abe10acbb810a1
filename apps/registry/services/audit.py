"""The audit log: one entry for every change and every attempt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import transaction

from apps import errors
from apps.registry import remembered
from apps.registry.auth import Actor
from apps.registry.models import AuditEntry
from apps.registry.operations import Operation, TargetType


def record_audit(
    *,
    actor: Actor,
    operation: Operation,
    target_type: TargetType,
    target_id: str,
    details: dict[str, Any] | None = None,
    outcome: AuditEntry.Outcome = AuditEntry.Outcome.SUCCESS,
) -> AuditEntry:
    """Write one entry. Call it inside the transaction of the change it records."""
    return AuditEntry.objects.create(
        organization=actor.organization,
        operation=operation,
        outcome=outcome,
        subject_type=actor.kind,
        subject_id=actor.id[:64],
        subject_display=actor.display[:254],
        target_type=target_type,
        target_id=target_id[:512],
        source_ip=actor.source_ip,
        request_id=actor.request_id,
        user_agent=actor.user_agent,
        details=details or {},
    )


@contextmanager
def audited(
    *, actor: Actor, operation: Operation, target_type: TargetType, target_id: str
) -> Iterator[dict[str, Any]]:
    """One audited change: its rows and its entry are written together, and a denied or
    failed attempt leaves an entry of its own. Yields the details to fill in."""
    details: dict[str, Any] = {}
    with (
        failure_audited(
            actor=actor,
            operation=operation,
            target_type=target_type,
            target_id=target_id,
            details=details,
        ),
        transaction.atomic(),
    ):
        yield details
        record_audit(
            actor=actor,
            operation=operation,
            target_type=target_type,
            target_id=target_id,
            details=details,
        )
        transaction.on_commit(remembered.forget)


@contextmanager
def failure_audited(
    *,
    actor: Actor,
    operation: Operation,
    target_type: TargetType,
    target_id: str,
    details: dict[str, Any],
) -> Iterator[None]:
    """An attempt that leaves an entry where it is denied or fails, and only there."""
    try:
        yield
    except errors.ConductorError as exc:
        outcomes = AuditEntry.Outcome
        is_denied = isinstance(exc, errors.Forbidden)
        record_audit(
            actor=actor,
            operation=operation,
            target_type=target_type,
            target_id=target_id,
            details={**details, "reason": exc.message},
            outcome=outcomes.DENIED if is_denied else outcomes.FAILURE,
        )
        raise
