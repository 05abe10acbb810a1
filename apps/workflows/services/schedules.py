"""Orders to schedules, and which version of an application is the latest.

Each is recorded before it is sent; see `records`. An SDK says yes to names that it does
not know, so that there is such a thing is asked first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import messages
from apps.executors.protocol.rows import ScheduleRow
from apps.registry.auth import Actor
from apps.registry.models import Application
from apps.registry.operations import Operation, TargetType
from apps.workflows.services.commands import COMMAND_TIMEOUT_S, READ_TIMEOUT_S
from apps.workflows.services.records import Record, recorded

# An executor begins a backfill's workflows in one transaction.
BACKFILL_LIMIT = 10_000


def pause_schedule(*, actor: Actor, application: Application, name: str) -> None:
    """Stop beginning workflows. Raises: NotFound; what `gateway.ask` raises."""
    with _recorded(actor, application, Operation.SCHEDULE_PAUSE, name):
        _get(application, name)
        _send(application, messages.PauseSchedule(schedule_name=name))


def resume_schedule(*, actor: Actor, application: Application, name: str) -> None:
    """Begin workflows again. Raises: NotFound; what `gateway.ask` raises."""
    with _recorded(actor, application, Operation.SCHEDULE_RESUME, name):
        _get(application, name)
        _send(application, messages.ResumeSchedule(schedule_name=name))


def trigger_schedule(*, actor: Actor, application: Application, name: str) -> str:
    """Begin its workflow once, now; return the workflow's id. Never sent twice."""
    with _recorded(actor, application, Operation.SCHEDULE_TRIGGER, name) as record:
        _get(application, name)
        reply = _send(application, messages.TriggerSchedule(schedule_name=name))
        if not reply.workflow_id:
            raise errors.ExecutorRefused("The executor began no workflow.")
        workflow_id: str = reply.workflow_id
        record.details["workflow_id"] = workflow_id[:512]
    return workflow_id


def backfill_schedule(
    *,
    actor: Actor,
    application: Application,
    name: str,
    start: datetime,
    end: datetime,
) -> list[str]:
    """Begin what would have been begun between two moments; return the ids. Never sent
    twice. Raises: InvalidInput where that may be too much for one order."""
    times = {"start_time": start.isoformat(), "end_time": end.isoformat()}
    with _recorded(
        actor, application, Operation.SCHEDULE_BACKFILL, name, times
    ) as record:
        if start >= end:
            raise errors.InvalidInput("It ends before it begins.", field="end_time")
        row = _get(application, name)
        if most_firings(row.schedule, end - start) > BACKFILL_LIMIT:
            raise errors.InvalidInput(
                f"That may be more than {BACKFILL_LIMIT:,} workflows. Backfill a "
                "shorter time.",
                field="end_time",
            )
        reply = _send(
            application,
            messages.BackfillSchedule(schedule_name=name, start=start, end=end),
        )
        workflow_ids: list[str] = reply.workflow_ids
        record.details["workflows"] = len(workflow_ids)
    return workflow_ids


def most_firings(cron: str, span: timedelta) -> int:
    """At most so many times an expression fires within a span, whatever its days."""
    fields = cron.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    seconds, minutes, hours = fields[:3] if len(fields) == 6 else "***"
    per_minute = _values(seconds, 60)
    per_hour = per_minute * _values(minutes, 60)
    per_day = per_hour * _values(hours, 24)
    return min(
        per * (span // length + 1)
        for per, length in (
            (1, timedelta(seconds=1)),
            (per_minute, timedelta(minutes=1)),
            (per_hour, timedelta(hours=1)),
            (per_day, timedelta(days=1)),
        )
    )


def _values(field: str, size: int) -> int:
    """How many values a field of an expression has: `*`, `5`, `1-4`, `*/15`, `1,2`."""
    count = 0
    for part in field.split(","):
        base, _, step = part.partition("/")
        low, _, high = base.partition("-")
        width = size
        if low.isdecimal() and high.isdecimal():
            width = abs(int(high) - int(low)) + 1
        elif low.isdecimal() and not step:
            width = 1
        every = int(step) if step.isdecimal() and int(step) else 1
        count += -(-width // every)
    return min(count, size)


def set_latest_version(*, actor: Actor, application: Application, name: str) -> None:
    """Make a version the latest: it gets the work that names none.

    Raises: NotFound; what `gateway.ask` raises.
    """
    with recorded(
        actor=actor,
        application=application,
        operation=Operation.APPLICATION_SET_LATEST_VERSION,
        target_type=TargetType.APPLICATION,
        target_id=application.name,
        details={"version_name": name[:512]},
    ):
        question = messages.ListApplicationVersions()
        reply = gateway.ask(application, question, timeout_s=READ_TIMEOUT_S)
        if all(row.version_name != name for row in reply.output):
            raise errors.NotFound("There is no such version.")
        _send(application, messages.SetLatestApplicationVersion(version_name=name))


def _recorded(
    actor: Actor,
    application: Application,
    operation: Operation,
    name: str,
    details: dict[str, Any] | None = None,
) -> AbstractContextManager[Record]:
    return recorded(
        actor=actor,
        application=application,
        operation=operation,
        target_type=TargetType.SCHEDULE,
        target_id=name,
        details=details,
    )


def _get(application: Application, name: str) -> ScheduleRow:
    question = messages.GetSchedule(schedule_name=name, load_context=False)
    reply = gateway.ask(application, question, timeout_s=READ_TIMEOUT_S)
    row: ScheduleRow | None = reply.output
    if row is None:
        raise errors.NotFound("There is no such schedule.")
    return row


def _send(application: Application, request: messages.Request) -> Any:
    return gateway.ask(application, request, timeout_s=COMMAND_TIMEOUT_S)
