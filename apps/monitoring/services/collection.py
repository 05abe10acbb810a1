"""Collecting what the applications' databases say, window by window.

One run of one application asks one of its executors about every window that is over and
not collected yet, and about what waits or runs now. Scrapes, lists, charts and alerts
read what is kept here: none of them asks an executor.

Every question is one aggregate, of rows that the application owns, where its SDK can
tell. An SDK that does not know a question leaves those series out, and `error` says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.db.models import Exists, OuterRef

from apps import errors
from apps.executors import clock, databases, fairness, gateway
from apps.executors.lanes import Lanes
from apps.executors.models import Executor, Recovery
from apps.executors.protocol import codec
from apps.executors.protocol.messages import (
    GetMetrics,
    GetStepAggregates,
    GetWorkflowAggregates,
    Request,
)
from apps.monitoring import series, windows
from apps.monitoring.models import MetricCollection, MetricWindow
from apps.registry.models import Application

logger = logging.getLogger(__name__)

# What is older is given up: an hour of minutes, or as many windows that are shorter.
# One run catches up with so many of them.
CATCH_UP_WINDOWS = 60
WINDOWS_PER_RUN = 10
RUN_BUDGET_S = 20.0
# An aggregate over a large database takes its time.
ASK_TIMEOUT_S = 10.0
# Longer than a run's budget, and the six questions that may follow it.
LEASE = timedelta(seconds=90)
APPLICATIONS_PER_TICK = 1_000
# Of one organization, so many are under way or wait for a thread of this process.
APPLICATIONS_PER_ORGANIZATION = 200
PRUNED_PER_TICK = 5_000
RETRY_FIRST_S, RETRY_LAST_S = 5, 300
# So many failures later, what an executor refuses to answer is left out.
PATIENCE = 3
# Range filters hold at both ends.
LAST_MS = timedelta(milliseconds=1)

_FAILED = frozenset({"ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"})

# A group is an organization.
_lanes = Lanes("metrics", per_owner=1, per_group=6, total=24, reserve=100)


def collect_in_background() -> None:
    """Have every application collected whose turn it is. Waits for no executor.

    Any number of processes may do so at once: each run is claimed by compare-and-set.
    """
    forget_old(limit=PRUNED_PER_TICK)
    _enlist()
    for collection in _due():
        _lanes.submit(
            collection.application_id,
            partial(collect, collection),
            group=collection.application.organization_id,
        )


def collect(collection: MetricCollection) -> None:
    """One run of one application, where its turn was not taken by another process."""
    if not _claim(collection):
        return
    try:
        run = Run.of(collection)
        _read_windows(run)
        in_flight = run.read_in_flight()
    except LeaseLost:
        logger.warning("a collection of metrics took longer than its lease")
    except errors.ConductorError as exc:
        _put_off(collection, exc.message)
    except (OperationalError, InterfaceError) as exc:
        logger.warning(
            "metrics of an application put off",
            extra={"application_id": collection.application_id, "error": str(exc)},
        )
        _put_off(collection, "Conductor's database was busy or away.")
    except DatabaseError:
        logger.exception(
            "metrics of an application failed",
            extra={"application_id": collection.application_id},
        )
        _put_off(collection, "Conductor could not keep what the application answered.")
    else:
        now = clock.now()
        _save(
            collection,
            in_flight=in_flight,
            in_flight_at=None if in_flight is None else now,
            collected_at=now,
            folded_names=run.folded,
            failures=0,
            error=" ".join(dict.fromkeys(run.notes))[:300],
            due_at=now if _behind(collection, now) else windows.next_turn(now),
        )


def forget_old(*, limit: int) -> int:
    """Delete windows older than the retention; return how many."""
    before = clock.now() - timedelta(days=settings.CONDUCTOR_METRICS_RETENTION_DAYS)
    old = MetricWindow.objects.filter(starts_at__lt=before).order_by("starts_at")
    ids = list(old.values_list("pk", flat=True)[:limit])
    return MetricWindow.objects.filter(pk__in=ids).delete()[0] if ids else 0


# --- Whose turn it is --------------------------------------------------------------


class LeaseLost(Exception):
    """Another process took the run over, or the application is gone."""


def _connected() -> Exists:
    return Exists(
        Executor.objects.filter(
            application=OuterRef("pk"), state=Executor.State.HEALTHY
        )
    )


def _enlist() -> None:
    """Give every connected application its row, from the last window on."""
    missing = Application.objects.filter(_connected(), metric_collection=None)[:1000]
    now = clock.now()
    first = windows.begin_of(now) - windows.length()
    MetricCollection.objects.bulk_create(
        [
            MetricCollection(application=one, next_window_at=first, due_at=now)
            for one in missing
        ],
        ignore_conflicts=True,
    )


def _due() -> Sequence[MetricCollection]:
    connected = Application.objects.filter(_connected())
    due = MetricCollection.objects.filter(
        application__in=connected, due_at__lte=clock.now()
    )
    return fairness.longest_due(
        due.select_related("application"),
        in_hand=_lanes.in_hand(),
        each=APPLICATIONS_PER_ORGANIZATION,
        limit=APPLICATIONS_PER_TICK,
    )


def _claim(collection: MetricCollection) -> bool:
    lease = clock.now() + LEASE
    claimed = MetricCollection.objects.filter(
        pk=collection.pk, due_at=collection.due_at
    ).update(due_at=lease)
    collection.due_at = lease
    return claimed == 1


def _behind(collection: MetricCollection, now: datetime) -> bool:
    return windows.end_of(collection.next_window_at) + windows.settle() <= now


def _put_off(collection: MetricCollection, error: str) -> None:
    wait_s = min(RETRY_FIRST_S * 2 ** min(collection.failures, 10), RETRY_LAST_S)
    _save(
        collection,
        error=error[:300],
        failures=collection.failures + 1,
        due_at=clock.now() + timedelta(seconds=wait_s),
    )


def _save(collection: MetricCollection, **values: Any) -> None:
    """Where the run is still ours: another's may be under way by now."""
    MetricCollection.objects.filter(pk=collection.pk, due_at=collection.due_at).update(
        **values
    )


