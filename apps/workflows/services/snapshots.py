"""Keeping the last-known metadata of workflows; never their payloads.

Written through from every list that passes, and refreshed by a bounded sync.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import transaction

from apps import errors
from apps.executors import clock, gateway
from apps.executors.models import Executor
from apps.executors.protocol import messages
from apps.executors.protocol.rows import WorkflowRow
from apps.executors.untrusted import storable_text
from apps.registry.models import Application
from apps.workflows.models import SnapshotSync, WorkflowSnapshot

PAGE = 200
# What one run may ask: the newest, then some of those not known to be finished.
PAGES_PER_RUN = 5
RECHECK_PER_RUN = 200
SYNC_TIMEOUT_S = 10.0
UNFINISHED = ("PENDING", "ENQUEUED", "DELAYED")

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
    "seen_at",
]


def remember(*, application: Application, rows: Iterable[WorkflowRow]) -> int:
    """Keep what a list said, newer over older; return how many rows were kept.

    Nothing in private mode. Concurrency: rows are written in id order, so that two
    writers do not wait for each other in a circle.
    """
    if application.private_mode:
        return 0
    latest = {row.workflow_id: row for row in rows if row.workflow_id}
    known = dict(
        WorkflowSnapshot.objects.filter(
            application=application, workflow_id__in=list(latest)
        ).values_list("workflow_id", "updated_at")
    )
    now = clock.now()
    fresh = [
        _snapshot(application, row, now)
        for _, row in sorted(latest.items())
        if _is_news(row, known.get(row.workflow_id))
    ]
    WorkflowSnapshot.objects.bulk_create(
        fresh,
        batch_size=500,
        update_conflicts=True,
        unique_fields=["application", "workflow_id"],
        update_fields=_COLUMNS,
    )
    return len(fresh)


def forget(*, application: Application, workflow_ids: Sequence[str]) -> None:
    """Drop workflows that are known to be gone."""
    WorkflowSnapshot.objects.filter(
        application=application, workflow_id__in=workflow_ids
    ).delete()


def forget_all(*, application: Application) -> None:
    """Drop everything kept, as private mode promises."""
    WorkflowSnapshot.objects.filter(application=application).delete()


def _is_news(row: WorkflowRow, known_updated_at: datetime | None) -> bool:
    # SQLite applications tell whole seconds only: the same second may be news.
    return (
        known_updated_at is None
        or row.updated_at is None
        or row.updated_at >= known_updated_at
    )


def _snapshot(
    application: Application, row: WorkflowRow, now: datetime
) -> WorkflowSnapshot:
    return WorkflowSnapshot(
        application=application,
        workflow_id=storable_text(row.workflow_id, 10_000),
        status=storable_text(row.status, 64),
        name=storable_text(row.name, 255),
        class_name=storable_text(row.class_name, 255),
        config_name=storable_text(row.config_name, 255),
        application_version=storable_text(row.application_version, 255),
        executor_id=storable_text(row.executor_id, 255),
        queue_name=storable_text(row.queue_name, 255),
        created_at=row.created_at or now,
        updated_at=row.updated_at or row.created_at or now,
        completed_at=row.completed_at,
        dequeued_at=row.dequeued_at,
        priority=max(min(row.priority, 2**62), -(2**62)),
        parent_workflow_id=storable_text(row.parent_workflow_id, 10_000),
        forked_from=storable_text(row.forked_from, 10_000),
        was_forked_from=row.was_forked_from,
        schedule_name=storable_text(row.schedule_name, 255),
        authenticated_user=storable_text(row.authenticated_user, 255),
        deduplication_id=storable_text(row.deduplication_id, 10_000),
        attributes=storable_text(row.attributes, 10_000),
        seen_at=now,
    )


# --- Sync ------------------------------------------------------------------------


def sync_all() -> int:
    """Sync every application with a healthy executor; return how many rows came."""
    connected = Executor.objects.filter(state=Executor.State.HEALTHY)
    applications = Application.objects.filter(
        private_mode=False, pk__in=connected.values("application_id").distinct()
    )
    return sum(sync_application(application=a) for a in applications.iterator())


def sync_application(*, application: Application) -> int:
    """One bounded run: what is newer than the last, and what was not finished then."""
    sync, _ = SnapshotSync.objects.get_or_create(application=application)
    started_at = clock.now()
    try:
        kept = _sync_newest(application, sync) + _recheck_unfinished(application)
    except errors.ConductorError as exc:
        SnapshotSync.objects.filter(pk=sync.pk).update(error=exc.message[:300])
        return 0
    SnapshotSync.objects.filter(pk=sync.pk).update(
        last_synced_at=started_at, error="", cursor_created_at=sync.cursor_created_at
    )
    return kept


def _sync_newest(application: Application, sync: SnapshotSync) -> int:
    """Page from where the last run ended, oldest first, so that a backlog is worked
    off over several runs and nothing between is left out."""
    kept = 0
    for page in range(PAGES_PER_RUN):
        request = messages.ListWorkflows(
            start_time=sync.cursor_created_at,
            limit=PAGE,
            offset=page * PAGE,
            sort_desc=sync.cursor_created_at is None,
        )
        rows = gateway.ask(application, request, timeout_s=SYNC_TIMEOUT_S).output
        kept += remember(application=application, rows=rows)
        if len(rows) < PAGE or sync.cursor_created_at is None:
            break
    newest = [row.created_at for row in rows if row.created_at is not None]
    if newest:
        sync.cursor_created_at = max(newest)
    return kept


def _recheck_unfinished(application: Application) -> int:
    """Ask again about those that were unfinished, the longest unseen first. One that
    is gone from its database is forgotten."""
    ids = list(
        WorkflowSnapshot.objects.filter(application=application, status__in=UNFINISHED)
        .order_by("seen_at")
        .values_list("workflow_id", flat=True)[:RECHECK_PER_RUN]
    )
    if not ids:
        return 0
    request = messages.ListWorkflows(
        workflow_uuids=tuple(ids), limit=len(ids), sort_desc=True
    )
    rows = gateway.ask(application, request, timeout_s=SYNC_TIMEOUT_S).output
    present = {row.workflow_id for row in rows}
    with transaction.atomic():
        kept = remember(application=application, rows=rows)
        WorkflowSnapshot.objects.filter(
            application=application, workflow_id__in=present
        ).update(seen_at=clock.now())
        forget(
            application=application,
            workflow_ids=[one for one in ids if one not in present],
        )
    return kept
