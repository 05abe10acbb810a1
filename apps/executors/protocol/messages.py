"""What we may send: one typed definition per message, from which it is encoded.

Attributes carry the wire names; the members of a `body` are attributes like the others.
`wire()` says how each is written. Source: protocol reference 3.4 to 3.6 and section 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar

from apps.executors.protocol import replies
from apps.executors.protocol.versions import ALWAYS, Since

ReplyClass = type[replies.Reply]


class Rule(Enum):
    """How an attribute is written."""

    ALWAYS = "always there, null where there is no value"
    OMIT = "left out where there is no value"
    FLAG = "a boolean, always explicit"
    LIST = "a list, left out where empty"
    LIST_ALWAYS = "a list, null where empty"
    ONE_OR_LIST = "one value as itself, several as a list, left out where empty"
    ONE_OR_LIST_ALWAYS = "the same, null where empty"


@dataclass(frozen=True, slots=True)
class Wire:
    rule: Rule
    since: Since
    in_body: bool
    # Leaving it out would do something else than was asked for: refuse instead.
    is_essential: bool
    spellings: tuple[str, ...]


def wire(
    rule: Rule = Rule.ALWAYS,
    since: str = "",
    *,
    default: Any = None,
    body: bool = False,
    essential: bool = False,
    also: tuple[str, ...] = (),
) -> Any:
    """Declare an attribute. `since` is `python/typescript/go/java`."""
    return field(
        default=default,
        metadata={
            "wire": Wire(rule, Since(since) if since else ALWAYS, body, essential, also)
        },
    )


def required(*, body: bool = False, rule: Rule = Rule.ALWAYS) -> Any:
    return field(metadata={"wire": Wire(rule, ALWAYS, body, True, ())})


@dataclass(frozen=True, slots=True)
class Request:
    """Any message. `read_only` and `idempotent` ones may be sent a second time."""

    type: ClassVar[str]
    since: ClassVar[Since] = ALWAYS
    # (language, first version without it)
    until: ClassVar[dict[str, tuple[int, int, int]]] = {}
    read_only: ClassVar[bool] = False
    idempotent: ClassVar[bool] = False
    has_body: ClassVar[bool] = False
    # The attribute that old SDKs take one value of: one message each.
    bulk: ClassVar[str] = ""
    Reply: ClassVar[ReplyClass] = replies.SuccessReply


@dataclass(frozen=True, slots=True)
class ExecutorInfo(Request):
    type: ClassVar = "executor_info"
    read_only: ClassVar = True
    Reply: ClassVar = replies.ExecutorInfoReply


@dataclass(frozen=True, slots=True)
class Recovery(Request):
    """Only ever built by `apps.executors.recovery`, for executors claimed as dead."""

    type: ClassVar = "recovery"
    executor_ids: tuple[str, ...] = required()


@dataclass(frozen=True, slots=True)
class ExistPendingWorkflows(Request):
    type: ClassVar = "exist_pending_workflows"
    since: ClassVar = Since("0.24/2.6/0.5/0.5")
    read_only: ClassVar = True
    Reply: ClassVar = replies.ExistReply
    executor_id: str = required()
    application_version: str = required()


@dataclass(frozen=True, slots=True)
class Cancel(Request):
    type: ClassVar = "cancel"
    idempotent: ClassVar = True
    bulk: ClassVar = "workflow_ids"
    workflow_ids: tuple[str, ...] = required(rule=Rule.LIST)
    cancel_children: bool = wire(
        Rule.FLAG, "2.24/4.20/0.19/1.0", default=False, essential=True
    )


@dataclass(frozen=True, slots=True)
class Resume(Request):
    type: ClassVar = "resume"
    idempotent: ClassVar = True
    bulk: ClassVar = "workflow_ids"
    workflow_ids: tuple[str, ...] = required(rule=Rule.LIST)
    queue_name: str | None = wire(Rule.OMIT, "2.15/4.11/0.15/0.8", essential=True)


@dataclass(frozen=True, slots=True)
class Delete(Request):
    type: ClassVar = "delete"
    since: ClassVar = Since("2.9/4.7/0.12/0.8")
    idempotent: ClassVar = True
    bulk: ClassVar = "workflow_ids"
    workflow_ids: tuple[str, ...] = required(rule=Rule.LIST)
    delete_children: bool = wire(Rule.FLAG, default=False)


@dataclass(frozen=True, slots=True)
class Restart(Request):
    type: ClassVar = "restart"
    since: ClassVar = Since("0.23/2.6/-/0.5")
    until: ClassVar = {"python": (3, 0, 0), "typescript": (5, 0, 0)}
    workflow_id: str = required()


_FILTER = Rule.ONE_OR_LIST
_OLD_FILTER = Rule.ONE_OR_LIST_ALWAYS


def _new(since: str, rule: Rule = _FILTER, default: Any = ()) -> Any:
    return wire(rule, since, default=default, body=True)


def _old(rule: Rule = Rule.ALWAYS, default: Any = None) -> Any:
    return wire(rule, default=default, body=True)


@dataclass(frozen=True, slots=True)
class ListWorkflows(Request):
    """Newer filters are unknown to old SDKs, which then answer with too much: pass the
    rows through `codec.refilter`. Times bound `created_at`, inclusive."""

    type: ClassVar = "list_workflows"
    read_only: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.WorkflowsReply
    # The ten that Python up to 2.3 indexes unconditionally.
    workflow_uuids: tuple[str, ...] = _old(Rule.LIST_ALWAYS, ())
    workflow_name: tuple[str, ...] = _old(_OLD_FILTER, ())
    authenticated_user: tuple[str, ...] = _old(_OLD_FILTER, ())
    start_time: datetime | None = _old()
    end_time: datetime | None = _old()
    status: tuple[str, ...] = _old(_OLD_FILTER, ())
    application_version: tuple[str, ...] = _old(_OLD_FILTER, ())
    limit: int | None = _old()
    offset: int | None = _old()
    sort_desc: bool = _old(Rule.FLAG, False)
    load_input: bool = _new("1.8/3.0/0.5/0.5", Rule.FLAG, False)
    load_output: bool = _new("1.8/3.0/0.5/0.5", Rule.FLAG, False)
    forked_from: tuple[str, ...] = _new("2.4/4.4/0.8/0.7")
    queue_name: tuple[str, ...] = _new("2.9/4.7/0.5/0.8")
    workflow_id_prefix: tuple[str, ...] = _new("2.9/4.7/0.12/0.8")
    executor_id: tuple[str, ...] = _new("2.9/4.7/0.12/0.8")
    queues_only: bool | None = _new("2.9/4.7/0.12/0.8", Rule.OMIT, None)
    parent_workflow_id: tuple[str, ...] = _new("2.11/4.8/0.12/0.8")
    was_forked_from: bool | None = _new("2.16/4.12/0.17/0.8", Rule.OMIT, None)
    has_parent: bool | None = _new("2.18/4.14/0.17/0.8", Rule.OMIT, None)
    completed_after: datetime | None = _new("2.23/4.19/0.17/1.0", Rule.OMIT, None)
    completed_before: datetime | None = _new("2.23/4.19/0.17/1.0", Rule.OMIT, None)
    dequeued_after: datetime | None = _new("2.23/4.19/0.17/1.0", Rule.OMIT, None)
    dequeued_before: datetime | None = _new("2.23/4.19/0.17/1.0", Rule.OMIT, None)
    attributes: dict[str, Any] | None = _new("2.25/4.21/0.19/1.0", Rule.OMIT, None)
    schedule_name: tuple[str, ...] = _new("2.25/4.21/0.20/1.1")
    application_name: tuple[str, ...] = _new("2.30/4.26/1.2/-")


@dataclass(frozen=True, slots=True)
class ListQueuedWorkflows(Request):
    type: ClassVar = "list_queued_workflows"
    read_only: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.WorkflowsReply
    workflow_name: tuple[str, ...] = _old(_OLD_FILTER, ())
    start_time: datetime | None = _old()
    end_time: datetime | None = _old()
    status: tuple[str, ...] = _old(_OLD_FILTER, ())
    queue_name: tuple[str, ...] = _old(_OLD_FILTER, ())
    limit: int | None = _old()
    offset: int | None = _old()
    sort_desc: bool = _old(Rule.FLAG, False)
    load_input: bool = _new("1.8/3.0/0.5/0.5", Rule.FLAG, False)
    load_output: bool = _new("2.9/4.7/0.12/0.8", Rule.FLAG, False)
    forked_from: tuple[str, ...] = _new("2.4/4.4/0.8/0.7")
    workflow_uuids: tuple[str, ...] = _new("2.9/4.7/0.12/0.8", Rule.LIST)
    authenticated_user: tuple[str, ...] = _new("2.9/4.7/0.12/0.8")
    application_version: tuple[str, ...] = _new("2.9/4.7/0.12/0.8")
    workflow_id_prefix: tuple[str, ...] = _new("2.9/4.7/0.12/0.8")
    executor_id: tuple[str, ...] = _new("2.9/4.7/0.12/0.8")
    parent_workflow_id: tuple[str, ...] = _new("2.11/4.8/0.12/0.8")
    was_forked_from: bool | None = _new("2.16/4.12/0.17/0.8", Rule.OMIT, None)
    has_parent: bool | None = _new("2.18/4.14/0.17/0.8", Rule.OMIT, None)
    completed_after: datetime | None = _new("2.23/4.19/0.17/1.1", Rule.OMIT, None)
    completed_before: datetime | None = _new("2.23/4.19/0.17/1.1", Rule.OMIT, None)
    dequeued_after: datetime | None = _new("2.23/4.19/0.17/1.1", Rule.OMIT, None)
    dequeued_before: datetime | None = _new("2.23/4.19/0.17/1.1", Rule.OMIT, None)
    attributes: dict[str, Any] | None = _new("2.25/4.21/0.19/1.0", Rule.OMIT, None)
    schedule_name: tuple[str, ...] = _new("2.25/4.21/0.20/-")
    application_name: tuple[str, ...] = _new("2.30/4.26/1.2/-")


@dataclass(frozen=True, slots=True)
class GetWorkflow(Request):
    type: ClassVar = "get_workflow"
    read_only: ClassVar = True
    Reply: ClassVar = replies.WorkflowReply
    workflow_id: str = required()
    load_input: bool = wire(Rule.FLAG, "2.16/4.12/0.17/0.8", default=True)
    load_output: bool = wire(Rule.FLAG, "2.16/4.12/0.17/0.8", default=True)


@dataclass(frozen=True, slots=True)
class ListSteps(Request):
    type: ClassVar = "list_steps"
    since: ClassVar = Since("0.25/2.7/0.5/0.5")
    read_only: ClassVar = True
    Reply: ClassVar = replies.StepsReply
    workflow_id: str = required()
    load_output: bool = wire(Rule.FLAG, "2.16/4.12/0.17/0.8", default=True)
    limit: int | None = wire(Rule.OMIT, "2.18/4.14/0.18/0.8")
    offset: int | None = wire(Rule.OMIT, "2.18/4.14/0.18/0.8")


@dataclass(frozen=True, slots=True)
class ForkWorkflow(Request):
    """Idempotent because we choose the new id: a second try meets the first's row."""

    type: ClassVar = "fork_workflow"
    since: ClassVar = Since("1.0/2.9/0.5/0.5")
    idempotent: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.ForkReply
    workflow_id: str = required(body=True)
    start_step: int = required(body=True)
    new_workflow_id: str = required(body=True)
    application_version: str | None = wire(Rule.ALWAYS, body=True)
    queue_name: str | None = wire(
        Rule.OMIT, "2.15/4.11/0.15/0.8", body=True, essential=True
    )
    queue_partition_key: str | None = wire(
        Rule.OMIT, "2.15/4.11/0.15/0.8", body=True, essential=True
    )