# --- Questions and answers ---------------------------------------------------------


def _read_windows(run: Run) -> None:
    """Collect and keep the windows that are over, oldest first."""
    collection, began = run.collection, time.monotonic()
    now = clock.now()
    oldest = windows.begin_of(now - CATCH_UP_WINDOWS * windows.length())
    collection.next_window_at = max(collection.next_window_at, oldest)
    for _ in range(WINDOWS_PER_RUN):
        if not _behind(collection, now) or time.monotonic() - began > RUN_BUDGET_S:
            return
        window = run.read_window(collection.next_window_at)
        with transaction.atomic():
            following = windows.end_of(window.starts_at)
            moved = MetricCollection.objects.filter(
                pk=collection.pk, due_at=collection.due_at
            ).update(next_window_at=following)
            if moved != 1:
                raise LeaseLost
            window.save(force_insert=True)
        collection.next_window_at = following


@dataclass(slots=True)
class Run:
    """One run under way: whom it asks, and what it noticed."""

    collection: MetricCollection
    executor: gateway.Target
    notes: list[str] = field(default_factory=list)
    folded: int = 0

    @classmethod
    def of(cls, collection: MetricCollection) -> Run:
        """Choose the executor whose SDK can tell most, one for the whole run.
        Raises: NoHealthyExecutor."""
        application = collection.application
        chosen = databases.default_of(databases.list_present(application))
        targets = gateway.healthy_targets(
            application, database=None if chosen is None else chosen.key
        )
        if not targets:
            raise errors.NoHealthyExecutor(
                f"No executor of {application.name} is connected."
            )
        began = collection.next_window_at
        asked = [
            *_about_window(application, began, windows.end_of(began)).values(),
            _about_now(application),
        ]
        return cls(
            collection,
            max(targets, key=lambda t: sum(_can_tell(t.peer, one) for one in asked)),
        )

    def ask(self, question: Request) -> Any:
        """Return the reply, or None where this executor cannot tell.
        Raises: ConductorError."""
        peer = self.executor.peer
        if not _can_tell(peer, question):
            self.notes.append(f"{peer} cannot tell {question.type} by time.")
            return None
        try:
            return gateway.ask(
                self.collection.application,
                question,
                timeout_s=ASK_TIMEOUT_S,
                executor_id=self.executor.executor_id,
            )
        except (errors.UnsupportedByExecutor, errors.ExecutorRefused) as exc:
            refused = isinstance(exc, errors.ExecutorRefused)
            if refused and self.collection.failures < PATIENCE:
                raise
            self.notes.append(f"{question.type}: {exc.message}")
            return None

    def read_window(self, starts_at: datetime) -> MetricWindow:
        """Ask about one window. Raises: ConductorError."""
        application = self.collection.application
        ends_at = windows.end_of(starts_at)
        replies = {
            name: self.ask(question)
            for name, question in _about_window(application, starts_at, ends_at).items()
        }
        self.folded = 0
        return MetricWindow(
            application=application,
            starts_at=starts_at,
            duration_secs=int((ends_at - starts_at).total_seconds()),
            workflows=self._workflows(replies),
            steps=self._steps(replies["steps"]),
            counts=[
                *self._counts(replies["counts"]),
                *_recoveries(application, starts_at, ends_at),
            ],
        )

    def read_in_flight(self) -> list[dict[str, Any]] | None:
        """Ask what waits and what runs now. Raises: ConductorError."""
        reply = self.ask(_about_now(self.collection.application))
        if reply is None:
            return None
        found = series.make()
        for row in reply.output:
            state = {"ENQUEUED": "enqueued", "PENDING": "pending"}.get(
                row.group.get("status") or ""
            )
            if state is None:
                continue
            measures = found[
                series.key(row.group.get("name"), row.group.get("queue_name"))
            ]
            series.add(measures, state, row.count)
            if row.min_created_at is not None:
                oldest_ms = round(row.min_created_at.timestamp() * 1000)
                series.add(measures, f"oldest_{state}_ms", oldest_ms)
        return series.written(series.fold(found)[0], "name", "queue")

    def _workflows(self, replies: dict[str, Any]) -> list[dict[str, Any]] | None:
        asked = [replies[name] for name in ("started", "dequeued", "completed")]
        if None in asked:
            return None
        found = series.make()
        for name, reply in zip(
            ("started", "dequeued", "completed"), asked, strict=True
        ):
            for row in reply.output:
                group = row.group
                measures = found[series.key(group.get("name"), group.get("queue_name"))]
                status = group.get("status") or ""
                if name != "completed":
                    series.add(measures, name, row.count)
                    series.add(measures, "max_queue_wait_ms", row.max_queue_wait_ms)
                elif status == "SUCCESS":
                    series.add(measures, "succeeded", row.count)
                    series.add(
                        measures, "max_total_latency_ms", row.max_total_latency_ms
                    )
                elif status in _FAILED:
                    series.add(measures, "failed", row.count)
                elif status == "CANCELLED":
                    series.add(measures, "cancelled", row.count)
        return self._folded(found, "name", "queue")

    def _steps(self, reply: Any) -> list[dict[str, Any]] | None:
        if reply is None:
            return None
        found = series.make()
        for row in reply.output:
            measures = found[series.key(row.group.get("function_name"))]
            if row.group.get("status") == "SUCCESS":
                series.add(measures, "succeeded", row.count)
                series.add(measures, "max_duration_ms", row.max_duration_ms)
            else:
                series.add(measures, "failed", row.count)
        return self._folded(found, "name")

    def _folded(self, found: series.Series, *names: str) -> list[dict[str, Any]]:
        kept, folded = series.fold(found)
        self.folded += folded
        return series.written(kept, *names)

    def _counts(self, reply: Any) -> Iterator[list[Any]]:
        by_type: dict[str, series.Series] = {}
        for row in reply.metrics if reply else ():
            (metric_type,) = series.key(row.metric_type)
            if metric_type in by_type or len(by_type) < 10:
                found = by_type.setdefault(metric_type, series.make())
                measures = found[series.key(row.metric_name)]
                series.add(measures, "count", _whole(row.value))
        for metric_type, found in by_type.items():
            for (name,), measures in series.fold(found)[0].items():
                yield [metric_type, name, measures["count"]]


