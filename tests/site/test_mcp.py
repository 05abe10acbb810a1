"""The MCP endpoint: which tools there are, for whom, and what a call does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from django.test import Client

from apps.api import problem
from apps.registry import remembered, services
from apps.registry.auth import system_actor
from apps.registry.models import Application, AuditEntry
from conductor_site import mcp, openapi
from tests.world import World, make_world

Json = dict[str, Any]


@pytest.fixture
def world(db: None) -> World:
    remembered.forget()
    return make_world()


def make_key(world: World, *permissions: str) -> str:
    actor = system_actor(world.acme)
    _, secret = services.create_api_key(
        actor=actor, name=f"key {permissions}", permissions=list(permissions)
    )
    return secret


def send(
    key: str | None, method: str, params: Json | None = None, *, write: bool = False
) -> Any:
    headers = {"host": "localhost", "accept": "application/json, text/event-stream"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
    url = "/mcp?write=1" if write else "/mcp"
    return Client(headers=headers).post(url, message, "application/json")


def names(key: str, *, write: bool = False) -> set[str]:
    response = send(key, "tools/list", write=write)
    assert response.status_code == 200, response.content
    return {tool["name"] for tool in response.json()["result"]["tools"]}


def call(key: str, name: str, *, write: bool = False, **arguments: Any) -> Json:
    params = {"name": name, "arguments": arguments}
    response = send(key, "tools/call", params, write=write)
    assert response.status_code == 200, response.content
    result: Json = response.json()["result"]
    return result


def text(result: Json) -> str:
    return str(result["content"][0]["text"])


def test_every_operation_is_a_tool_or_left_out_for_a_reason() -> None:
    operations = {
        one["operationId"]
        for path, methods in openapi.document()["paths"].items()
        for one in methods.values()
        if path.startswith("/v2/")
    }

    assert mcp.tools().keys() == operations - mcp.LEFT_OUT.keys()


def test_schemas_of_arguments_are_schemas() -> None:
    for name, one in mcp.tools().items():
        jsonschema.Draft202012Validator.check_schema(one.tool.input_schema)
        assert "#/components" not in json.dumps(one.tool.input_schema), name


def test_reading_and_changing_are_told_apart() -> None:
    document = openapi.document()
    for name, one in mcp.tools().items():
        operation = document["paths"][one.path][one.method.lower()]
        permission = operation["x-permission"]
        if one.reads_only:
            assert permission is None or permission.endswith(".read"), name
        else:
            assert one.method != "GET", name


def test_a_credential_is_needed(world: World) -> None:
    for key in (None, "dbos_nonsense", "nonsense"):
        response = send(key, "tools/list")
        assert response.status_code == 401
        assert response["WWW-Authenticate"].startswith("Bearer")
        assert response["Content-Type"] == "application/problem+json"


def test_other_methods_and_hosts_and_sites_are_refused(world: World) -> None:
    key = make_key(world, "application.read")
    client = Client(headers={"host": "localhost", "authorization": f"Bearer {key}"})

    assert client.get("/mcp").status_code == 405
    assert client.delete("/mcp").status_code == 405
    evil = client.post("/mcp", {}, "application/json", headers={"host": "evil.example"})
    assert evil.status_code == 400
    for headers in (
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
    ):
        refused = client.post("/mcp", {}, "application/json", headers=headers)
        assert refused.status_code == 403


def test_nonsense_is_answered_in_the_words_of_the_protocol(world: World) -> None:
    key = make_key(world, "application.read")
    client = Client(
        headers={
            "host": "localhost",
            "authorization": f"Bearer {key}",
            "accept": "application/json, text/event-stream",
        }
    )

    for body in ("{", "[]", "null", '{"jsonrpc": "1.0"}', '"\\ud800"'):
        response = client.post("/mcp", body, "application/json")
        assert 400 <= response.status_code < 500, body
        assert "error" in response.json(), body


def test_what_is_offered_is_what_the_caller_may(world: World) -> None:
    reads = make_key(world, "application.read")
    writes = make_key(world, "application.read", "application.write")

    assert {"listApps", "getApp"} <= names(reads) == names(writes)
    assert "registerApp" not in names(reads, write=True)
    assert "registerApp" in names(writes, write=True)
    anybody = {"getCurrentUser", "listPermissions"}
    assert names(make_key(world, "websocket.connect")) == anybody


def test_a_call_is_the_operation(world: World) -> None:
    key = make_key(world, "application.read")

    assert [one["name"] for one in json.loads(text(call(key, "listApps")))] == [
        "orders"
    ]
    named = call(key, "getApp", orgName="acme", appName="orders")
    assert json.loads(text(named))["name"] == "orders"


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("getApp", {}, "appName is missing"),
        ("getApp", {"appName": "orders", "x": 1}, "Unknown arguments: x"),
        ("getApp", {"appName": "absent"}, "No such application"),
        ("getApp", {"appName": "../../orgs"}, "breaks its schema"),
        ("getApp", {"appName": "orders", "orgName": "other"}, "No such organization"),
        ("getApp", {"appName": {"a": [1]}}, "breaks its schema"),
        ("registerApp", {"appName": "new"}, "/mcp?write=1"),
        ("nothing", {}, "no such tool"),
        ("createToken", {"tokenName": "x"}, "no such tool"),
    ],
)
def test_what_cannot_be_is_said(
    world: World, name: str, arguments: Json, sentence: str
) -> None:
    result = call(make_key(world, "application.read"), name, **arguments)

    assert result["isError"] is True
    assert sentence in text(result)


def test_a_change_is_made_once_audited_and_says_by_what(world: World) -> None:
    key = make_key(world, "application.write")
    before = AuditEntry.objects.count()

    result = call(key, "registerApp", write=True, appName="billing", privateMode=True)

    assert (result["isError"], text(result)) == (False, "Done.")
    assert Application.objects.get(name="billing").private_mode
    (entry,) = AuditEntry.objects.order_by("pk")[before:]
    assert entry.operation == "application.create"
    assert entry.user_agent.startswith("mcp")


def test_a_change_needs_the_permission(world: World) -> None:
    key = make_key(world, "application.read")

    result = call(key, "registerApp", write=True, appName="billing")

    assert result["isError"] is True
    assert "application.write" in text(result)
    assert not Application.objects.filter(name="billing").exists()


@pytest.mark.parametrize(
    ("cut", "whole", "count"),
    [
        ('[{"a": 1}, {"a": 2}, {"a', '[{"a": 1}, {"a": 2}]', 2),
        ("[12,3", "[12]", 1),
        ("[12", "[]", 0),
        ('{"a": 1}', "]", 0),
    ],
)
def test_a_list_is_cut_between_its_items(cut: str, whole: str, count: int) -> None:
    items, found = mcp._whole_items(cut)

    assert found == count
    assert count == 0 or items == whole


async def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp, "MAX_RESULT_BYTES", 100)
    rows = problem(200)
    rows.content = json.dumps([{"id": n} for n in range(50)]).encode()
    long = problem(200)
    long.content = json.dumps({"a": "x" * 200}).encode()

    some, whole = await mcp._result(rows), await mcp._result(long)

    first, note = (one.text for one in some.content)  # type: ignore[union-attr]
    assert len(json.loads(first)) >= 5 and "Only the first" in note
    assert whole.is_error and "larger than" in whole.content[0].text  # type: ignore[union-attr]
