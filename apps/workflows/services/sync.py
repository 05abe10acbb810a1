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

Lists are read by whole moments (`live.pager`), so a position is the moment to go on
from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from django.db import DatabaseError, InterfaceError, OperationalError
from django.db.models import Exists, OuterRef

from apps import errors
from apps.executors import clock, databases, fairness, gateway
from apps.executors.lanes import Lanes
from apps.executors.models import Executor
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.live import asking
from apps.workflows.live.order import EPOCH, MILLISECOND, Position, moment_of
from apps.workflows.live.pager import Pager
from apps.workflows.models import UNFINISHED, SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots

logger = logging.getLogger(__name__)

APPLICATIONS_PER_TICK = 100
# Of one organization, so many are under way or wait for a thread of this process.
APPLICATIONS_PER_ORGANIZATION = 25
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

    @property
    def _database(self) -> int:
        return self.sync.database_id or databases.UNKNOWN

    def is_over(self) -> bool:
        return time.monotonic() >= self.deadline

    def read(
        self, moment: datetime | None, *, newest_first: bool
    ) -> tuple[list[WorkflowRow], datetime | None]:
        """Read some whole moments from this one on, and keep what comes; return them,
        and the moment to go on from, or None after the last."""
        filters = messages.ListWorkflows(sort_desc=newest_first)
        # The patrol meets those without a creation time.
        pager = Pager(filters, PAGE, self.deadline, with_timeless=newest_first)
        start = None if moment is None else Position(moment)
        deadline = min(self.deadline, time.monotonic() + ASK_TIMEOUT_S)
        page = asking.read(
            self.application, pager.after(start), deadline, self._database
        )
        rows = [*page.rows, *page.held]
        self._keep(rows)
        if page.next is None or (rows and moment_of(rows[-1]) <= EPOCH):
            return rows, None
        if page.is_unfinished or not rows:
            return rows, page.next.created_at
        step = -MILLISECOND if newest_first else MILLISECOND
        return rows, moment_of(rows[-1]) + step

    def _keep(self, rows: Sequence[WorkflowRow]) -> None:
        self.changed += snapshots.remember(
            application=self.application, rows=rows, is_one_database=True
        )

    def list(self, request: messages.ListWorkflows) -> list[WorkflowRow]:
        """Ask for workflows and keep what comes."""
        reply = gateway.ask(
            self.application,
            request,
            timeout_s=ASK_TIMEOUT_S,
            database=self._database,
        )
        rows: list[WorkflowRow] = reply.output[: request.limit]
        self._keep(rows)
        return rows


# A run waits for executors, and one that hangs must hold up no other organization's
# (a group). Few at a time: reading the answers takes the processor.
_lanes = Lanes("snapshots", per_owner=1, per_group=2, total=4, reserve=50)


def sync_in_background() -> None:
    """Have every application synced whose turn it is. Waits for no executor.

    Concurrency: each run is claimed by compare-and-set, so any number of workers share
    the applications. Each failure only puts that application's next turn off.
    """
    snapshots.forget_private(limit=PRIVATE_ROWS_PER_TICK)
    _enlist()
    for sync in _due():
        _lanes.submit(
            sync.application_id,
            partial(_run, sync),
            group=sync.application.organization_id,
        )


def _run(sync: SnapshotSync) -> None:
    if _claim(sync):
        sync_application(sync)


def sync_application(sync: SnapshotSync, *, budget_s: float = RUN_BUDGET_S) -> int:
    """One bounded run; return how many rows changed. Twice at once is harmless."""
    started_at = clock.now()
    run = Run(sync.application, sync, time.monotonic() + budget_s)
    place = sync.older_than
    _choose_database(sync)
    try:
        missed = _patrol(run, started_at)
        _read_newer(run, started_at)
        forgotten = _ask_about(run, [*_longest_unseen(run.application), *missed])
        if forgotten and len(missed) == MISSED_PER_RUN:
            # Much was deleted here, and there may be more of it: stay.
            sync.older_than = place
    except errors.ConductorError as exc:
        _put_off(sync, exc.message)
    except (OperationalError, InterfaceError) as exc:
        logger.warning(
            "snapshots of an application put off",
            extra={"application_id": sync.application_id, "error": str(exc)},
        )
        _put_off(sync, "Conductor's database was busy or away.")
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
    due = SnapshotSync.objects.filter(
        application__in=connected, due_at__lte=clock.now()
    )
    return fairness.longest_due(
        due.select_related("application"),
        in_hand=_lanes.in_hand(),
        each=APPLICATIONS_PER_ORGANIZATION,
        limit=APPLICATIONS_PER_TICK,
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


def _choose_database(sync: SnapshotSync) -> None:
    """Stay with the database that is kept as long as it has executors, even dead ones:
    another one's word would drop all that is known of it."""
    executors = Executor.objects.filter(application=sync.application)
    if executors.filter(database=sync.database).exists():
        return
    chosen = databases.default_of(databases.list_present(sync.application))
    if chosen is not None:
        sync.database_id = chosen.key or None


# --- What one run asks -------------------------------------------------------------


def _read_newer(run: Run, now: datetime) -> None:
    """From where the last run came to, oldest first."""
    sync = run.sync
    if sync.newer_than is None:
        return
    for _ in range(NEWER_PAGES_PER_RUN):
        rows, next_moment = run.read(sync.newer_than, newest_first=False)
        if next_moment is None:
            # Caught up. Look back next time while things arrive, and never stay in
            # the future, where a wrong clock may have led.
            newest = max(filter(None, (row.created_at for row in rows)), default=None)
            newest = newest or sync.newer_than
            if sync.newest_at is None or newest > min(sync.newest_at, now):
                _look_back(sync, min(newest, now))
            return
        sync.newer_than = next_moment
        if run.is_over():
            return


def _look_back(sync: SnapshotSync, newest_at: datetime) -> None:
    sync.newest_at, sync.newer_than = newest_at, newest_at - OVERLAP


def _patrol(run: Run, now: datetime) -> list[str]:
    """Read the next pages downwards; return the ids of those we know of the same time
    that were not among them."""
    sync = run.sync
    missed: list[str] = []
    pages = 1 if sync.completed_at else FIRST_PATROL_PAGES_PER_RUN
    for _ in range(pages):
        newest = sync.older_than
        rows, next_moment = run.read(newest, newest_first=True)
        if sync.newer_than is None and rows and rows[0].created_at is not None:
            # The very first page: from here on the new, by the application's own clock.
            _look_back(sync, min(rows[0].created_at, now))
        known = WorkflowSnapshot.objects.filter(application=run.application)
        if newest is not None:
            known = known.filter(created_at__lte=newest)
        if next_moment is not None:
            known = known.filter(created_at__gt=next_moment)
        absent = known.exclude(workflow_id__in=[row.workflow_id for row in rows])
        missed += absent.order_by("seen_at").values_list("workflow_id", flat=True)[
            : MISSED_PER_RUN - len(missed)
        ]
        sync.older_than = next_moment
        if next_moment is None:
            sync.completed_at = now
            break
        if run.is_over():
            break
    return missed


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
        snapshots.forget(
            application=run.application, workflow_ids=gone, is_one_database=True
        )
        forgotten += len(gone)
    return forgotten
