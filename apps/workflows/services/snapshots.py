"""Keeping the last-known metadata of workflows; never their payloads.

Every list that passes is written through to here; `sync` asks for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction

from apps.executors import clock
from apps.executors.protocol.rows import WorkflowRow
from apps.executors.untrusted import storable_text
from apps.registry.models import Application
from apps.workflows.live.order import moment_of
from apps.workflows.models import WorkflowSnapshot

# PostgreSQL indexes no value beyond a third of a page; longer ids are not kept.
ID_LIMIT_BYTES = 2_048
# A row that did not change is marked as seen again at most this often.
SEEN_EVERY = timedelta(seconds=5)

_COLUMNS = [
    "status",
    "name",
    "class_name",
    "config_name",
    "application_version",
    "executor_id",
    "queue_name",
    "created_at",
    "updated_at",
    "completed_at",
    "dequeued_at",
    "priority",
    "parent_workflow_id",
    "forked_from",
    "was_forked_from",
    "schedule_name",
    "authenticated_user",
    "deduplication_id",
    "attributes",
]


def remember(*, application: Application, rows: Iterable[WorkflowRow]) -> int:
    """Keep what an executor said, newer over older; return how many rows changed.

    Nothing in private mode. Concurrency: any number of writers; the newest report of a
    workflow stays, whoever comes last.
    """
    if application.private_mode:
        return 0
    told = {row.workflow_id: row for row in rows if _can_be_kept(row)}
    known = {
        snapshot.workflow_id: snapshot
        for snapshot in WorkflowSnapshot.objects.filter(
            application=application, workflow_id__in=list(told)
        )
    }
    now = clock.now()
    changed = []
    for workflow_id in sorted(told):
        fresh = _snapshot(application, told[workflow_id], now)
        old = known.get(workflow_id)
        if old is None or _is_news(fresh, old):
            changed.append(fresh)
    changed_ids = {snapshot.workflow_id for snapshot in changed}
    unchanged = [
        snapshot.pk
        for workflow_id, snapshot in known.items()
        if workflow_id not in changed_ids and now - snapshot.seen_at >= SEEN_EVERY
    ]
    if unchanged:
        WorkflowSnapshot.objects.filter(pk__in=unchanged).update(seen_at=now)
    if changed:
        try:
            _write(application, changed)
        except IntegrityError:
            # The application was deleted meanwhile: there is nothing to keep.
            return 0
    return len(changed)


def forget(*, application: Application, workflow_ids: Sequence[str]) -> None:
    """Drop workflows that are known to be gone."""
    WorkflowSnapshot.objects.filter(
        application=application, workflow_id__in=workflow_ids
    ).delete()


def forget_private(*, limit: int) -> int:
    """Drop what is kept of applications that became private; return how much.

    Pages show none of it from the moment of the change; this takes it out of the
    database, a bounded part at a time. Safe to run twice.
    """
    dropped = 0
    for application in Application.objects.filter(
        private_mode=True, snapshots__isnull=False
    ).distinct()[:100]:
        ids = WorkflowSnapshot.objects.filter(application=application).values("pk")
        count, _ = WorkflowSnapshot.objects.filter(
            pk__in=list(ids[: limit - dropped].values_list("pk", flat=True))
        ).delete()
        dropped += count
        if dropped >= limit:
            break
    return dropped


def _can_be_kept(row: WorkflowRow) -> bool:
    """Whether a row can be found again by its id.

    A replacement character stands for what no database stores: the id is not that.
    """
    return (
        bool(row.workflow_id)
        and "\N{REPLACEMENT CHARACTER}" not in row.workflow_id
        and len(row.workflow_id.encode()) <= ID_LIMIT_BYTES
    )


def _is_news(fresh: WorkflowSnapshot, old: WorkflowSnapshot) -> bool:
    # SQLite applications tell whole seconds only: the same second may be news.
    return fresh.updated_at >= old.updated_at and any(
        getattr(fresh, column) != getattr(old, column) for column in _COLUMNS
    )


def _write(application: Application, changed: list[WorkflowSnapshot]) -> None:
    """Insert what is missing; then, holding the rows, overwrite those that are older.

    Two steps, because an upsert cannot be told to keep the newer row. On SQLite the
    transaction is the lock.
    """
    with transaction.atomic():
        WorkflowSnapshot.objects.bulk_create(changed, ignore_conflicts=True)
        held = {
            workflow_id: (updated_at, seen_at)
            for workflow_id, updated_at, seen_at in WorkflowSnapshot.objects.filter(
                application=application,
                workflow_id__in=[snapshot.workflow_id for snapshot in changed],
            )
            .order_by("pk")
            .select_for_update()
            .values_list("workflow_id", "updated_at", "seen_at")
        }
        older = [
            snapshot
            for snapshot in changed
            if snapshot.workflow_id in held
            and held[snapshot.workflow_id][0] <= snapshot.updated_at
            and held[snapshot.workflow_id][1] != snapshot.seen_at  # else just inserted
        ]
        WorkflowSnapshot.objects.bulk_create(
            older,
            update_conflicts=True,
            unique_fields=["application", "workflow_id"],
            update_fields=[*_COLUMNS, "seen_at"],
        )


def _snapshot(
    application: Application, row: WorkflowRow, now: datetime
) -> WorkflowSnapshot:
    created_at = moment_of(row)
    return WorkflowSnapshot(
        application=application,
        workflow_id=row.workflow_id,
        status=storable_text(row.status, 64),
        name=storable_text(row.name, 255),
        class_name=storable_text(row.class_name, 255),
        config_name=storable_text(row.config_name, 255),
        application_version=storable_text(row.application_version, 255),
        executor_id=storable_text(row.executor_id, 255),
        queue_name=storable_text(row.queue_name, 255),
        created_at=created_at,
        updated_at=row.updated_at or created_at,
        completed_at=row.completed_at,
        dequeued_at=row.dequeued_at,
        priority=max(min(row.priority, 2**62), -(2**62)),
        parent_workflow_id=storable_text(row.parent_workflow_id, ID_LIMIT_BYTES),
        forked_from=storable_text(row.forked_from, ID_LIMIT_BYTES),
        was_forked_from=row.was_forked_from,
        schedule_name=storable_text(row.schedule_name, 255),
        authenticated_user=storable_text(row.authenticated_user, 255),
        deduplication_id=storable_text(row.deduplication_id, ID_LIMIT_BYTES),
        attributes=storable_text(row.attributes, 10_000),
        seen_at=now,
    )