def _about_window(
    application: Application, start: datetime, end: datetime
) -> dict[str, Request]:
    own = (application.name,)
    last = end - LAST_MS
    by_name: dict[str, Any] = {
        "group_by_name": True,
        "group_by_queue_name": True,
        "application_name": own,
    }
    completed: dict[str, Any] = {"completed_after": start, "completed_before": last}
    return {
        "counts": GetMetrics(start_time=start, end_time=end, application_name=own),
        "started": GetWorkflowAggregates(**by_name, start_time=start, end_time=last),
        "dequeued": GetWorkflowAggregates(
            **by_name,
            dequeued_after=start,
            dequeued_before=last,
            select_max_queue_wait_ms=True,
        ),
        "completed": GetWorkflowAggregates(
            **by_name,
            **completed,
            group_by_status=True,
            select_max_total_latency_ms=True,
        ),
        "steps": GetStepAggregates(
            **completed,
            group_by_function_name=True,
            group_by_status=True,
            select_max_duration_ms=True,
            application_name=own,
        ),
    }


def _about_now(application: Application) -> Request:
    return GetWorkflowAggregates(
        status=("ENQUEUED", "PENDING"),
        group_by_status=True,
        group_by_name=True,
        group_by_queue_name=True,
        select_min_created_at=True,
        application_name=(application.name,),
    )


def _can_tell(peer: codec.Peer, question: Request) -> bool:
    """Whether this SDK heeds everything that is asked. Whose rows are meant is what it
    need not know: SDKs that do not serve one application's database only."""
    unheeded = {n for n in codec.untold(question, peer) if getattr(question, n)}
    return codec.supports(peer, type(question)) and unheeded <= {"application_name"}


def _recoveries(
    application: Application, start: datetime, end: datetime
) -> list[list[Any]]:
    """Dead executors whose work was first handed over in this window."""
    count = Recovery.objects.filter(
        application=application,
        requested_at__gte=start,
        requested_at__lt=end,
    ).count()
    return [["recovery_count", "recovery", count]] if count else []


def _whole(value: float) -> int:
    return int(value) if abs(value) < series.MAX_VALUE else series.MAX_VALUE