@dataclass(frozen=True, slots=True)
class ForkFromFailure(Request):
    """Exactly one of the four `from_…`. New ids are the executor's: never resent."""

    type: ClassVar = "fork_from_failure"
    since: ClassVar = Since("2.16/4.12/0.19/1.0")
    has_body: ClassVar = True
    Reply: ClassVar = replies.ForksReply
    workflow_ids: tuple[str, ...] = required(body=True, rule=Rule.LIST)
    from_last_failure: bool | None = wire(Rule.OMIT, body=True)
    from_last_step: bool | None = wire(Rule.OMIT, body=True)
    from_step: int | None = wire(Rule.OMIT, body=True)
    from_step_name: str | None = wire(Rule.OMIT, body=True)
    application_version: str | None = wire(Rule.OMIT, body=True)
    queue_name: str | None = wire(Rule.OMIT, body=True)
    queue_partition_key: str | None = wire(Rule.OMIT, body=True)


@dataclass(frozen=True, slots=True)
class RewindWorkflow(Request):
    type: ClassVar = "rewind_workflow"
    since: ClassVar = Since("3.1/5.1/-/-")
    has_body: ClassVar = True
    workflow_id: str = required(body=True)
    start_step: int | None = wire(Rule.OMIT, body=True)
    application_version: str | None = wire(Rule.OMIT, body=True)
    queue_name: str | None = wire(Rule.OMIT, body=True)
    queue_partition_key: str | None = wire(Rule.OMIT, body=True)


