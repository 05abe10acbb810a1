"""The API before v2, for the clients that still speak it: dbos-mcp up to 0.6, and
scripts that read the audit log.

Each of its requests is an operation of v2 by other names, so it is answered by that
operation, and only the names are changed: snake_case in, snake_case or the SDKs' own
PascalCase out, times in milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import quote

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from pydantic.alias_generators import to_camel

from apps import errors
from apps.api import JSON_TYPE
from conductor_site import inner, openapi

# It is read whole, to be written by other names; v2 has no such limit.
MAX_ANSWER_BYTES = 32 * 2**20
PREFIXES = ("", "v1alpha1/", "conductor/v1alpha1/")

Json = dict[str, Any]
# old name → (v2's name, how the value is written)
Shape = Mapping[str, tuple[str, Callable[[Any], Any]]]


# --- Values and shapes ----------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


def _ms(value: Any) -> int:
    """A time of v2, or milliseconds already, in milliseconds since 1970."""
    if isinstance(value, int):
        return value
    return round(datetime.fromisoformat(value).timestamp() * 1000)


def _ms_text(value: Any) -> str:
    return str(_ms(value))


def _same_names(*names: str) -> Shape:
    return {name: (to_camel(name), _same) for name in names}


PROFILE: Shape = {
    "Name": ("name", _same),
    "Email": ("email", _same),
    "Organization": ("orgName", _same),
    "SubscriptionPlan": ("subscriptionPlan", _same),
}
APPLICATION: Shape = {
    "application_id": ("id", _same),
    "application_name": ("name", _same),
    **_same_names("org_id", "status", "language", "gc_time_threshold_ms"),
    **_same_names("gc_rows_threshold", "global_timeout_ms", "executor_timeout_secs"),
    **_same_names("private_mode", "dbos_cloud"),
}
WORKFLOW: Shape = {
    "WorkflowUUID": ("workflowId", _same),
    "Status": ("status", _same),
    "WorkflowName": ("workflowName", _same),
    "WorkflowClassName": ("workflowClass", _same),
    "WorkflowConfigName": ("workflowConfig", _same),
    "AuthenticatedUser": ("user", _same),
    "AssumedRole": ("assumedRole", _same),
    "AuthenticatedRoles": ("roles", _same),
    "Input": ("input", _same),
    "Output": ("output", _same),
    "Error": ("error", _same),
    "CreatedAt": ("createdAt", _ms_text),
    "UpdatedAt": ("updatedAt", _ms_text),
    "QueueName": ("queueName", _same),
    "ApplicationVersion": ("appVersion", _same),
    "ExecutorID": ("executorId", _same),
    "WorkflowTimeoutMS": ("timeoutMs", str),
    "WorkflowDeadlineEpochMS": ("deadline", _ms_text),
    "DeduplicationID": ("deduplicationId", _same),
    "Priority": ("priority", str),
    "QueuePartitionKey": ("queuePartitionKey", _same),
    "ForkedFrom": ("forkedFrom", _same),
    "ParentWorkflowID": ("parentWorkflowId", _same),
    "DequeuedAt": ("dequeuedAt", _ms_text),
    "WasForkedFrom": ("wasForkedFrom", _same),
    "DelayUntilEpochMS": ("delayUntil", _ms_text),
    "CompletedAt": ("completedAt", _ms_text),
}
STEP: Shape = {
    "function_id": ("stepId", _same),
    "function_name": ("stepName", _same),
    **_same_names("output", "error", "child_workflow_id"),
    "started_at_epoch_ms": ("startedAt", _ms_text),
    "completed_at_epoch_ms": ("completedAt", _ms_text),
}
EXECUTOR: Shape = {
    "application_id": ("appId", _same),
    "application_version": ("appVersion", _same),
    **_same_names("executor_id", "status", "host_id", "hostname", "language"),
    **_same_names("dbos_version", "executor_metadata"),
    "created_at": ("createdAt", _ms_text),
    "updated_at": ("updatedAt", _ms_text),
}
EVENT: Shape = _same_names("key", "value")
NOTIFICATION: Shape = {
    **_same_names("topic", "message", "consumed"),
    "created_at_epoch_ms": ("createdAt", _ms),
}
SCHEDULE: Shape = {
    **_same_names("schedule_id", "schedule_name", "workflow_name", "status"),
    **_same_names("context", "cron_timezone", "automatic_backfill", "last_fired_at"),
    "workflow_class_name": ("workflowClass", _same),
    "schedule": ("cronExpression", _same),
}
VERSION: Shape = {
    **_same_names("version_id", "version_name"),
    "version_timestamp": ("versionTimestamp", _ms),
    "created_at": ("createdAt", _ms),
}
AGGREGATE: Shape = {
    **_same_names("group", "count", "max_queue_wait_ms", "max_total_latency_ms"),
    "min_created_at": ("minCreatedAt", _ms),
}
AUDIT_ENTRY: Shape = {
    **_same_names("id", "emit_time", "operation", "status", "subject", "target"),
    **_same_names("source_ip", "details"),
}
NEW_WORKFLOW: Shape = _same_names("workflow_id")
NEW_WORKFLOWS: Shape = _same_names("workflow_ids")

# Names of a body or a query that are not v2's in snake_case.
RENAMED = {
    "workflow_uuids": "workflowIds",
    "authenticated_user": "user",
    "application_version": "appVersion",
    "group_by_name": "groupByWorkflowName",
    "group_by_application_version": "groupByAppVersion",
    "name": "workflowName",
    "start": "startTime",
    "end": "endTime",
    "page_size": "limit",
}


# --- Routes ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Route:
    """One request of v1alpha1: the `operation` of v2 that it is, and the shape of its
    answer; `added` goes to the body, `wrapped` is the key that holds the answer."""

    method: str
    operation: str
    shape: Shape | None = None
    added: Json | None = None
    wrapped: str = ""


_APPS = "api/<segment:orgName>/applications"
_APP = f"{_APPS}/<segment:appName>"
_WORKFLOW = f"{_APP}/workflows/<segment:workflowId>"
_SCHEDULE = f"{_APP}/schedules/<segment:scheduleName>"
ROUTES: dict[str, tuple[Route, ...]] = {
    "user/profile": (Route("GET", "getCurrentUser", PROFILE),),
    _APPS: (Route("GET", "listApps", APPLICATION),),
    f"{_APP}/executors": (Route("GET", "listExecutors", EXECUTOR),),
    f"{_APP}/workflows/": (Route("POST", "searchWorkflows", WORKFLOW),),
    f"{_APP}/queues/": (
        Route("POST", "searchWorkflows", WORKFLOW, added={"queuesOnly": True}),
    ),
    f"{_APP}/workflows/aggregates": (
        Route("POST", "getWorkflowAggregates", AGGREGATE),
    ),
    f"{_APP}/workflows/cancel": (Route("POST", "bulkCancelWorkflows"),),
    f"{_APP}/workflows/resume": (Route("POST", "bulkResumeWorkflows"),),
    f"{_APP}/workflows/delete": (Route("POST", "bulkDeleteWorkflows"),),
    f"{_APP}/workflows/fork-from-failure": (
        Route("POST", "bulkForkWorkflowsFromFailure", NEW_WORKFLOWS),
    ),
    _WORKFLOW: (
        Route("GET", "getWorkflow", WORKFLOW),
        Route("DELETE", "deleteWorkflow"),
    ),
    f"{_WORKFLOW}/steps": (Route("GET", "listWorkflowSteps", STEP),),
    f"{_WORKFLOW}/events": (Route("GET", "listWorkflowEvents", EVENT),),
    f"{_WORKFLOW}/notifications": (
        Route("GET", "listWorkflowNotifications", NOTIFICATION),
    ),
    f"{_WORKFLOW}/cancel": (Route("POST", "cancelWorkflow"),),
    f"{_WORKFLOW}/resume": (Route("POST", "resumeWorkflow"),),
    f"{_WORKFLOW}/fork": (Route("POST", "forkWorkflow", NEW_WORKFLOW),),
    f"{_APP}/schedules/list": (Route("POST", "listSchedules", SCHEDULE),),
    _SCHEDULE: (Route("GET", "getSchedule", SCHEDULE),),
    f"{_SCHEDULE}/pause": (Route("POST", "pauseSchedule"),),
    f"{_SCHEDULE}/resume": (Route("POST", "resumeSchedule"),),
    f"{_SCHEDULE}/trigger": (Route("POST", "triggerSchedule", NEW_WORKFLOW),),
    f"{_APP}/versions": (Route("GET", "listAppVersions", VERSION),),
    f"{_APP}/versions/set-latest": (Route("POST", "setLatestAppVersion"),),
    "api/<segment:orgName>/audit-logs": (
        Route("GET", "listAuditLogs", AUDIT_ENTRY, wrapped="entries"),
    ),
}


def urlpatterns() -> list[URLPattern]:
    return [
        path(prefix + pattern, _view(routes))
        for pattern, routes in ROUTES.items()
        for prefix in PREFIXES
    ]


def _view(routes: tuple[Route, ...]) -> Callable[..., Any]:
    by_method = {route.method: route for route in routes}

    async def view(request: HttpRequest, **names: str) -> HttpResponseBase:
        route = by_method.get(request.method or "")
        if route is None:
            allowed = {"Allow": ", ".join(by_method)}
            return HttpResponse(status=405, headers=allowed)
        return await _answer(request, route, names)

    return view


# --- Translating ----------------------------------------------------------------------


async def _answer(
    request: HttpRequest, route: Route, names: dict[str, str]
) -> HttpResponseBase:
    """Raises: InvalidInput, for a body that is no object."""
    method, place, operation = openapi.operations()[route.operation]
    for name, value in names.items():
        place = place.replace(f"{{{name}}}", quote(value, safe=""))
    given = {**_body(request), **request.GET.dict()}
    named = {RENAMED.get(name, to_camel(name)): value for name, value in given.items()}
    named |= route.added or {}
    takes_body = "requestBody" in operation
    if takes_body:
        named = _as_body(operation, named)
    response = await inner.call(
        request,
        method,
        place,
        surface="v1alpha1",
        query=None if takes_body else named,
        body=named if takes_body else None,
    )
    if response.status_code >= 400 or route.shape is None:
        return response
    return _reshaped(route, response.status_code, await _read(response))


def _body(request: HttpRequest) -> Json:
    if not request.body:
        return {}
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        raise errors.InvalidInput("The body is no JSON.") from None
    if not isinstance(body, dict):
        raise errors.InvalidInput("The body is no object.")
    return body


def _as_body(operation: Json, values: Json) -> Json:
    """Lists where v2 wants lists, and booleans where a query said true."""
    properties = openapi.body_schema(operation)["properties"]
    made = {}
    for name, value in values.items():
        kind = properties.get(name, {}).get("type")
        if kind == "array" and not isinstance(value, list | None):
            value = [value]
        if kind == "boolean" and value in ("true", "false"):
            value = value == "true"
        made[name] = value
    return made


async def _read(response: HttpResponseBase) -> bytes:
    if isinstance(response, HttpResponse):
        return response.content
    content = b""
    async for part in cast("StreamingHttpResponse", response):
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            raise errors.InvalidInput("The answer is too large: ask with a limit.")
    return content


def _reshaped(route: Route, status: int, content: bytes) -> HttpResponse:
    shape, found = route.shape or {}, json.loads(content)

    def written(one: Json) -> Json:
        values = {old: (one.get(new), write) for old, (new, write) in shape.items()}
        return {
            old: write(value)
            for old, (value, write) in values.items()
            if value is not None
        }

    made: Any = (
        [written(x) for x in found] if isinstance(found, list) else written(found)
    )
    if route.wrapped:
        made = {route.wrapped: made}
    return HttpResponse(json.dumps(made), status=status, content_type=JSON_TYPE)
