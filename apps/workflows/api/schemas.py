"""What reads answer with, made from what executors say.

Executors are not trusted: what cannot be read is null, and a row without what makes it
one (its id, its moment) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from apps.api import Int32, Int64, Output, Time, omitted
from apps.executors.protocol import rows
from apps.workflows.live.order import moment_of

INT32_MAX = 2**31 - 1


class Workflow(Output):
    """One workflow. Payloads are texts in the notation of its SDK."""

    workflow_id: str
    status: str
    workflow_name: str | None
    workflow_class: str | None
    workflow_config: str | None
    application_name: str | None
    app_version: str | None
    executor_id: str | None
    user: str | None
    assumed_role: str | None
    roles: str | None
    input: str | None
    output: str | None
    error: str | None
    attributes: str | None
    queue_name: str | None
    queue_partition_key: str | None
    priority: Int32
    deduplication_id: str | None
    timeout_ms: Int64 | None
    deadline: Time | None
    delay_until: Time | None
    created_at: Time = Field(description="1970 where the executor names none.")
    updated_at: Time
    dequeued_at: Time | None
    completed_at: Time | None
    forked_from: str | None
    was_forked_from: bool
    parent_workflow_id: str | None
    schedule_name: str | None


class Step(Output):
    """One step. The first is number 1 in Python, 0 elsewhere."""

    step_id: Int32
    step_name: str
    output: str | None
    error: str | None
    child_workflow_id: str | None
    started_at: Time | None
    completed_at: Time | None


class Event(Output):
    """The current value of one event of a workflow."""

    key: str
    value: str


class Notification(Output):
    """A message to a workflow."""

    topic: str | None
    message: str
    created_at: Time
    consumed: bool


class StreamEntry(Output):
    """One stream of a workflow, and what was written to it."""

    key: str
    values: list[str]


class WorkflowAggregate(Output):
    """One group of workflows; what was not selected is left out."""

    group: dict[str, str | None]
    count: Int64 | None = omitted()
    max_queue_wait_ms: Int64 | None = omitted()
    max_total_latency_ms: Int64 | None = omitted()
    min_created_at: Time | None = omitted()


class StepAggregate(Output):
    """One group of steps; what was not selected is left out."""

    group: dict[str, str | None]
    count: Int64 | None = omitted()
    max_duration_ms: Int64 | None = omitted()


def workflows(
    found: Iterable[rows.WorkflowRow], *, with_input: bool, with_output: bool
) -> list[Workflow]:
    """Write rows, with the payloads that were asked for: old SDKs send all."""
    return [
        Workflow(
            workflow_id=row.workflow_id,
            status=row.status,
            workflow_name=row.name,
            workflow_class=row.class_name,
            workflow_config=row.config_name,
            application_name=row.application_name,
            app_version=row.application_version,
            executor_id=row.executor_id,
            user=row.authenticated_user,
            assumed_role=row.assumed_role,
            roles=row.authenticated_roles,
            input=row.input if with_input else None,
            output=row.output if with_output else None,
            error=row.error if with_output else None,
            attributes=row.attributes,
            queue_name=row.queue_name,
            queue_partition_key=row.queue_partition_key,
            priority=_int32(row.priority),
            deduplication_id=row.deduplication_id,
            timeout_ms=row.timeout_ms,
            deadline=row.deadline_at,
            delay_until=row.delay_until,
            created_at=moment_of(row),
            updated_at=row.updated_at or moment_of(row),
            dequeued_at=row.dequeued_at,
            completed_at=row.completed_at,
            forked_from=row.forked_from,
            was_forked_from=row.was_forked_from,
            parent_workflow_id=row.parent_workflow_id,
            schedule_name=row.schedule_name,
        )
        for row in found
        if row.workflow_id
    ]


def steps(found: Iterable[rows.StepRow], *, with_output: bool) -> list[Step]:
    return [
        Step(
            step_id=_int32(row.function_id),
            step_name=row.function_name,
            output=row.output if with_output else None,
            error=row.error if with_output else None,
            child_workflow_id=row.child_workflow_id,
            started_at=row.started_at,
            completed_at=row.completed_at,
        )
        for row in found
    ]


def events(found: Iterable[rows.EventRow]) -> list[Event]:
    return [Event(key=row.key, value=row.value or "") for row in found]


def notifications(found: Iterable[rows.NotificationRow]) -> list[Notification]:
    return [
        Notification(
            topic=row.topic,
            message=row.message or "",
            created_at=row.created_at,
            consumed=row.consumed,
        )
        for row in found
        if row.created_at is not None
    ]


def streams(found: Iterable[rows.StreamRow]) -> list[StreamEntry]:
    return [StreamEntry(key=row.key, values=list(row.values)) for row in found]


def workflow_aggregates(found: Iterable[rows.AggregateRow]) -> list[WorkflowAggregate]:
    return [
        WorkflowAggregate(
            group=row.group,
            count=row.count,
            max_queue_wait_ms=row.max_queue_wait_ms,
            max_total_latency_ms=row.max_total_latency_ms,
            min_created_at=row.min_created_at,
        )
        for row in found
    ]


def step_aggregates(found: Iterable[rows.AggregateRow]) -> list[StepAggregate]:
    return [
        StepAggregate(
            group=row.group, count=row.count, max_duration_ms=row.max_duration_ms
        )
        for row in found
    ]


def _int32(value: int) -> int:
    return max(min(value, INT32_MAX), -INT32_MAX - 1)