@dataclass(frozen=True, slots=True)
class Retention(Request):
    type: ClassVar = "retention"
    since: ClassVar = Since("1.5/2.10/0.5/0.5")
    has_body: ClassVar = True
    gc_cutoff_epoch_ms: int | None = wire(Rule.ALWAYS, body=True)
    gc_rows_threshold: int | None = wire(Rule.ALWAYS, body=True)
    timeout_cutoff_epoch_ms: int | None = wire(Rule.ALWAYS, body=True)
    gc_batch_size: int | None = wire(Rule.OMIT, "2.27/5.0/-/-", body=True)


@dataclass(frozen=True, slots=True)
class GetMetrics(Request):
    """Half-open `[start, end)`."""

    type: ClassVar = "get_metrics"
    since: ClassVar = Since("2.6/4.5/0.9/0.7")
    read_only: ClassVar = True
    Reply: ClassVar = replies.MetricsReply
    start_time: datetime = required()
    end_time: datetime = required()
    metric_class: str = wire(default="workflow_step_count")
    application_name: tuple[str, ...] = wire(Rule.LIST, "2.30/4.26/1.2/-", default=())


@dataclass(frozen=True, slots=True)
class ExportWorkflow(Request):
    type: ClassVar = "export_workflow"
    since: ClassVar = Since("2.9/4.7/0.12/0.8")
    read_only: ClassVar = True
    Reply: ClassVar = replies.ExportReply
    workflow_id: str = required()
    export_children: bool = wire(Rule.FLAG, default=False)


