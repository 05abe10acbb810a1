"""The audit log: one entry for every change and every attempt, in one chain for each
organization.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps import errors
from apps.registry import chain, keys, remembered
from apps.registry.auth import Actor
from apps.registry.models import AuditChain, AuditEntry, Organization
from apps.registry.operations import Operation, TargetType

RETENTION_BATCH = 1_000


def record_audit(
    *,
    actor: Actor,
    operation: Operation,
    target_type: TargetType,
    target_id: str,
    details: dict[str, Any] | None = None,
    outcome: AuditEntry.Outcome = AuditEntry.Outcome.SUCCESS,
) -> AuditEntry:
    """Write one entry. Call it inside the transaction of the change it records, and
    last: until that ends, who else writes to the organization's log waits."""
    text = chain.storable_text
    with transaction.atomic(savepoint=False):
        ends = _locked_chain(actor.organization)
        entry = {
            "organization_id": actor.organization.pk,
            "sequence": ends.sequence + 1,
            "emitted_at": timezone.now(),
            "operation": operation.value,
            "outcome": outcome.value,
            "subject_type": actor.kind,
            "subject_id": text(actor.id, 64),
            "subject_display": text(actor.display, 254),
            "actor_key": actor.key_prefix,
            "target_type": target_type.value,
            "target_id": text(target_id, 512),
            "source_ip": text(actor.source_ip, 45),
            "request_id": text(actor.request_id, 64),
            "user_agent": text(actor.user_agent, 256),
            "details": chain.storable_details(details or {}),
            "previous_hash": ends.hash,
        }
        entry["hash"] = chain.digest(entry)
        _set_ends(ends, sequence=entry["sequence"], hash=entry["hash"])
        return AuditEntry.objects.create(**entry)


def in_order(actors: Iterable[Actor]) -> list[Actor]:
    """Actors in the order of their organizations: whoever writes to several logs in one
    transaction locks them so, or two could wait for each other."""
    return sorted(actors, key=lambda actor: actor.organization.pk)


def _locked_chain(organization: Organization) -> AuditChain:
    """Return a chain, whose ends nobody else moves until the transaction ends."""
    locked = AuditChain.objects.select_for_update()
    ends = locked.filter(organization=organization).first()
    if ends is None:
        AuditChain.objects.get_or_create(organization=organization)
        ends = locked.get(organization=organization)
    return ends


def _set_ends(ends: AuditChain, **columns: Any) -> None:
    ends_now = {name: getattr(ends, name) for name in chain.ENDS} | columns
    AuditChain.objects.filter(pk=ends.pk).update(**columns, seal=chain.seal(ends_now))


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
    """An attempt that leaves an entry where it is denied or fails, and only there; one
    entry, also where several of these are left by the same failure."""
    try:
        yield
    except errors.ConductorError as exc:
        record_failure(
            exc,
            actor=actor,
            operation=operation,
            target_type=target_type,
            target_id=target_id,
            details=details,
        )
        raise


def record_failure(
    failure: errors.ConductorError,
    *,
    actor: Actor,
    operation: Operation,
    target_type: TargetType,
    target_id: str,
    details: dict[str, Any],
) -> None:
    """Write the entry of an attempt that was denied or failed, unless it has one."""
    if failure.is_audited:
        return
    outcomes = AuditEntry.Outcome
    is_denied = isinstance(failure, errors.Forbidden)
    record_audit(
        actor=actor,
        operation=operation,
        target_type=target_type,
        target_id=target_id,
        details={**details, "reason": keys.hide_secrets(failure.message)},
        outcome=outcomes.DENIED if is_denied else outcomes.FAILURE,
    )
    failure.is_audited = True


# --- Retention -----------------------------------------------------------------------


def expire_audit_entries(organization: Organization) -> int:
    """Remove the oldest entries, at most `RETENTION_BATCH`, where the organization
    keeps them no longer; return how many. What stays is verified from there."""
    keep = timedelta(days=organization.audit_log_retention_days)
    with transaction.atomic():
        ends = _locked_chain(organization)
        held = AuditEntry.objects.filter(organization=organization)
        oldest = held.filter(sequence__gt=ends.removed_sequence).order_by("sequence")
        last = None
        limit = timezone.now() - keep
        for entry in oldest.only("sequence", "hash", "emitted_at")[:RETENTION_BATCH]:
            if entry.emitted_at >= limit:
                break
            last = entry
        if last is None:
            return 0
        # The triggers let go of what is before this end.
        _set_ends(ends, removed_sequence=last.sequence, removed_hash=last.hash)
        return held.filter(sequence__lte=last.sequence).delete()[0]
