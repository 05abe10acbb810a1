"""What a search and the aggregates are narrowed by, as a request's body says it."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from apps import errors
from apps.api import Bool, Input, Int64, Text, Time
from apps.executors.protocol import messages
from apps.workflows.search import Search

# What an executor's SDK takes in one message, and its database in one query.
VALUES_LIMIT = 1_000
ATTRIBUTES_LIMIT_CHARS = 16_384


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    """What is no JSON would end an executor's connection, or its process."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError) as exc:
        raise ValueError("These attributes are no JSON.") from exc
    if "\\u0000" in text or len(text) > ATTRIBUTES_LIMIT_CHARS:
        raise ValueError(
            f"Attributes are JSON of {ATTRIBUTES_LIMIT_CHARS:,} characters, no NUL."
        )
    return value


Texts = list[Text]
Attributes = Annotated[dict[str, Any], AfterValidator(_sendable)]


class WorkflowFilters(Input):
    """Filters of one kind are alternatives; of several kinds, all must pass. An empty
    list is no filter."""

    workflow_ids: Texts | None = None
    workflow_id_prefix: Texts | None = None
    workflow_name: Texts | None = None
    status: Texts | None = None
    user: Texts | None = None
    app_version: Texts | None = None
    executor_id: Texts | None = None
    queue_name: Texts | None = None
    schedule_name: Texts | None = None
    forked_from: Texts | None = None
    was_forked_from: Bool | None = None
    parent_workflow_id: Texts | None = None
    has_parent: Bool | None = None
    attributes: Attributes | None = None
    start_time: Time | None = Field(default=None, description="Created at or after.")
    end_time: Time | None = Field(default=None, description="Created at or before.")
    completed_after: Time | None = None
    completed_before: Time | None = None
    dequeued_after: Time | None = None
    dequeued_before: Time | None = None

    def named_alike(self) -> dict[str, Any]:
        """The filters that the messages of lists and of aggregates call the same.
        Raises: InvalidInput."""
        return {
            "workflow_id_prefix": several(self, "workflow_id_prefix"),
            "status": several(self, "status"),
            "executor_id": several(self, "executor_id"),
            "queue_name": several(self, "queue_name"),
            "schedule_name": several(self, "schedule_name"),
            "forked_from": several(self, "forked_from"),
            "was_forked_from": self.was_forked_from,
            "parent_workflow_id": several(self, "parent_workflow_id"),
            "has_parent": self.has_parent,
            "attributes": self.attributes or None,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "completed_after": self.completed_after,
            "completed_before": self.completed_before,
            "dequeued_after": self.dequeued_after,
            "dequeued_before": self.dequeued_before,
        }


class WorkflowSearchBody(WorkflowFilters):
    """Filters of one kind are alternatives; of several kinds, all must pass. An empty
    list is no filter."""

    queues_only: Bool | None = None
    limit: Int64 | None = Field(default=None, description="0 or absent: everything.")
    offset: Int64 | None = None
    sort_desc: Bool | None = Field(default=None, description="Newest first.")
    load_input: Bool | None = None
    load_output: Bool | None = None

    def search(self) -> Search:
        """Raises: InvalidInput."""
        limit, offset = bounded(self.limit, self.offset)
        filters = messages.ListWorkflows(
            **self.named_alike(),
            workflow_uuids=several(self, "workflow_ids"),
            workflow_name=several(self, "workflow_name"),
            authenticated_user=several(self, "user"),
            application_version=several(self, "app_version"),
            queues_only=self.queues_only or None,
            sort_desc=bool(self.sort_desc),
            load_input=bool(self.load_input),
            load_output=bool(self.load_output),
        )
        return Search(filters, limit, offset)


def several(body: Input, name: str) -> tuple[str, ...]:
    """Return the values of a filter, each once. Raises: InvalidInput."""
    values = dict.fromkeys(getattr(body, name) or ())
    if len(values) > VALUES_LIMIT:
        raise errors.InvalidInput(
            f"A filter takes at most {VALUES_LIMIT:,} values.", field=name
        )
    return tuple(values)


def bounded(limit: int | None, offset: int | None) -> tuple[int | None, int]:
    """Return a limit, None for everything, and an offset. Raises: InvalidInput."""
    for name, value in (("limit", limit), ("offset", offset)):
        if value is not None and value < 0:
            raise errors.InvalidInput(f"{name} must not be negative.", field=name)
    return limit or None, offset or 0
