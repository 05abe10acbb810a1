"""Operations of the HTTP API: orders to workflows."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse
from ninja import Path, Query, Router

from apps.api import (
    APP,
    WORKFLOW,
    Bool,
    ErrorDetail,
    InApp,
    Input,
    Int32,
    InWorkflow,
    Output,
    Params,
    Text,
    created,
    operation,
    problem,
)
from apps.registry.callers import application_in
from apps.registry.models import Permission
from apps.workflows.services import commands, forks, transfers
from apps.workflows.services.commands import Outcome
from apps.workflows.services.forks import Place, Selector

router = Router()

WORKFLOWS = f"{APP}/workflows"
TAG = "Workflows"
WRITE = Permission.APPLICATION_WRITE
# So many of the workflows that an order failed for are named.
NAMED = 100


def location_of(path: InApp, workflow_id: str) -> str:
    """Where a workflow is."""
    base = f"/v2/orgs/{path.org_name}/apps/{path.app_name}"
    return f"{base}/workflows/{quote(workflow_id, safe='')}"


# --- One workflow ------------------------------------------------------------------


class CancelWorkflowInputBody(Input):
    cancel_children: Bool | None = None


class ResumeWorkflowInputBody(Input):
    queue_name: Text | None = None


class _Place(Input):
    app_version: Text | None = None
    queue_name: Text | None = None
    queue_partition_key: Text | None = None

    def place(self) -> Place:
        return Place(self.app_version, self.queue_name, self.queue_partition_key)


class ForkWorkflowInputBody(_Place):
    start_step: Int32 | None = None
    new_workflow_id: Text | None = None


class ForkWorkflowOutputBody(Output):
    workflow_id: str


class RewindWorkflowInputBody(_Place):
    start_step: Int32 | None = None


class DeleteParams(Params):
    delete_children: bool = False


class ExportParams(Params):
    export_children: bool = False


class ExportWorkflowOutputBody(Output):
    """A workflow with its history, signed by this Conductor. It is opaque."""

    serialized_workflow: str


@operation(
    router,
    "POST",
    f"{WORKFLOW}/cancel",
    "cancelWorkflow",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def cancel_workflow(
    request: HttpRequest,
    path: Path[InWorkflow],
    body: CancelWorkflowInputBody | None = None,
) -> None:
    """A running step finishes first. One that has finished stays as it is."""
    actor, application = application_in(request, path, None)
    (outcome,) = commands.cancel_workflows(
        actor=actor,
        application=application,
        workflow_ids=[path.workflow_id],
        cancel_children=bool(body and body.cancel_children),
    )
    _judge(outcome)


@operation(
    router,
    "POST",
    f"{WORKFLOW}/resume",
    "resumeWorkflow",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def resume_workflow(
    request: HttpRequest,
    path: Path[InWorkflow],
    body: ResumeWorkflowInputBody | None = None,
) -> None:
    """Let one go on that was cancelled or gave up, or start one that waits in a queue.
    One that runs or has finished stays as it is."""
    actor, application = application_in(request, path, None)
    (outcome,) = commands.resume_workflows(
        actor=actor,
        application=application,
        workflow_ids=[path.workflow_id],
        queue_name=body.queue_name if body else None,
    )
    _judge(outcome)


@operation(
    router,
    "POST",
    f"{WORKFLOW}/fork",
    "forkWorkflow",
    permission=WRITE,
    tag=TAG,
    response=ForkWorkflowOutputBody,
    status=201,
    location=True,
)
def fork_workflow(
    request: HttpRequest,
    path: Path[InWorkflow],
    body: ForkWorkflowInputBody | None = None,
) -> HttpResponse:
    """Start a copy from a step. With the same `newWorkflowId` it is safe to repeat."""
    actor, application = application_in(request, path, None)
    body = body or ForkWorkflowInputBody()
    new_id = forks.fork_workflow(
        actor=actor,
        application=application,
        workflow_id=path.workflow_id,
        start_step=body.start_step,
        place=body.place(),
        new_workflow_id=body.new_workflow_id,
    )
    return created(
        ForkWorkflowOutputBody(workflow_id=new_id), location_of(path, new_id)
    )


@operation(
    router,
    "POST",
    f"{WORKFLOW}/rewind",
    "rewindWorkflow",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def rewind_workflow(
    request: HttpRequest,
    path: Path[InWorkflow],
    body: RewindWorkflowInputBody | None = None,
) -> None:
    """Do a finished one again from a step, in place. What it did from there on is
    forgotten."""
    actor, application = application_in(request, path, None)
    body = body or RewindWorkflowInputBody()
    forks.rewind_workflow(
        actor=actor,
        application=application,
        workflow_id=path.workflow_id,
        start_step=body.start_step,
        place=body.place(),
    )


@operation(
    router,
    "DELETE",
    WORKFLOW,
    "deleteWorkflow",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def delete_workflow(
    request: HttpRequest, path: Path[InWorkflow], query: Query[DeleteParams]
) -> None:
    """Remove it with its history, for ever, whatever its status."""
    actor, application = application_in(request, path, None)
    (outcome,) = commands.delete_workflows(
        actor=actor,
        application=application,
        workflow_ids=[path.workflow_id],
        delete_children=query.delete_children,
    )
    _judge(outcome)


@operation(
    router,
    "GET",
    f"{WORKFLOW}/export",
    "exportWorkflow",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=ExportWorkflowOutputBody,
)
def export_workflow(
    request: HttpRequest, path: Path[InWorkflow], query: Query[ExportParams]
) -> ExportWorkflowOutputBody:
    """Take one out with its inputs, outputs and history, for `importWorkflow`."""
    actor, application = application_in(request, path, None)
    text = transfers.export_workflow(
        actor=actor,
        application=application,
        workflow_id=path.workflow_id,
        export_children=query.export_children,
    )
    return ExportWorkflowOutputBody(serialized_workflow=text)


def _judge(outcome: Outcome) -> None:
    """Raises: NotFound, ExecutorRefused."""
    if failure := commands.failure_of(outcome):
        raise failure


# --- Many workflows ----------------------------------------------------------------


class BulkCancelInputBody(Input):
    workflow_ids: list[Text]
    cancel_children: Bool | None = None


class BulkResumeInputBody(Input):
    workflow_ids: list[Text]
    queue_name: Text | None = None


class BulkDeleteInputBody(Input):
    workflow_ids: list[Text]
    delete_children: Bool | None = None


class BulkForkFromFailureBody(_Place):
    workflow_ids: list[Text]
    from_last_failure: Bool | None = None
    from_last_step: Bool | None = None
    from_step: Int32 | None = None
    from_step_name: Text | None = None

    def selector(self) -> Selector:
        return Selector(
            from_last_failure=bool(self.from_last_failure),
            from_last_step=bool(self.from_last_step),
            from_step=self.from_step,
            from_step_name=self.from_step_name,
        )


class BulkForkFromFailureOutputBody(Output):
    workflow_ids: list[str]


class ImportWorkflowInputBody(Input):
    serialized_workflow: Text


@operation(
    router,
    "POST",
    f"{WORKFLOWS}/bulk-cancel",
    "bulkCancelWorkflows",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def bulk_cancel_workflows(
    request: HttpRequest, path: Path[InApp], body: BulkCancelInputBody
) -> HttpResponse | None:
    """404 names those that do not exist; the others were cancelled all the same."""
    actor, application = application_in(request, path, None)
    outcomes = commands.cancel_workflows(
        actor=actor,
        application=application,
        workflow_ids=body.workflow_ids,
        cancel_children=bool(body.cancel_children),
    )
    return _sum_up(body.workflow_ids, outcomes)


@operation(
    router,
    "POST",
    f"{WORKFLOWS}/bulk-resume",
    "bulkResumeWorkflows",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def bulk_resume_workflows(
    request: HttpRequest, path: Path[InApp], body: BulkResumeInputBody
) -> HttpResponse | None:
    """404 names those that do not exist; the others were resumed all the same."""
    actor, application = application_in(request, path, None)
    outcomes = commands.resume_workflows(
        actor=actor,
        application=application,
        workflow_ids=body.workflow_ids,
        queue_name=body.queue_name,
    )
    return _sum_up(body.workflow_ids, outcomes)


@operation(
    router,
    "POST",
    f"{WORKFLOWS}/bulk-delete",
    "bulkDeleteWorkflows",
    permission=WRITE,
    tag=TAG,
    status=204,
)
def bulk_delete_workflows(
    request: HttpRequest, path: Path[InApp], body: BulkDeleteInputBody
) -> HttpResponse | None:
    """404 names those that do not exist; the others were deleted all the same."""
    actor, application = application_in(request, path, None)
    outcomes = commands.delete_workflows(
        actor=actor,
        application=application,
        workflow_ids=body.workflow_ids,
        delete_children=bool(body.delete_children),
    )
    return _sum_up(body.workflow_ids, outcomes)


@operation(
    router,
    "POST",
    f"{WORKFLOWS}/bulk-fork-from-failure",
    "bulkForkWorkflowsFromFailure",
    permission=WRITE,
    tag=TAG,
    response=BulkForkFromFailureOutputBody,
)
def bulk_fork_workflows_from_failure(
    request: HttpRequest, path: Path[InApp], body: BulkForkFromFailureBody
) -> BulkForkFromFailureOutputBody:
    """Start a copy of each, from where exactly one of the four selectors says. Nothing
    is forked where one does not exist. Repeating it forks again."""
    actor, application = application_in(request, path, None)
    new_ids = forks.fork_from_failure(
        actor=actor,
        application=application,
        workflow_ids=body.workflow_ids,
        selector=body.selector(),
        place=body.place(),
    )
    return BulkForkFromFailureOutputBody(workflow_ids=new_ids)


@operation(
    router,
    "POST",
    f"{WORKFLOWS}/import",
    "importWorkflow",
    permission=Permission.WORKFLOW_IMPORT,
    tag=TAG,
    status=201,
)
def import_workflow(
    request: HttpRequest, path: Path[InApp], body: ImportWorkflowInputBody
) -> None:
    """Add what `exportWorkflow` of this organization returned. It runs code in Python
    executors; see setImportPolicy for what others exported."""
    actor, application = application_in(request, path, None)
    transfers.import_workflow(
        actor=actor,
        application=application,
        serialized_workflow=body.serialized_workflow,
    )


def _sum_up(ids: Sequence[str], outcomes: Sequence[Outcome]) -> HttpResponse | None:
    """None where all is as ordered, else a problem that says how far it came."""
    failed = [one for one in outcomes if one.result in ("failed", "unknown")]
    missing = [one for one in outcomes if one.result == "missing"]
    total = len(outcomes)
    if failed:
        right = total - len(failed) - len(missing)
        detail = f"Carried out for {right} of {total} workflows. {failed[0].sentence}"
        return problem(502, detail, _named(ids, failed + missing))
    if missing:
        detail = (
            f"{len(missing)} of {total} workflows do not exist. The order was carried "
            "out for the others."
        )
        return problem(404, detail, _named(ids, missing))
    return None


def _named(ids: Sequence[str], outcomes: Sequence[Outcome]) -> list[ErrorDetail]:
    place = {one: number for number, one in reversed(list(enumerate(ids)))}
    return [
        ErrorDetail(
            location=f"body.workflowIds[{place[one.workflow_id]}]",
            message=one.sentence,
            value=one.workflow_id[:200],
        )
        for one in outcomes[:NAMED]
    ]