@dataclass(frozen=True, slots=True)
class ImportWorkflow(Request):
    """Runs code in a Python executor: it unpickles the blob. Guard it."""

    type: ClassVar = "import_workflow"
    since: ClassVar = Since("2.9/4.7/0.12/0.8")
    serialized_workflow: str = required()


@dataclass(frozen=True, slots=True)
class Alert(Request):
    """Every value of `metadata` is a string: Go drops the message otherwise."""

    type: ClassVar = "alert"
    since: ClassVar = Since("2.10/4.8/0.12/0.8")
    name: str = required()
    message: str = required()
    metadata: dict[str, str] = required()


@dataclass(frozen=True, slots=True)
class ListSchedules(Request):
    type: ClassVar = "list_schedules"
    since: ClassVar = Since("2.13/4.9/0.14/0.8")
    read_only: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.SchedulesReply
    status: tuple[str, ...] = _new("2.13/4.9/0.14/0.8")
    workflow_name: tuple[str, ...] = _new("2.13/4.9/0.14/0.8")
    schedule_name_prefix: tuple[str, ...] = _new("2.13/4.9/0.14/0.8")
    load_context: bool = _new("2.16/4.12/0.14/0.8", Rule.FLAG, True)
    application_name: tuple[str, ...] = _new("2.30/4.26/1.2/-")


@dataclass(frozen=True, slots=True)
class GetSchedule(Request):
    type: ClassVar = "get_schedule"
    since: ClassVar = Since("2.13/4.9/0.14/0.8")
    read_only: ClassVar = True
    Reply: ClassVar = replies.ScheduleReply
    schedule_name: str = required()
    load_context: bool = wire(Rule.FLAG, "2.16/4.12/0.14/0.8", default=True)


