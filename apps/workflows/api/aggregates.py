"""Operations that count workflows and steps in groups, in an application's database."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from apps import errors
from apps.api import APP, Bool, InApp, Input, Int64, Time, operation
from apps.executors import gateway
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import AggregateRow
from apps.registry.callers import aapplication_in
from apps.registry.models import Permission
from apps.workflows.api import schemas
from apps.workflows.api.filters import Texts, WorkflowFilters, several
from apps.workflows.api.schemas import StepAggregate, WorkflowAggregate

router = Router()

COUNT = "Also if nothing is selected."
BUCKET = "The width of a bucket of time, in milliseconds, aligned to 1970 in UTC."


class WorkflowAggregatesBody(WorkflowFilters):
    """At least one `groupBy…` or a bucket. Buckets are of the moment of creation."""

    group_by_status: Bool | None = None
    group_by_workflow_name: Bool | None = None
    group_by_queue_name: Bool | None = None
    group_by_executor_id: Bool | None = None
    group_by_app_version: Bool | None = None
    group_by_application_name: Bool | None = None
    time_bucket_size_ms: Int64 | None = Field(default=None, description=BUCKET)
    select_count: Bool | None = Field(default=None, description=COUNT)
    select_min_created_at: Bool | None = None
    select_max_queue_wait_ms: Bool | None = None
    select_max_total_latency_ms: Bool | None = None

    def message(self) -> messages.GetWorkflowAggregates:
        """Raises: InvalidInput."""
        asked = messages.GetWorkflowAggregates(
            group_by_status=bool(self.group_by_status),
            group_by_name=bool(self.group_by_workflow_name),
            group_by_queue_name=bool(self.group_by_queue_name),
            group_by_executor_id=bool(self.group_by_executor_id),
            group_by_application_version=bool(self.group_by_app_version),
            group_by_application_name=bool(self.group_by_application_name),
            time_bucket_size_ms=self.time_bucket_size_ms,
            select_count=_counts(
                self.select_count,
                self.select_min_created_at,
                self.select_max_queue_wait_ms,
                self.select_max_total_latency_ms,
            ),
            select_min_created_at=bool(self.select_min_created_at),
            select_max_queue_wait_ms=bool(self.select_max_queue_wait_ms),
            select_max_total_latency_ms=bool(self.select_max_total_latency_ms),
            workflow_ids=several(self, "workflow_ids"),
            name=several(self, "workflow_name"),
            user=several(self, "user"),
            app_version=several(self, "app_version"),
            **self.named_alike(),
        )
        _require_groups(asked)
        return asked


class StepAggregatesBody(Input):
    """At least one `groupBy…` or a bucket. Buckets are of the moment of completion."""

    group_by_function_name: Bool | None = None
    group_by_status: Bool | None = None
    time_bucket_size_ms: Int64 | None = Field(default=None, description=BUCKET)
    select_count: Bool | None = Field(default=None, description=COUNT)
    select_max_duration_ms: Bool | None = None
    status: Texts | None = Field(default=None, description="SUCCESS or ERROR.")
    step_name: Texts | None = None
    workflow_id_prefix: Texts | None = None
    completed_after: Time | None = None
    completed_before: Time | None = None

    def message(self) -> messages.GetStepAggregates:
        """Raises: InvalidInput."""
        asked = messages.GetStepAggregates(
            group_by_function_name=bool(self.group_by_function_name),
            group_by_status=bool(self.group_by_status),
            time_bucket_size_ms=self.time_bucket_size_ms,
            select_count=_counts(self.select_count, self.select_max_duration_ms),
            select_max_duration_ms=bool(self.select_max_duration_ms),
            status=several(self, "status"),
            function_name=several(self, "step_name"),
            workflow_id_prefix=several(self, "workflow_id_prefix"),
            completed_after=self.completed_after,
            completed_before=self.completed_before,
        )
        _require_groups(asked)
        return asked


@operation(
    router,
    "POST",
    f"{APP}/workflows/aggregates",
    "getWorkflowAggregates",
    permission=Permission.APPLICATION_READ,
    tag="Workflows",
    response=list[WorkflowAggregate],
)
async def get_workflow_aggregates(
    request: HttpRequest, path: Path[InApp], body: WorkflowAggregatesBody | None = None
) -> list[WorkflowAggregate]:
    """Counts, waits and latencies of workflows, in groups and by time."""
    groups = await _groups(request, path, body or WorkflowAggregatesBody())
    return schemas.workflow_aggregates(groups)


@operation(
    router,
    "POST",
    f"{APP}/steps/aggregates",
    "getStepAggregates",
    permission=Permission.APPLICATION_READ,
    tag="Workflows",
    response=list[StepAggregate],
)
async def get_step_aggregates(
    request: HttpRequest, path: Path[InApp], body: StepAggregatesBody | None = None
) -> list[StepAggregate]:
    """Counts and longest durations of steps, in groups and by time."""
    groups = await _groups(request, path, body or StepAggregatesBody())
    return schemas.step_aggregates(groups)


async def _groups(
    request: HttpRequest, path: InApp, body: WorkflowAggregatesBody | StepAggregatesBody
) -> list[AggregateRow]:
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    asked = body.message()
    given = await gateway.aanswer(application, asked)
    codec.refuse_untold(asked, given.by.peer)
    groups: list[AggregateRow] = given.reply.output
    return groups


def _counts(wanted: bool | None, *others: bool | None) -> bool:
    return bool(wanted) or not any(others)


def _require_groups(
    asked: messages.GetWorkflowAggregates | messages.GetStepAggregates,
) -> None:
    """Raises: InvalidInput."""
    size_ms = asked.time_bucket_size_ms
    if size_ms is not None and size_ms <= 0:
        raise errors.InvalidInput(
            "A bucket of time is at least one millisecond wide.",
            field="time_bucket_size_ms",
        )
    groups = [n for n in asked.__dataclass_fields__ if n.startswith("group_by_")]
    if size_ms is None and not any(getattr(asked, name) for name in groups):
        raise errors.InvalidInput(
            "Say what to group by: at least one groupBy… or timeBucketSizeMs."
        )
