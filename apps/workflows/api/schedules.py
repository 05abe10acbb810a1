"""Operations of the HTTP API: schedules, as a connected executor knows them."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from ninja import Path, Query, Router

from apps import errors
from apps.api import APP, InApp, Input, Output, Params, Text, Time, created, operation
from apps.executors import gateway
from apps.executors.protocol import messages
from apps.executors.protocol.rows import ScheduleRow
from apps.registry.callers import aapplication_in, application_in
from apps.registry.models import Permission
from apps.workflows.api.commands import location_of
from apps.workflows.services import schedules

router = Router()

TAG = "Schedules"
SCHEDULE = f"{APP}/schedules/{{scheduleName}}"


class InSchedule(InApp):
    schedule_name: Text


class ScheduleParams(Params):
    status: Text | None = None
    workflow_name: Text | None = None
    schedule_name_prefix: Text | None = None
    load_context: bool = False


class Schedule(Output):
    """When a workflow is begun by itself. Its status is ACTIVE or PAUSED; `context` is
    what the workflow is given, as the SDK writes it."""

    schedule_id: str
    schedule_name: str
    application_name: str | None
    workflow_name: str
    workflow_class: str | None
    cron_expression: str
    cron_timezone: str | None
    status: str
    context: str | None
    automatic_backfill: bool
    last_fired_at: Time | None


class TriggerOutputBody(Output):
    workflow_id: str


class BackfillInputBody(Input):
    start_time: Time
    end_time: Time


class BackfillOutputBody(Output):
    workflow_ids: list[str]


@operation(
    router,
    "GET",
    f"{APP}/schedules",
    "listSchedules",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[Schedule],
)
async def list_schedules(
    request: HttpRequest, path: Path[InApp], query: Query[ScheduleParams]
) -> list[Schedule]:
    """Those that pass every filter; their contexts only where they are asked for."""
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    load_context = query.load_context and not application.private_mode
    question = messages.ListSchedules(
        status=_some(query.status),
        workflow_name=_some(query.workflow_name),
        schedule_name_prefix=_some(query.schedule_name_prefix),
        load_context=load_context,
    )
    reply = await gateway.aask(application, question)
    return [_written(row, load_context=load_context) for row in reply.output]


@operation(
    router,
    "GET",
    SCHEDULE,
    "getSchedule",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=Schedule,
)
async def get_schedule(request: HttpRequest, path: Path[InSchedule]) -> Schedule:
    """One schedule with its state and its context."""
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    load_context = not application.private_mode
    question = messages.GetSchedule(
        schedule_name=path.schedule_name, load_context=load_context
    )
    reply = await gateway.aask(application, question)
    if reply.output is None:
        raise errors.NotFound("There is no such schedule.")
    return _written(reply.output, load_context=load_context)


@operation(
    router,
    "POST",
    f"{SCHEDULE}/pause",
    "pauseSchedule",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def pause_schedule(request: HttpRequest, path: Path[InSchedule]) -> None:
    """Begin no more workflows."""
    actor, application = application_in(request, path, None)
    schedules.pause_schedule(
        actor=actor, application=application, name=path.schedule_name
    )


@operation(
    router,
    "POST",
    f"{SCHEDULE}/resume",
    "resumeSchedule",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def resume_schedule(request: HttpRequest, path: Path[InSchedule]) -> None:
    """Begin workflows again."""
    actor, application = application_in(request, path, None)
    schedules.resume_schedule(
        actor=actor, application=application, name=path.schedule_name
    )


@operation(
    router,
    "POST",
    f"{SCHEDULE}/trigger",
    "triggerSchedule",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    response=TriggerOutputBody,
    status=201,
    location=True,
)
def trigger_schedule(request: HttpRequest, path: Path[InSchedule]) -> HttpResponse:
    """Begin its workflow once more, now. Repeating it begins another one."""
    actor, application = application_in(request, path, None)
    workflow_id = schedules.trigger_schedule(
        actor=actor, application=application, name=path.schedule_name
    )
    return created(
        TriggerOutputBody(workflow_id=workflow_id), location_of(path, workflow_id)
    )


@operation(
    router,
    "POST",
    f"{SCHEDULE}/backfill",
    "backfillSchedule",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    response=BackfillOutputBody,
)
def backfill_schedule(
    request: HttpRequest, path: Path[InSchedule], body: BackfillInputBody
) -> BackfillOutputBody:
    """Begin what would have been begun between two times. What exists already is not
    begun again."""
    actor, application = application_in(request, path, None)
    workflow_ids = schedules.backfill_schedule(
        actor=actor,
        application=application,
        name=path.schedule_name,
        start=body.start_time,
        end=body.end_time,
    )
    return BackfillOutputBody(workflow_ids=workflow_ids)


def _some(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)


def _written(row: ScheduleRow, *, load_context: bool) -> Schedule:
    return Schedule(
        schedule_id=row.schedule_id,
        schedule_name=row.schedule_name,
        application_name=row.application_name,
        workflow_name=row.workflow_name,
        workflow_class=row.workflow_class_name,
        cron_expression=row.schedule,
        cron_timezone=row.cron_timezone,
        status=row.status,
        # An old SDK sends it unasked.
        context=row.context if load_context else None,
        automatic_backfill=row.automatic_backfill,
        last_fired_at=row.last_fired_at,
    )
