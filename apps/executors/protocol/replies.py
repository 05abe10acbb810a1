"""What comes back, one dataclass per kind of reply.

`error_message` first: a failed query carries an empty result together with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from apps.executors.protocol import rows
from apps.executors.protocol.rows import Record

# Of an error so much is kept of its beginning and of its end: a trace may be long, and
# whatever looks at it takes time.
ERROR_CHARS = 4_096


def _error(value: object) -> str | None:
    told = value if isinstance(value, str) else rows.text(value)
    if told and len(told) > 2 * ERROR_CHARS:
        told = f"{told[:ERROR_CHARS]}\n…\n{told[-ERROR_CHARS:]}"
    return rows.text(told) or None


@dataclass(frozen=True, slots=True)
class Reply:
    """The envelope. Absent and null `error_message` both mean: no error."""

    error_message: str | None

    @classmethod
    def parse(cls, raw: Record) -> Self:
        return cls(_error(raw.get("error_message")), **cls.fields(raw))

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class SuccessReply(Reply):
    """`success` only says that the executor took it; not that anything changed."""

    success: bool

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {"success": raw.get("success") is True}


@dataclass(frozen=True, slots=True)
class ExecutorInfoReply(Reply):
    executor_id: str | None
    application_version: str | None
    hostname: str | None
    language: str | None
    dbos_version: str | None
    executor_metadata: dict[str, object] | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        metadata = raw.get("executor_metadata")
        return {
            "executor_id": rows.text(raw.get("executor_id")),
            "application_version": rows.text(raw.get("application_version")),
            "hostname": rows.text(raw.get("hostname")),
            "language": rows.text(raw.get("language")),
            "dbos_version": rows.text(raw.get("dbos_version")),
            "executor_metadata": metadata if isinstance(metadata, dict) else None,
        }


@dataclass(frozen=True, slots=True)
class ExistReply(Reply):
    """`exist` is None where the executor did not say: that proves nothing."""

    exist: bool | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        value = raw.get("exist")
        return {"exist": value if isinstance(value, bool) else None}


@dataclass(frozen=True, slots=True)
class WorkflowsReply(Reply):
    output: list[rows.WorkflowRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.WorkflowRow.parse
        return {"output": [parse(item) for item in rows.records(raw.get("output"))]}


@dataclass(frozen=True, slots=True)
class WorkflowReply(Reply):
    """`output` is None for an unknown id; that is no error."""

    output: rows.WorkflowRow | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        value = raw.get("output")
        return {
            "output": rows.WorkflowRow.parse(value) if isinstance(value, dict) else None
        }


@dataclass(frozen=True, slots=True)
class StepsReply(Reply):
    output: list[rows.StepRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.StepRow.parse
        return {"output": [parse(item) for item in rows.records(raw.get("output"))]}


@dataclass(frozen=True, slots=True)
class ForkReply(Reply):
    new_workflow_id: str | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {"new_workflow_id": rows.text(raw.get("new_workflow_id"))}


@dataclass(frozen=True, slots=True)
class ForksReply(Reply):
    forked_workflow_ids: list[str]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {"forked_workflow_ids": rows.texts(raw.get("forked_workflow_ids"))}


@dataclass(frozen=True, slots=True)
class MetricsReply(Reply):
    metrics: list[rows.MetricRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.MetricRow.parse
        return {"metrics": [parse(item) for item in rows.records(raw.get("metrics"))]}


@dataclass(frozen=True, slots=True)
class ExportReply(Reply):
    """The blob is opaque: Python's holds a pickle, which is never to be opened."""

    serialized_workflow: str | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {"serialized_workflow": rows.text(raw.get("serialized_workflow"))}


@dataclass(frozen=True, slots=True)
class SchedulesReply(Reply):
    output: list[rows.ScheduleRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.ScheduleRow.parse
        return {"output": [parse(item) for item in rows.records(raw.get("output"))]}


@dataclass(frozen=True, slots=True)
class ScheduleReply(Reply):
    output: rows.ScheduleRow | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        value = raw.get("output")
        return {
            "output": rows.ScheduleRow.parse(value) if isinstance(value, dict) else None
        }


@dataclass(frozen=True, slots=True)
class TriggerReply(Reply):
    workflow_id: str | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {"workflow_id": rows.text(raw.get("workflow_id"))}


@dataclass(frozen=True, slots=True)
class BackfillReply(Reply):
    workflow_ids: list[str]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        return {"workflow_ids": rows.texts(raw.get("workflow_ids"))}


@dataclass(frozen=True, slots=True)
class QueuesReply(Reply):
    output: list[rows.QueueRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.QueueRow.parse
        return {"output": [parse(item) for item in rows.records(raw.get("output"))]}


@dataclass(frozen=True, slots=True)
class QueueReply(Reply):
    output: rows.QueueRow | None

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        value = raw.get("output")
        return {
            "output": rows.QueueRow.parse(value) if isinstance(value, dict) else None
        }


@dataclass(frozen=True, slots=True)
class VersionsReply(Reply):
    output: list[rows.VersionRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.VersionRow.parse
        return {"output": [parse(item) for item in rows.records(raw.get("output"))]}


@dataclass(frozen=True, slots=True)
class EventsReply(Reply):
    events: list[rows.EventRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.EventRow.parse
        return {"events": [parse(item) for item in rows.records(raw.get("events"))]}


@dataclass(frozen=True, slots=True)
class NotificationsReply(Reply):
    notifications: list[rows.NotificationRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        items = rows.records(raw.get("notifications"))
        return {"notifications": [rows.NotificationRow.parse(item) for item in items]}


@dataclass(frozen=True, slots=True)
class StreamsReply(Reply):
    streams: list[rows.StreamRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.StreamRow.parse
        return {"streams": [parse(item) for item in rows.records(raw.get("streams"))]}


@dataclass(frozen=True, slots=True)
class AggregatesReply(Reply):
    output: list[rows.AggregateRow]

    @classmethod
    def fields(cls, raw: Record) -> dict[str, Any]:
        parse = rows.AggregateRow.parse
        return {"output": [parse(item) for item in rows.records(raw.get("output"))]}
