"""What assistants ask through MCP: the stock dbos-mcp package, and our own endpoint.

The first is a real server of its own, spoken to by the official client; before 0.7 it
speaks v1alpha1, then v2.
"""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from benchmarks.stack import wait_until
from tests.e2e.world import ROOT, SDKS, Application, Conductor, Embedded, needs

pytestmark = [pytest.mark.e2e, needs("python")]

STOCK = ("0.6.0", "0.8.0")
PERMISSIONS = ("application.read", "application.write", "organization.read")
ODD_ID = "order/1?#%~ü"

Json = dict[str, Any]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """An application with a schedule, one executor, and workflows that ended."""
    home = tmp_path_factory.mktemp("assistants")
    conductor = Embedded(home)
    application = Application(
        conductor, "orders", "python", "3.2.0", home, program="scheduled"
    )
    try:
        conductor.provision("orders")
        executor = application.start_connected()
        for one in ("w1", "w2", ODD_ID):
            executor.begin(one, steps=2, secs=0)
        executor.begin_failing("failed")
        statuses = application.database.statuses
        wait_until("they end", lambda: _ended(statuses()), secs=30)
        yield application
    finally:
        application.stop()
        conductor.stop()


@pytest.fixture(scope="module")
def conductor(shop: Application) -> Conductor:
    return shop.conductor


def _ended(statuses: dict[str, str]) -> bool:
    return sorted(statuses.values()) == ["ERROR", "SUCCESS", "SUCCESS", "SUCCESS"]


@pytest.fixture(scope="module")
def key(conductor: Conductor) -> str:
    arguments = [part for one in PERMISSIONS for part in ("--permission", one)]
    printed = conductor.manage(
        *("provision", "--org=acme", "--email=admin@example.com", "--password=x"),
        *("--key-name=assistant", "--json", *arguments),
    )
    found: str = json.loads(printed)["key"]
    return found


# --- The stock package ----------------------------------------------------------------


def install(version: str) -> Path:
    """Return the Python that has this dbos-mcp and nothing of ours."""
    home = SDKS / f"dbos-mcp-{version}"
    python = home / "bin" / "python"
    stamp = home / ".installed"
    if not stamp.exists():
        venv.create(home, with_pip=True, clear=True)
        packages = [f"dbos-mcp=={version}"]
        if version.startswith("0.6"):
            # It needs what the second release of the SDK took away, and does not say.
            packages.append("mcp<2")
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, *packages], check=True)
        stamp.touch()
    return python


@asynccontextmanager
async def stock(
    version: str, conductor: Conductor, key: str, home: Path
) -> AsyncIterator[Client]:
    folder = home / ".dbos-mcp"
    folder.mkdir()
    credentials = {"token": key, "organization": "acme", "userName": "a key"}
    (folder / "credentials").write_text(json.dumps(credentials))
    parameters = StdioServerParameters(
        command=str(install(version)),
        args=[str(ROOT / "tests" / "e2e" / "dbos_mcp_server.py")],
        env={
            "HOME": str(home),
            "CONDUCTOR_URL": conductor.urls[0],
            "SELF_HOSTED": "" if version.startswith("0.6") else "1",
        },
    )
    async with Client(stdio_client(parameters), mode="legacy") as client:
        yield client


async def call(client: Client, name: str, **arguments: Any) -> Any:
    result = await client.call_tool(name, arguments)
    text = result.content[0].text if result.content else "null"  # type: ignore[union-attr]
    assert not result.is_error, f"{name}: {text}"
    return json.loads(text)


# What the next test calls.
READ = {
    "list_applications",
    "list_workflows",
    "get_workflow",
    "list_steps",
    "list_executors",
    "get_workflow_aggregates",
    "get_workflow_events",
    "get_workflow_notifications",
}


@pytest.mark.parametrize("version", STOCK)
async def test_the_tools_of_the_stock_package(
    conductor: Conductor, key: str, tmp_path: Path, version: str
) -> None:
    old = version == "0.6.0"
    by_id, name, app_name = (
        ("WorkflowUUID", "WorkflowName", "application_name")
        if old
        else ("workflowId", "workflowName", "name")
    )
    app = {"application_name": "orders"}
    async with stock(version, conductor, key, tmp_path) as client:
        offered = {tool.name for tool in (await client.list_tools()).tools}
        found = await call(client, "list_applications")
        assert [one[app_name] for one in found["applications"]] == ["orders"]
        found = await call(client, "list_workflows", **app, sort_desc=True, limit=10)
        ids = {one[by_id] for one in found["workflows"]}
        assert {"w1", "w2", ODD_ID, "failed"} <= ids
        found = await call(client, "list_workflows", **app, status="ERROR")
        assert [one[by_id] for one in found["workflows"]] == ["failed"]
        found = await call(client, "get_workflow", **app, workflow_id=ODD_ID)
        assert (found[by_id], found[name]) == (ODD_ID, "job")
        found = await call(client, "list_steps", **app, workflow_id=ODD_ID)
        assert found["count"] == 2
        found = await call(client, "list_executors", **app)
        assert found["count"] == 1
        counts = {"group_by_status": True, "select_count": True}
        found = await call(client, "get_workflow_aggregates", **app, **counts)
        assert "ERROR" in json.dumps(found)
        for tool in ("get_workflow_events", "get_workflow_notifications"):
            assert tool in offered
            await call(client, tool, **app, workflow_id="w1")


