"""What executors answer with, one frozen dataclass per record, parsed leniently.

Absent and null mean the same; a value of another type than promised becomes the nearest
one or None. Payload texts are the SDK's own notation and are never interpreted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.executors.protocol import parsing

Record = dict[str, Any]

# Beyond what any clock writes; keeps `datetime` from overflowing.
_MAX_MS = 253_402_300_799_000
_INT64 = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text(value: object) -> str | None:
    """Any value as text that databases and browsers take: no NUL, no lone surrogate."""
    if value is None:
        return None
    plain = (value if isinstance(value, str) else str(value)).replace("\x00", "\ufffd")
    return plain if plain.isascii() else plain.encode("utf-8", "replace").decode()


def must(value: object) -> str:
    return text(value) or ""


def integer(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        whole = int(value)
    except (ValueError, OverflowError):
        return None
    return whole if -_INT64 <= whole < _INT64 else None


def number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        real = float(value)
    except (ValueError, OverflowError):
        return None
    return real if math.isfinite(real) else None


def time_ms(value: object) -> datetime | None:
    """Epoch milliseconds, as a number or decimal text, to aware UTC."""
    ms = integer(value)
    if ms is None or not 0 <= ms <= _MAX_MS:
        return None
    # Exact, unlike a division: a moment is asked for as it was told.
    return _EPOCH + timedelta(milliseconds=ms)


def time_iso(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def records(value: object) -> list[Record]:
    """The objects of a list; anything else in it, or instead of it, is left out.

    Raises: TooManyValues.
    """
    if not isinstance(value, list):
        return []
    return [item for item in parsing.limit_rows(value) if isinstance(item, dict)]


def texts(value: object) -> list[str]:
    if not isinstance(value, list):
        return []
    return [must(item) for item in value]


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """One workflow. Source: protocol reference 4.1."""

    workflow_id: str
    status: str
    name: str | None = None
    class_name: str | None = None
    config_name: str | None = None
    authenticated_user: str | None = None
    assumed_role: str | None = None
    authenticated_roles: str | None = None
    input: str | None = None
    output: str | None = None
    error: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    queue_name: str | None = None
    application_version: str | None = None
    executor_id: str | None = None
    timeout_ms: int | None = None
    deadline_at: datetime | None = None
    deduplication_id: str | None = None
    priority: int = 0
    queue_partition_key: str | None = None
    forked_from: str | None = None
    was_forked_from: bool = False
    parent_workflow_id: str | None = None
    dequeued_at: datetime | None = None
    delay_until: datetime | None = None
    completed_at: datetime | None = None
    attributes: str | None = None
    schedule_name: str | None = None
    application_name: str | None = None

    @classmethod
    def parse(cls, raw: Record) -> WorkflowRow:
        return cls(
            workflow_id=must(raw.get("WorkflowUUID")),
            status=must(raw.get("Status")),
            name=text(raw.get("WorkflowName")),
            class_name=text(raw.get("WorkflowClassName")),
            config_name=text(raw.get("WorkflowConfigName")),
            authenticated_user=text(raw.get("AuthenticatedUser")),
            assumed_role=text(raw.get("AssumedRole")),
            authenticated_roles=text(raw.get("AuthenticatedRoles")),
            input=text(raw.get("Input")),
            output=text(raw.get("Output")),
            error=text(raw.get("Error")),
            created_at=time_ms(raw.get("CreatedAt")),
            updated_at=time_ms(raw.get("UpdatedAt")),
            queue_name=text(raw.get("QueueName")),
            application_version=text(raw.get("ApplicationVersion")),
            executor_id=text(raw.get("ExecutorID")),
            timeout_ms=integer(raw.get("WorkflowTimeoutMS")),
            deadline_at=time_ms(raw.get("WorkflowDeadlineEpochMS")),
            deduplication_id=text(raw.get("DeduplicationID")),
            priority=integer(raw.get("Priority")) or 0,
            queue_partition_key=text(raw.get("QueuePartitionKey")),
            forked_from=text(raw.get("ForkedFrom")),
            was_forked_from=raw.get("WasForkedFrom") is True,
            parent_workflow_id=text(raw.get("ParentWorkflowID")),
            dequeued_at=time_ms(raw.get("DequeuedAt")),
            delay_until=time_ms(raw.get("DelayUntilEpochMS")),
            completed_at=time_ms(raw.get("CompletedAt")),
            attributes=text(raw.get("Attributes")),
            schedule_name=text(raw.get("ScheduleName")),
            application_name=text(raw.get("ApplicationName")),
        )


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step. The first is 1 in Python and 0 elsewhere: pass ids through."""

    function_id: int
    function_name: str
    output: str | None = None
    error: str | None = None
    child_workflow_id: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None

    @classmethod
    def parse(cls, raw: Record) -> StepRow:
        return cls(
            function_id=integer(raw.get("function_id")) or 0,
            function_name=must(raw.get("function_name")),
            output=text(raw.get("output")),
            error=text(raw.get("error")),
            child_workflow_id=text(raw.get("child_workflow_id")),
            started_at=time_ms(raw.get("started_at_epoch_ms")),
            completed_at=time_ms(raw.get("completed_at_epoch_ms")),
        )


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One schedule. Source: protocol reference 4.3."""

    schedule_id: str
    schedule_name: str
    workflow_name: str
    workflow_class_name: str | None
    schedule: str
    status: str
    context: str | None
    last_fired_at: datetime | None
    automatic_backfill: bool
    cron_timezone: str | None
    queue_name: str | None
    application_name: str | None

    @classmethod
    def parse(cls, raw: Record) -> ScheduleRow:
        return cls(
            schedule_id=must(raw.get("schedule_id")),
            schedule_name=must(raw.get("schedule_name")),
            workflow_name=must(raw.get("workflow_name")),
            workflow_class_name=text(raw.get("workflow_class_name")),
            schedule=must(raw.get("schedule")),
            status=must(raw.get("status")),
            context=text(raw.get("context")),
            last_fired_at=time_iso(raw.get("last_fired_at")),
            automatic_backfill=raw.get("automatic_backfill") is True,
            cron_timezone=text(raw.get("cron_timezone")),
            queue_name=text(raw.get("queue_name")),
            application_name=text(raw.get("application_name")),
        )


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One registered queue; limits are None where there is none."""

    name: str
    concurrency: int | None
    worker_concurrency: int | None
    rate_limit_max: int | None
    rate_limit_period_sec: float | None
    priority_enabled: bool
    partition_queue: bool
    polling_interval_sec: float | None
    application_name: str | None
    partition_concurrency: int | None
    partition_worker_concurrency: int | None
    partition_rate_limit_max: int | None
    partition_rate_limit_period_sec: float | None

    @classmethod
    def parse(cls, raw: Record) -> QueueRow:
        return cls(
            name=must(raw.get("name")),
            concurrency=integer(raw.get("concurrency")),
            worker_concurrency=integer(raw.get("worker_concurrency")),
            rate_limit_max=integer(raw.get("rate_limit_max")),
            rate_limit_period_sec=number(raw.get("rate_limit_period_sec")),
            priority_enabled=raw.get("priority_enabled") is True,
            partition_queue=raw.get("partition_queue") is True,
            polling_interval_sec=number(raw.get("polling_interval_sec")),
            application_name=text(raw.get("application_name")),
            partition_concurrency=integer(raw.get("partition_concurrency")),
            partition_worker_concurrency=integer(
                raw.get("partition_worker_concurrency")
            ),
            partition_rate_limit_max=integer(raw.get("partition_rate_limit_max")),
            partition_rate_limit_period_sec=number(
                raw.get("partition_rate_limit_period_sec")
            ),
        )


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One application version; the first of a list is the latest."""

    version_id: str
    version_name: str
    version_timestamp: datetime | None
    created_at: datetime | None

    @classmethod
    def parse(cls, raw: Record) -> VersionRow:
        return cls(
            version_id=must(raw.get("version_id")),
            version_name=must(raw.get("version_name")),
            version_timestamp=time_ms(raw.get("version_timestamp")),
            created_at=time_ms(raw.get("created_at")),
        )


@dataclass(frozen=True, slots=True)
class EventRow:
    key: str
    value: str | None

    @classmethod
    def parse(cls, raw: Record) -> EventRow:
        return cls(must(raw.get("key")), text(raw.get("value")))


@dataclass(frozen=True, slots=True)
class NotificationRow:
    topic: str | None
    message: str | None
    created_at: datetime | None
    consumed: bool

    @classmethod
    def parse(cls, raw: Record) -> NotificationRow:
        return cls(
            topic=text(raw.get("topic")),
            message=text(raw.get("message")),
            created_at=time_ms(raw.get("created_at_epoch_ms")),
            consumed=raw.get("consumed") is True,
        )


@dataclass(frozen=True, slots=True)
class StreamRow:
    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, raw: Record) -> StreamRow:
        return cls(must(raw.get("key")), tuple(texts(raw.get("values"))))


@dataclass(frozen=True, slots=True)
class MetricRow:
    metric_type: str
    metric_name: str
    value: float

    @classmethod
    def parse(cls, raw: Record) -> MetricRow:
        return cls(
            metric_type=must(raw.get("metric_type")),
            metric_name=must(raw.get("metric_name")),
            value=number(raw.get("value")) or 0,
        )


@dataclass(frozen=True, slots=True)
class AggregateRow:
    """One group of workflows or steps; measures not selected are None."""

    group: dict[str, str | None]
    count: int | None
    min_created_at: datetime | None
    max_queue_wait_ms: int | None
    max_total_latency_ms: int | None
    max_duration_ms: int | None

    @classmethod
    def parse(cls, raw: Record) -> AggregateRow:
        group = raw.get("group")
        return cls(
            group={must(k): text(v) for k, v in group.items()}
            if isinstance(group, dict)
            else {},
            count=integer(raw.get("count")),
            min_created_at=time_ms(raw.get("min_created_at")),
            max_queue_wait_ms=integer(raw.get("max_queue_wait_ms")),
            max_total_latency_ms=integer(raw.get("max_total_latency_ms")),
            max_duration_ms=integer(raw.get("max_duration_ms")),
        )