@dataclass(frozen=True, slots=True)
class PauseSchedule(Request):
    type: ClassVar = "pause_schedule"
    since: ClassVar = Since("2.13/4.9/0.14/0.8")
    idempotent: ClassVar = True
    schedule_name: str = required()


@dataclass(frozen=True, slots=True)
class ResumeSchedule(Request):
    type: ClassVar = "resume_schedule"
    since: ClassVar = Since("2.13/4.9/0.14/0.8")
    idempotent: ClassVar = True
    schedule_name: str = required()


@dataclass(frozen=True, slots=True)
class TriggerSchedule(Request):
    """Runs once more each time it is sent: never resent."""

    type: ClassVar = "trigger_schedule"
    since: ClassVar = Since("2.13/4.9/0.14/0.8")
    Reply: ClassVar = replies.TriggerReply
    schedule_name: str = required()


@dataclass(frozen=True, slots=True)
class BackfillSchedule(Request):
    """Never resent: another SDK spells the ids of the same firings differently."""

    type: ClassVar = "backfill_schedule"
    since: ClassVar = Since("2.13/4.9/0.14/0.8")
    Reply: ClassVar = replies.BackfillReply
    schedule_name: str = required()
    start: datetime = required()
    end: datetime = required()


@dataclass(frozen=True, slots=True)
class ListQueues(Request):
    type: ClassVar = "list_queues"
    since: ClassVar = Since("2.20/4.17/0.18/0.9")
    read_only: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.QueuesReply
    application_name: tuple[str, ...] = _new("2.30/4.26/1.2/-")


@dataclass(frozen=True, slots=True)
class GetQueue(Request):
    type: ClassVar = "get_queue"
    since: ClassVar = Since("2.20/4.17/0.18/0.9")
    read_only: ClassVar = True
    Reply: ClassVar = replies.QueueReply
    name: str = required()


@dataclass(frozen=True, slots=True)
class ListApplicationVersions(Request):
    type: ClassVar = "list_application_versions"
    since: ClassVar = Since("2.14/4.10/0.15/0.8")
    read_only: ClassVar = True
    Reply: ClassVar = replies.VersionsReply


@dataclass(frozen=True, slots=True)
class SetLatestApplicationVersion(Request):
    type: ClassVar = "set_latest_application_version"
    since: ClassVar = Since("2.14/4.10/0.15/0.8")
    idempotent: ClassVar = True
    version_name: str = required()


@dataclass(frozen=True, slots=True)
class GetWorkflowEvents(Request):
    type: ClassVar = "get_workflow_events"
    since: ClassVar = Since("2.15/4.11/0.15/0.8")
    read_only: ClassVar = True
    Reply: ClassVar = replies.EventsReply
    workflow_id: str = required()


@dataclass(frozen=True, slots=True)
class GetWorkflowNotifications(Request):
    type: ClassVar = "get_workflow_notifications"
    since: ClassVar = Since("2.15/4.11/0.15/0.8")
    read_only: ClassVar = True
    Reply: ClassVar = replies.NotificationsReply
    workflow_id: str = required()


@dataclass(frozen=True, slots=True)
class GetWorkflowStreams(Request):
    type: ClassVar = "get_workflow_streams"
    since: ClassVar = Since("2.15/4.11/0.15/0.8")
    read_only: ClassVar = True
    Reply: ClassVar = replies.StreamsReply
    workflow_id: str = required()


def _lists(since: str, *also: str) -> Any:
    return wire(Rule.LIST, since, default=(), body=True, also=also)


def _flag(since: str, default: bool = False) -> Any:
    return wire(Rule.FLAG, since, default=default, body=True)


def _value(since: str) -> Any:
    return wire(Rule.OMIT, since, body=True)


