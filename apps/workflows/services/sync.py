"""Bringing the snapshots up to date: a bounded part of it, every few seconds.

One run of one application asks its executors four things, each of them bounded:

1. the next page of the *patrol*, which goes from the newest workflow to the oldest and
   then begins again: it reads the history from before Conductor came, and notices what
   changed or vanished long after it was finished;
2. what was created since the last run, oldest first, so that a backlog is worked off
   over several runs and nothing between is left out;
3. those that were unfinished when last seen, the longest unseen first;
4. those that we know and the patrol did not meet: what its database does not have any
   more is forgotten.

Lists are ordered by creation time only, and SQLite applications write whole seconds. A
place in a list is therefore a moment and how many of that very moment were read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError
from django.db.models import Exists, OuterRef

from apps import errors
from apps.executors import clock, gateway
from apps.executors.models import Executor
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.models import UNFINISHED, SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots

logger = logging.getLogger(__name__)

APPLICATIONS_PER_TICK = 25
# Together less than the beat's period, so that one slow application never keeps two of
# a worker's slots from the recoveries.
TICK_BUDGET_S = 6.0
RUN_BUDGET_S = 4.0
ASK_TIMEOUT_S = 3.0
LEASE = timedelta(seconds=60)
PAGE = 200
NEWER_PAGES_PER_RUN = 5
# The patrol hurries until it was round once.
FIRST_PATROL_PAGES_PER_RUN = 5
RECHECK_PER_RUN = 200
MISSED_PER_RUN = 1_000
# A workflow appears when its transaction commits, with the time at which that began,
# of a clock that is not ours.
OVERLAP = timedelta(seconds=10)
RETRY_FIRST_S, RETRY_LAST_S = 5, 600
PRIVATE_ROWS_PER_TICK = 20_000


@dataclass(slots=True)
class Run:
    """One run under way."""

    application: Application
    sync: SnapshotSync
    deadline: float
    changed: int = 0

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def list(self, request: messages.ListWorkflows) -> list[WorkflowRow]:
        """Ask for workflows and keep what comes."""
        reply = gateway.ask(self.application, request, timeout_s=ASK_TIMEOUT_S)
        rows: list[WorkflowRow] = reply.output[: request.limit]
        self.changed += snapshots.remember(application=self.application, rows=rows)
        return rows


def sync_due(*, budget_s: float = TICK_BUDGET_S) -> int:
    """Sync the applications whose turn it is, the longest waiting first; return how
    many rows changed.

    Concurrency: each run is claimed by compare-and-set, so any number of workers share
    the applications. Each failure only puts that application's next turn off.
    """
    deadline = time.monotonic() + budget_s
    snapshots.forget_private(limit=PRIVATE_ROWS_PER_TICK)
    _enlist()
    changed = 0
    for sync in _due():
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if _claim(sync):
            changed += sync_application(sync, budget_s=min(left, RUN_BUDGET_S))
    return changed


def sync_application(sync: SnapshotSync, *, budget_s: float = RUN_BUDGET_S) -> int:
    """One bounded run; return how many rows changed. Twice at once is harmless."""
    started_at = clock.now()
    run = Run(sync.application, sync, time.monotonic() + budget_s)
    place = sync.older_than, sync.older_skip
    try:
        missed = _patrol(run, started_at)
        _read_newer(run, started_at)
        forgotten = _ask_about(run, [*_longest_unseen(run.application), *missed])
        if forgotten and len(missed) == MISSED_PER_RUN:
            # Much was deleted here, and there may be more of it: stay.
            sync.older_than, sync.older_skip = place
    except errors.ConductorError as exc:
        _put_off(sync, exc.message)
    except DatabaseError:
        logger.exception(
            "snapshots of an application failed",
            extra={"application_id": sync.application_id},
        )
        _put_off(sync, "Conductor could not keep what the application answered.")
    else:
        sync.last_synced_at, sync.error, sync.failures = started_at, "", 0
        sync.due_at = clock.now()
        _save(sync)
    return run.changed


# --- Whose turn it is --------------------------------------------------------------


def _connected() -> Exists:
    return Exists(
        Executor.objects.filter(
            application=OuterRef("pk"), state=Executor.State.HEALTHY
        )
    )


def _enlist() -> None:
    """Give every connected application its row."""
    missing = Application.objects.filter(
        _connected(), private_mode=False, snapshot_sync=None
    )[:1000]
    # Not the column's default: SQLite writes that with fewer digits than it compares.
    now = clock.now()
    SnapshotSync.objects.bulk_create(
        [SnapshotSync(application=application, due_at=now) for application in missing],
        ignore_conflicts=True,
    )


def _due() -> Sequence[SnapshotSync]:
    connected = Application.objects.filter(_connected(), private_mode=False)
    return list(
        SnapshotSync.objects.filter(application__in=connected, due_at__lte=clock.now())
        .select_related("application")
        .order_by("due_at")[:APPLICATIONS_PER_TICK]
    )


def _claim(sync: SnapshotSync) -> bool:
    lease = clock.now() + LEASE
    claimed = SnapshotSync.objects.filter(pk=sync.pk, due_at=sync.due_at).update(
        due_at=lease
    )
    sync.due_at = lease
    return claimed == 1


def _put_off(sync: SnapshotSync, error: str) -> None:
    wait_s = min(RETRY_FIRST_S * 2 ** min(sync.failures, 10), RETRY_LAST_S)
    sync.error, sync.failures = error[:300], sync.failures + 1
    sync.due_at = clock.now() + timedelta(seconds=wait_s)
    _save(sync)


def _save(sync: SnapshotSync) -> None:
    # Not `save`: the application, and this row with it, may be gone.
    fields = [f.name for f in SnapshotSync._meta.fields if not f.primary_key]
    SnapshotSync.objects.filter(pk=sync.pk).update(
        **{name: getattr(sync, name) for name in fields}
    )


# --- What one run asks -------------------------------------------------------------


def _read_newer(run: Run, now: datetime) -> None:
    """From where the last run came to, oldest first."""
    sync = run.sync
    if sync.newer_than is None:
        return
    for _ in range(NEWER_PAGES_PER_RUN):
        place = sync.newer_than, sync.newer_skip
        rows = run.list(
            messages.ListWorkflows(start_time=place[0], offset=place[1], limit=PAGE)
        )
        sync.newer_than, sync.newer_skip = _advance(place, rows)
        if len(rows) < PAGE:
            # Caught up. Look back next time while things arrive, and never stay in
            # the future, where a wrong clock may have led.
            if sync.newest_at is None or sync.newer_than > min(sync.newest_at, now):
                _look_back(sync, min(sync.newer_than, now))
            return
        if run.is_over():
            return


def _look_back(sync: SnapshotSync, newest_at: datetime) -> None:
    sync.newest_at, sync.newer_than, sync.newer_skip = newest_at, newest_at - OVERLAP, 0


def _patrol(run: Run, now: datetime) -> list[str]:
    """Read the next pages downwards; return the ids of those we know of the same time
    that were not among them."""
    sync = run.sync
    missed: list[str] = []
    pages = 1 if sync.completed_at else FIRST_PATROL_PAGES_PER_RUN
    for _ in range(pages):
        newest = sync.older_than
        rows = run.list(
            messages.ListWorkflows(
                end_time=newest, offset=sync.older_skip, limit=PAGE, sort_desc=True
            )
        )
        is_end = len(rows) < PAGE
        newest_at = next((r.created_at for r in rows if r.created_at is not None), None)
        if sync.newer_than is None and newest_at is not None:
            # The very first page: from here on the new, by the application's own clock.
            _look_back(sync, min(newest_at, now))
        oldest, skip = _advance((newest or now, sync.older_skip), rows)
        known = WorkflowSnapshot.objects.filter(application=run.application)
        if newest is not None:
            known = known.filter(created_at__lte=newest)
        if not is_end:
            known = known.filter(created_at__gte=oldest)
        absent = known.exclude(workflow_id__in=[row.workflow_id for row in rows])
        missed += absent.order_by("seen_at").values_list("workflow_id", flat=True)[
            : MISSED_PER_RUN - len(missed)
        ]
        if is_end:
            sync.older_than, sync.older_skip, sync.completed_at = None, 0, now
            break
        sync.older_than, sync.older_skip = oldest, skip
        if run.is_over():
            break
    return missed


def _advance(
    place: tuple[datetime, int], rows: Sequence[WorkflowRow]
) -> tuple[datetime, int]:
    """The place after `rows`, which begin at `place`."""
    moment, skip = place
    for row in rows:
        if row.created_at is None:
            continue  # Where a time is asked for, databases leave it out.
        if row.created_at == moment:
            skip += 1
        else:
            moment, skip = row.created_at, 1
    return moment, skip


def _longest_unseen(application: Application) -> list[str]:
    return list(
        WorkflowSnapshot.objects.filter(application=application, status__in=UNFINISHED)
        .order_by("seen_at")
        .values_list("workflow_id", flat=True)[:RECHECK_PER_RUN]
    )


def _ask_about(run: Run, ids: Sequence[str]) -> int:
    """Ask about certain workflows. One that its database lacks is forgotten; return how
    many those were."""
    forgotten = 0
    for part in codec.id_parts(list(dict.fromkeys(ids))):
        if run.is_over():
            break
        rows = run.list(messages.ListWorkflows(workflow_uuids=part, limit=len(part)))
        present = {row.workflow_id for row in rows}
        gone = [one for one in part if one not in present]
        snapshots.forget(application=run.application, workflow_ids=gone)
        forgotten += len(gone)
    return forgotten