# Signing in goes to a provider of its own; the tests bring a key.
NOT_CALLED = {"login", "login_complete"}


@pytest.mark.parametrize("version", STOCK)
async def test_every_tool_that_orders(
    shop: Application, key: str, tmp_path: Path, version: str
) -> None:
    name, copy = f"long-{version}", f"copy-{version}"
    app = {"application_name": "orders"}
    nightly = {**app, "schedule_name": "nightly"}
    statuses = shop.database.statuses

    def reaches(*wanted: str) -> None:
        wait_until(
            f"{name} is {wanted}", lambda: statuses().get(name) in wanted, secs=20
        )

    shop.processes[0].begin(name, steps=600, secs=0.1)
    reaches("PENDING")
    async with stock(version, shop.conductor, key, tmp_path) as client:
        offered = {tool.name for tool in (await client.list_tools()).tools}
        called = set()

        async def order(tool: str, **arguments: Any) -> Any:
            called.add(tool)
            return await call(client, tool, **arguments)

        await order("cancel_workflow", **app, workflow_id=name)
        reaches("CANCELLED")
        await order("resume_workflow", **app, workflow_id=name)
        reaches("ENQUEUED", "PENDING")
        await order("bulk_cancel_workflows", **app, workflow_ids=[name])
        reaches("CANCELLED")
        await order("bulk_resume_workflows", **app, workflow_ids=[name])
        reaches("ENQUEUED", "PENDING")
        await order("cancel_workflow", **app, workflow_id=name)
        reaches("CANCELLED")
        fork = {"workflow_id": "w1", "start_step": 1, "new_workflow_id": copy}
        await order("fork_workflow", **app, **fork)
        assert copy in statuses()
        before = set(statuses())
        failed = {"workflow_ids": ["failed"], "from_last_failure": True}
        await order("fork_from_failure", **app, **failed)
        assert len(set(statuses()) - before) == 1
        await order("delete_workflow", **app, workflow_id=name)
        await order("bulk_delete_workflows", **app, workflow_ids=[copy])
        assert not {name, copy} & set(statuses())

        assert (await order("list_schedules", **app))["count"] == 1
        await order("pause_schedule", **nightly)
        assert "PAUSED" in json.dumps(await order("get_schedule", **nightly))
        await order("resume_schedule", **nightly)
        assert "ACTIVE" in json.dumps(await order("get_schedule", **nightly))
        before = set(statuses())
        await order("trigger_schedule", **nightly)
        assert len(set(statuses()) - before) == 1

        assert "v1" in json.dumps(await order("list_application_versions", **app))
        await order("set_latest_application_version", **app, version_name="v1")
    assert called | READ | NOT_CALLED == offered


async def test_the_stock_package_says_what_is_wrong(
    conductor: Conductor, key: str, tmp_path: Path
) -> None:
    async with stock("0.6.0", conductor, key, tmp_path) as client:
        result = await client.call_tool(
            "get_workflow", {"application_name": "orders", "workflow_id": "absent"}
        )
    assert result.is_error
    assert "404" in result.content[0].text  # type: ignore[union-attr]


# --- Our own --------------------------------------------------------------------------


@asynccontextmanager
async def own(
    conductor: Conductor, key: str, mode: str, query: str = ""
) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        url = f"{conductor.urls[0]}/mcp{query}"
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_our_own_tools(conductor: Conductor, key: str, mode: str) -> None:
    async with own(conductor, key, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert all(
            t.annotations and t.annotations.read_only_hint for t in tools.values()
        )
        assert "searchWorkflows" in tools and "registerApp" not in tools
        app = {"appName": "orders"}
        found = await call(client, "listApps")
        assert [(one["name"], one["status"]) for one in found] == [
            ("orders", "AVAILABLE")
        ]
        found = await call(client, "searchWorkflows", **app, status=["ERROR"])
        assert "failed" in {one["workflowId"] for one in found}
        assert {one["status"] for one in found} == {"ERROR"}
        found = await call(client, "getWorkflow", **app, workflowId=ODD_ID)
        assert found["workflowId"] == ODD_ID
        assert len(await call(client, "listWorkflowSteps", **app, workflowId="w1")) == 2
        refused = await client.call_tool("registerApp", {"appName": "new"})
        assert refused.is_error


async def test_our_own_tools_that_change(conductor: Conductor, key: str) -> None:
    async with own(conductor, key, "auto", "?write=1") as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"registerApp", "searchWorkflows"} <= tools
        result = await client.call_tool("registerApp", {"appName": "made-by-mcp"})
        assert not result.is_error
        apps = await call(client, "listApps")
    assert "made-by-mcp" in {one["name"] for one in apps}
