"""The MCP server at `/mcp`: the operations of the API as tools for assistants.

Streamable HTTP, without sessions, one JSON answer for each request. A tool is an
operation of our own document, and calling it is calling that operation with the
credentials of whoever called the tool.

What only reads is offered to everybody who may read it. What changes something is
offered only at `/mcp?write=1`, which a person writes into a client's configuration and
no assistant can.
"""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import mcp_types as types
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_POST
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from apps.api import Explained
from apps.registry import callers
from apps.registry.auth import Actor
from conductor_site import inner, openapi

# About what an assistant takes in at once.
MAX_RESULT_BYTES = 100_000
# How many a list gives where nobody says.
DEFAULT_LIMIT = 100
INSTRUCTIONS = (
    "Conductor is the control plane of DBOS durable workflows. Begin with listApps. "
    "Workflows, queues and schedules can be read while an application is AVAILABLE. "
    "Leave loadInput and loadOutput out of a search unless the values matter."
)
# Operations that are no tools, and why.
LEFT_OUT = {
    "createToken": "its answer is a secret",
    "generateSecret": "its answer is a secret",
    "exportWorkflow": "its answer is a blob for importWorkflow",
    "importWorkflow": "its body is a blob of exportWorkflow",
    "registerUser": "is for people at their first sign-in",
    "joinOrg": "is for people at their first sign-in",
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OperationTool:
    """One operation, and what is a tool of it. `places`: argument → `path`, `query` or
    `body`."""

    tool: types.Tool
    method: str
    path: str
    permission: str | None
    needs_accounts: bool
    places: dict[str, str]
    has_body: bool

    @property
    def reads_only(self) -> bool:
        return bool(self.tool.annotations and self.tool.annotations.read_only_hint)


# --- Tools of operations --------------------------------------------------------------


@functools.cache
def tools() -> dict[str, OperationTool]:
    """Every tool by its name, which is the operation's id."""
    document = openapi.document()
    return {
        name: _tool(document, *operation)
        for name, operation in sorted(openapi.operations().items())
        if name not in LEFT_OUT and operation[1].startswith("/v2/")
    }


def _tool(document: Json, method: str, path: str, operation: Json) -> OperationTool:
    places: dict[str, str] = {}
    properties: Json = {}
    required: list[str] = []
    for parameter in operation["parameters"]:
        name = parameter["name"]
        places[name] = parameter["in"]
        properties[name] = deepcopy(parameter["schema"])
        if parameter.get("description"):
            properties[name]["description"] = parameter["description"]
        if parameter.get("required") and name != "orgName":
            required.append(name)
    body = openapi.body_schema(operation)
    for name, schema in body.get("properties", {}).items():
        if name == "$schema":
            continue
        if name in places:
            raise ValueError(f"{operation['operationId']} has two arguments {name}")
        places[name] = "body"
        properties[name] = deepcopy(schema)
    if operation.get("requestBody", {}).get("required"):
        required += body.get("required", [])
    if "orgName" in properties:
        properties["orgName"]["description"] = "Left out: the caller's organization."
    if "limit" in properties:
        properties["limit"]["default"] = DEFAULT_LIMIT
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    permission = operation["x-permission"]
    reads_only = method == "GET" or str(permission).endswith(".read")
    return OperationTool(
        types.Tool(
            name=operation["operationId"],
            title=operation["summary"],
            description=operation.get("description") or operation["summary"],
            input_schema=_with_definitions(document, schema),
            annotations=types.ToolAnnotations(
                read_only_hint=reads_only,
                # What is answered with 201 adds something and takes nothing away.
                destructive_hint=not reads_only and "201" not in operation["responses"],
                idempotent_hint=reads_only or method in ("PUT", "DELETE"),
                open_world_hint=False,
            ),
        ),
        method,
        path,
        permission,
        operation.get("x-dbos-requires-oauth", False),
        places,
        "requestBody" in operation,
    )


def _with_definitions(document: Json, schema: Json) -> Json:
    """Bring along what the schema refers to."""
    schemas, needed = document["components"]["schemas"], set[str]()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            if name and name not in needed:
                needed.add(name)
                collect(schemas[name])
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                collect(one)

    collect(schema)
    if needed:
        schema = {**schema, "$defs": {name: schemas[name] for name in sorted(needed)}}
    text = json.dumps(schema).replace("#/components/schemas/", "#/$defs/")
    written: Json = json.loads(text)
    return written


# --- The endpoint ---------------------------------------------------------------------


@require_POST
async def endpoint(request: HttpRequest) -> HttpResponseBase:
    """Answer one message of the Model Context Protocol. Raises: NotSignedIn."""
    actors = await callers.aactors_of(callers.caller_of(request))
    server = _server(request, actors, may_write=request.GET.get("write") == "1")
    manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
    sent: list[Json] = []

    async def receive() -> Json:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async with manager.run():
        await manager.handle_request(_scope(request), receive, send)
    start, *parts = sent
    response = Explained(
        b"".join(part.get("body", b"") for part in parts), status=start["status"]
    )
    for name, value in start["headers"]:
        response[name.decode("latin1")] = value.decode("latin1")
    return response


def _scope(request: HttpRequest) -> Json:
    headers = [
        (name.lower().encode("latin1"), value.encode("latin1", "replace"))
        for name, value in request.headers.items()
    ]
    return {
        "type": "http",
        "method": "POST",
        "path": request.path_info,
        "query_string": b"",
        "headers": headers,
    }


def _server(request: HttpRequest, actors: list[Actor], *, may_write: bool) -> Server:
    """Return a server of one request: what it offers depends on who asks."""
    offered = {
        name: one
        for name, one in tools().items()
        if (one.reads_only or may_write) and _may_call(one, actors)
    }

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[one.tool for one in offered.values()])

    async def call_tool(
        _: Any, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        one = offered.get(params.name)
        if one is None:
            return _failure(_why_not(params.name, may_write))
        return await _call(request, one, params.arguments or {}, actors)

    return Server(
        "conductor",
        title="Conductor",
        version=openapi.document()["info"]["version"],
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def _may_call(one: OperationTool, actors: list[Actor]) -> bool:
    if one.needs_accounts and settings.CONDUCTOR_AUTH == "none":
        return False
    if one.permission is None:
        return True
    return any(actor.may(one.permission) for actor in actors)


def _why_not(name: str, may_write: bool) -> str:
    one = tools().get(name)
    if one is None:
        return "There is no such tool."
    if not one.reads_only and not may_write:
        return "This changes something: the client's URL has to end in /mcp?write=1."
    return f"This needs the permission {one.permission}."


# --- Calling --------------------------------------------------------------------------


async def _call(
    request: HttpRequest, one: OperationTool, arguments: Json, actors: list[Actor]
) -> types.CallToolResult:
    given = {name: value for name, value in arguments.items() if value is not None}
    if unknown := given.keys() - one.places.keys():
        return _failure(f"Unknown arguments: {', '.join(sorted(unknown))}.")
    if "orgName" in one.places and "orgName" not in given:
        if len(actors) != 1:
            return _failure("Say of which organization: orgName.")
        given["orgName"] = actors[0].organization.name
    if "limit" in one.places:
        given.setdefault("limit", DEFAULT_LIMIT)
    placed: dict[str, Json] = {"path": {}, "query": {}, "body": {}}
    for name, value in given.items():
        placed[one.places[name]][name] = value
    path = one.path
    for name in (name for name, where in one.places.items() if where == "path"):
        if name not in given:
            return _failure(f"The argument {name} is missing.")
        path = path.replace(f"{{{name}}}", quote(str(given[name]), safe=""))
    response = await inner.call(
        request,
        one.method,
        path,
        surface="mcp",
        query=placed["query"],
        body=placed["body"] if one.has_body else None,
    )
    return await _result(response)


async def _result(response: HttpResponseBase) -> types.CallToolResult:
    content, is_whole = await _read(response)
    if response.status_code >= 400:
        return _failure(content.decode(errors="replace"))
    if is_whole:
        return _told(content.decode() or "Done.")
    items, count = _whole_items(content.decode(errors="ignore"))
    if not count:
        return _failure(
            f"The answer is larger than {MAX_RESULT_BYTES} bytes. Ask for less."
        )
    note = (
        f"Only the first {count} are shown: all of them are more than "
        f"{MAX_RESULT_BYTES} bytes. Narrow the question, or go on with `offset`."
    )
    return _told(items, note)


async def _read(response: HttpResponseBase) -> tuple[bytes, bool]:
    """Return the content, and whether it is whole: reading stops at the limit."""
    if isinstance(response, HttpResponse):
        content = response.content
    else:
        content = b""
        async for part in cast("StreamingHttpResponse", response):
            content += part
            if len(content) > MAX_RESULT_BYTES:
                break
    return content[:MAX_RESULT_BYTES], len(content) <= MAX_RESULT_BYTES


def _whole_items(text: str) -> tuple[str, int]:
    """Return a list that was cut as one of its whole items, and how many those are."""
    decoder, place, end, count = json.JSONDecoder(), 1, 1, 0
    with suppress(json.JSONDecodeError):
        while text.startswith("["):
            _, after = decoder.raw_decode(text, place + _spaces(text, place))
            if text[after : after + 1] != ",":
                break
            place, end, count = after + 1, after, count + 1
    return text[:end] + "]", count


def _spaces(text: str, place: int) -> int:
    return len(text[place : place + 100]) - len(text[place : place + 100].lstrip())


def _told(*texts: str) -> types.CallToolResult:
    content = [types.TextContent(type="text", text=text) for text in texts]
    return types.CallToolResult(content=list(content))


def _failure(text: str) -> types.CallToolResult:
    return _told(text).model_copy(update={"is_error": True})
