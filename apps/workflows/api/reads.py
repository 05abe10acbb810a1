"""Operations that read workflows: asked of a live executor, never of what is kept."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja import Path, Query, Router
from pydantic import TypeAdapter

from apps import errors
from apps.api import (
    APP,
    WORKFLOW,
    InApp,
    InWorkflow,
    Params,
    QueryInt64,
    Text,
    operation,
)
from apps.executors import gateway
from apps.executors.protocol import codec, messages
from apps.registry.callers import aapplication_in
from apps.registry.models import Application, Permission
from apps.workflows import search
from apps.workflows.api import schemas
from apps.workflows.api.answers import Part, answer, shared, written
from apps.workflows.api.filters import WorkflowSearchBody, bounded
from apps.workflows.api.schemas import (
    Event,
    Notification,
    Step,
    StreamEntry,
    Workflow,
)
from apps.workflows.search import Search
from apps.workflows.services import write_through

router = Router()

WORKFLOWS = f"{APP}/workflows"
STEPS_PAGE = 500

read = functools.partial(
    operation, router, permission=Permission.APPLICATION_READ, tag="Workflows"
)

_WORKFLOWS = TypeAdapter(list[Workflow])
_STEPS = TypeAdapter(list[Step])


class WorkflowsQuery(Params):
    status: Text | None = None
    workflow_name: Text | None = None
    limit: QueryInt64 | None = None
    offset: QueryInt64 | None = None
    sort_desc: bool | None = None
    load_input: bool | None = None
    load_output: bool | None = None


class StepsQuery(Params):
    limit: QueryInt64 | None = None
    offset: QueryInt64 | None = None


# --- Lists -------------------------------------------------------------------------


@read("GET", WORKFLOWS, "listWorkflows", response=list[Workflow])
async def list_workflows(
    request: HttpRequest, path: Path[InApp], query: Query[WorkflowsQuery]
) -> HttpResponseBase:
    """Workflows of one status or name, the oldest first unless asked otherwise. Without
    a limit: all."""
    application = await _application(request, path)
    filters = messages.ListWorkflows(
        status=(query.status,) if query.status else (),
        workflow_name=(query.workflow_name,) if query.workflow_name else (),
        sort_desc=bool(query.sort_desc),
        load_input=bool(query.load_input),
        load_output=bool(query.load_output),
    )
    limit, offset = bounded(query.limit, query.offset)
    return answer(await _workflows(application, Search(filters, limit, offset)))


@read("POST", f"{WORKFLOWS}/search", "searchWorkflows", response=list[Workflow])
async def search_workflows(
    request: HttpRequest, path: Path[InApp], body: WorkflowSearchBody | None = None
) -> HttpResponseBase:
    """Workflows that pass every filter given. Without a limit: all."""
    application = await _application(request, path)
    wanted = (body or WorkflowSearchBody()).search()
    return answer(await _workflows(application, wanted))


async def _workflows(
    application: Application, wanted: Search, place: search.Place | None = None
) -> Part:
    if application.private_mode:
        filters = replace(wanted.filters, load_input=False, load_output=False)
        wanted = replace(wanted, filters=filters)

    async def make() -> Part:
        page = await search.read_page(application, wanted, place)
        write = functools.partial(
            schemas.workflows,
            with_input=wanted.filters.load_input,
            with_output=wanted.filters.load_output,
        )
        body = await written(_WORKFLOWS, write, page.rows)
        if place is None:
            # Of a long list the sync reads the rest, at its own pace.
            write_through.remember(application, page.rows, body)
        if page.next is None:
            return Part(body)
        return Part(body, lambda: _workflows(application, wanted, page.next))

    return await shared((*_scope(application), wanted, place), make)


# --- One workflow ------------------------------------------------------------------


@read("GET", WORKFLOW, "getWorkflow", response=Workflow)
async def get_workflow(
    request: HttpRequest, path: Path[InWorkflow]
) -> HttpResponseBase:
    """One workflow with its input, its output and its error."""
    application = await _application(request, path)
    is_open = not application.private_mode

    async def make() -> Part:
        asked = messages.GetWorkflow(
            workflow_id=path.workflow_id, load_input=is_open, load_output=is_open
        )
        row = (await gateway.aask(application, asked)).output
        if row is None:
            write_through.forget(application, path.workflow_id)
            raise _no_such_workflow(application)
        made = schemas.workflows([row], with_input=is_open, with_output=is_open)
        if not made:
            raise errors.ProtocolError("The executor's answer is not a workflow.")
        body = made[0].model_dump_json(by_alias=True, warnings="error").encode()
        write_through.remember(application, [row], body)
        return Part(body)

    key = ("workflow", *_scope(application), is_open, path.workflow_id)
    return answer(await shared(key, make))


@read("GET", f"{WORKFLOW}/steps", "listWorkflowSteps", response=list[Step])
async def list_workflow_steps(
    request: HttpRequest, path: Path[InWorkflow], query: Query[StepsQuery]
) -> HttpResponseBase:
    """The steps that have ended, in their order."""
    application = await _application(request, path)
    limit, offset = bounded(query.limit, query.offset)
    return answer(await _steps(application, path.workflow_id, limit, offset))


async def _steps(
    application: Application, workflow_id: str, limit: int | None, offset: int
) -> Part:
    is_open = not application.private_mode

    async def make() -> Part:
        size = STEPS_PAGE if limit is None else min(limit, STEPS_PAGE)
        asked = messages.ListSteps(
            workflow_id=workflow_id, load_output=is_open, limit=size, offset=offset
        )
        given = await gateway.aanswer(application, asked)
        rows = given.reply.output
        is_whole = "limit" in codec.untold(asked, given.by.peer)
        if is_whole:  # its SDK knows no pages
            rows = rows[offset:][:limit]
        if not rows and not offset:
            await _find(application, workflow_id)
        body = await written(
            _STEPS, functools.partial(schemas.steps, with_output=is_open), rows
        )
        left = None if limit is None else limit - len(rows)
        if is_whole or len(rows) < size or left == 0:
            return Part(body)
        return Part(
            body, lambda: _steps(application, workflow_id, left, offset + len(rows))
        )

    return await shared(
        ("steps", *_scope(application), is_open, workflow_id, limit, offset), make
    )


@read("GET", f"{WORKFLOW}/events", "listWorkflowEvents", response=list[Event])
async def list_workflow_events(
    request: HttpRequest, path: Path[InWorkflow]
) -> list[Event]:
    """What the workflow has set for others to read, by its key."""
    asked = messages.GetWorkflowEvents(workflow_id=path.workflow_id)
    return schemas.events(await _payloads(request, path, asked, "events"))


@read(
    "GET",
    f"{WORKFLOW}/notifications",
    "listWorkflowNotifications",
    response=list[Notification],
)
async def list_workflow_notifications(
    request: HttpRequest, path: Path[InWorkflow]
) -> list[Notification]:
    """What was sent to the workflow, and whether it has taken it."""
    asked = messages.GetWorkflowNotifications(workflow_id=path.workflow_id)
    found = await _payloads(request, path, asked, "notifications")
    return schemas.notifications(found)


@read("GET", f"{WORKFLOW}/streams", "listWorkflowStreams", response=list[StreamEntry])
async def list_workflow_streams(
    request: HttpRequest, path: Path[InWorkflow]
) -> list[StreamEntry]:
    """What the workflow has written to its streams."""
    asked = messages.GetWorkflowStreams(workflow_id=path.workflow_id)
    return schemas.streams(await _payloads(request, path, asked, "streams"))


async def _payloads(
    request: HttpRequest, path: InWorkflow, asked: messages.Request, name: str
) -> Any:
    """Ask for what is nothing but payloads: nothing in private mode."""
    application = await _application(request, path)
    found: list[Any] = []
    if not application.private_mode:
        found = getattr(await gateway.aask(application, asked), name)
    if not found:
        await _find(application, path.workflow_id)
    return found


def _scope(application: Application) -> tuple[int, str]:
    """What every shared answer depends on."""
    return application.pk, application.chosen_database


async def _find(application: Application, workflow_id: str) -> None:
    """Executors have nothing to say about workflows that are not there. Raises:
    NotFound."""
    asked = messages.GetWorkflow(
        workflow_id=workflow_id, load_input=False, load_output=False
    )
    if (await gateway.aask(application, asked)).output is None:
        raise _no_such_workflow(application)


def _no_such_workflow(application: Application) -> errors.NotFound:
    return errors.NotFound(f"{application.name} has no workflow with this id.")


async def _application(request: HttpRequest, path: InApp) -> Application:
    _, found = await aapplication_in(request, path, Permission.APPLICATION_READ)
    return found