@dataclass(frozen=True, slots=True)
class GetWorkflowAggregates(Request):
    """At least one `group_by_…` or a time bucket. Buckets are of `created_at`."""

    type: ClassVar = "get_workflow_aggregates"
    since: ClassVar = Since("2.16/4.12/0.15/0.8")
    read_only: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.AggregatesReply
    group_by_status: bool = _flag("2.16/4.12/0.15/0.8")
    group_by_name: bool = _flag("2.16/4.12/0.15/0.8")
    group_by_queue_name: bool = _flag("2.16/4.12/0.15/0.8")
    group_by_executor_id: bool = _flag("2.16/4.12/0.15/0.8")
    group_by_application_version: bool = _flag("2.16/4.12/0.15/0.8")
    group_by_application_name: bool = _flag("2.30/4.26/1.2/-")
    time_bucket_size_ms: int | None = _value("2.22/4.19/0.15/1.0")
    select_count: bool = _flag("2.23/4.19/0.18/1.0", default=True)
    select_min_created_at: bool = _flag("2.23/4.19/0.18/1.0")
    select_max_queue_wait_ms: bool = _flag("2.23/4.19/0.18/1.0")
    select_max_total_latency_ms: bool = _flag("2.23/4.19/0.18/1.0")
    status: tuple[str, ...] = _lists("2.16/4.12/0.15/0.8")
    name: tuple[str, ...] = _lists("2.16/4.12/0.15/0.8")
    app_version: tuple[str, ...] = _lists("2.16/4.12/0.15/0.8")
    executor_id: tuple[str, ...] = _lists("2.16/4.12/0.15/0.8")
    queue_name: tuple[str, ...] = _lists("2.16/4.12/0.15/0.8")
    workflow_id_prefix: tuple[str, ...] = _lists("2.16/4.12/0.15/0.8")
    forked_from: tuple[str, ...] = _lists("2.26/4.23/0.19/-")
    parent_workflow_id: tuple[str, ...] = _lists("2.26/4.23/0.19/-")
    schedule_name: tuple[str, ...] = _lists("2.26/4.23/-/-")
    # TypeScript 4.23 to 4.27 spell these two differently; both are sent.
    workflow_ids: tuple[str, ...] = _lists("2.26/4.23/0.19/-", "workflow_uuids")
    user: tuple[str, ...] = _lists("2.26/4.23/0.19/-", "authenticated_user")
    application_name: tuple[str, ...] = _lists("2.30/4.26/1.2/-")
    start_time: datetime | None = _value("2.16/4.12/0.15/0.8")
    end_time: datetime | None = _value("2.16/4.12/0.15/0.8")
    completed_after: datetime | None = _value("2.23/4.19/0.18/1.0")
    completed_before: datetime | None = _value("2.23/4.19/0.18/1.0")
    dequeued_after: datetime | None = _value("2.23/4.19/0.18/1.0")
    dequeued_before: datetime | None = _value("2.23/4.19/0.18/1.0")
    was_forked_from: bool | None = _value("2.26/4.23/0.19/-")
    has_parent: bool | None = _value("2.26/4.23/0.19/-")
    attributes: dict[str, Any] | None = _value("2.26/4.23/0.19/1.1")


@dataclass(frozen=True, slots=True)
class GetStepAggregates(Request):
    """At least one `group_by_…` or a time bucket. Buckets are of the completion."""

    type: ClassVar = "get_step_aggregates"
    since: ClassVar = Since("2.23/4.19/0.17/1.0")
    read_only: ClassVar = True
    has_body: ClassVar = True
    Reply: ClassVar = replies.AggregatesReply
    group_by_function_name: bool = _flag("2.23/4.19/0.17/1.0")
    group_by_status: bool = _flag("2.23/4.19/0.17/1.0")
    select_count: bool = _flag("2.23/4.19/0.17/1.0", default=True)
    select_max_duration_ms: bool = _flag("2.23/4.19/0.17/1.0")
    time_bucket_size_ms: int | None = _value("2.23/4.19/0.17/1.0")
    status: tuple[str, ...] = _lists("2.23/4.19/0.17/1.0")
    function_name: tuple[str, ...] = _lists("2.23/4.19/0.17/1.0")
    workflow_id_prefix: tuple[str, ...] = _lists("2.23/4.19/0.17/1.0")
    completed_after: datetime | None = _value("2.23/4.19/0.17/1.0")
    completed_before: datetime | None = _value("2.23/4.19/0.17/1.0")
    application_name: tuple[str, ...] = _lists("2.30/4.26/1.2/-")


def _all_messages() -> dict[str, type[Request]]:
    return {message.type: message for message in Request.__subclasses__()}


MESSAGES = _all_messages()
