"""Who may call what: every operation of the document, as everybody.

What each operation needs is what the document says (`x-permission`). A row gives values
with which the operation succeeds, and what is otherwise than by the rule. An operation
without a row fails.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client

from apps.executors import gateway
from apps.executors.protocol import codec
from apps.executors.protocol.messages import Request
from apps.monitoring.models import AlertingRule
from apps.registry import callers, remembered, services, wrong_tokens
from apps.registry.auth import system_actor
from apps.registry.models import Membership, Organization, Permission, Role
from apps.workflows.services import write_through
from conductor_site import openapi
from tests.workflows.executor import workflow
from tests.world import INVITATION, World, make_world

GOLDEN = Path(__file__).parents[1] / "executors" / "golden" / "python-3.2.0"

# The test client decodes a path; what an id may hold is shown with the real server.
WORKFLOW_ID = "w1"
Json = dict[str, Any]

# --- The columns -------------------------------------------------------------------

NOBODY, UNKNOWN = "nobody", "an unknown key"
STRANGER, STRANGE_KEY = "a person of another organization", "a key of another one"
NEWCOMER = "a person of no organization"
SCOPED = "a key for another application"
KEYS = {f"a key with {p}": p for p in Permission.values if p != Permission.TOKEN_WRITE}
# No key holds it, so a role does.
WRITES_TOKENS = "a person with token.write"
PEOPLE = {
    WRITES_TOKENS: "tom",
    "a person with no permission": "zoe",
    "a person who only reads": "bob",
    "a member": "carol",
    "an admin": "alice",
}
COLUMNS = (
    *(NOBODY, UNKNOWN, STRANGER, STRANGE_KEY, NEWCOMER, SCOPED),
    *(*KEYS, *PEOPLE),
)


@dataclass
class Everybody:
    """The world, and everybody's token with the permissions that it stands for."""

    world: World
    tokens: dict[str, str]
    held: dict[str, frozenset[str]]
    sent: list[Request]


# --- The rows ----------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Values with which an operation succeeds, and statuses that no rule gives."""

    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    otherwise: dict[str, int] = field(default_factory=dict)
    # Answered to a person only: a key has no identity.
    is_personal: bool = False


IDS = {"workflowIds": [WORKFLOW_ID]}
WINDOW = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-01T01:00:00Z"}
ROWS: dict[str, Row] = {
    # People
    "registerUser": Row(
        body={"name": "new_name"},
        is_personal=True,
        otherwise=dict.fromkeys((STRANGER, *PEOPLE), 409),
    ),
    "getCurrentUser": Row(is_personal=True, otherwise={NEWCOMER: 404}),
    "joinOrg": Row(
        body={"secret": INVITATION},
        is_personal=True,
        otherwise=dict.fromkeys(PEOPLE, 409),
    ),
    # The organization
    "getOrg": Row(),
    "updateOrg": Row(body={"auditLogRetentionDays": 30}),
    "generateSecret": Row(
        # It grants the member's role, which no key holds all of.
        otherwise={SCOPED: 403, "a key with organization.write": 403},
    ),
    "listMembers": Row(),
    "removeMember": Row({"username": "bob"}),
    "grantRole": Row({"username": "bob", "roleName": "nothing"}),
    "listDomainClaims": Row(),
    "requestDomainClaim": Row(body={"domain": "example.com"}),
    "releaseDomainClaim": Row({"domain": "acme.example"}),
    "listRoles": Row(),
    "createRole": Row(body={"name": "auditors", "permissions": []}),
    "deleteRole": Row({"roleName": "unused"}),
    "listAuditLogs": Row(),
    "listPermissions": Row(),
    "listTokens": Row(),
    "createToken": Row(
        {"tokenName": "k2"},
        body={"permissions": ["websocket.connect"]},
        # Nobody grants what they do not hold.
        otherwise={WRITES_TOKENS: 403},
    ),
    "deleteToken": Row({"tokenName": "k1"}),
    "updateToken": Row({"tokenName": "k1"}, body={"newName": "k9"}),
    "getImportPolicy": Row(),
    "setImportPolicy": Row(body={"allowUnsigned": True}),
    "listRejectedConnections": Row(),
    # Applications and executors
    "listApps": Row(),
    "registerApp": Row(),
    "getApp": Row(),
    "updateApp": Row(body={"executorTimeoutSecs": 42}),
    "deleteApp": Row(),
    "listAppVersions": Row(),
    "setLatestAppVersion": Row(body={"versionName": "v1"}),
    "listExecutors": Row(),
    "listRecoveries": Row(),
    "getRecovery": Row(),
    "retryRecovery": Row(),
    # Metrics, alerting and autoscaling
    "listMetrics": Row(query=WINDOW),
    # Which organization, its path does not say.
    "scrapeMetrics": Row(otherwise={NEWCOMER: 400}),
    "listAlertingRules": Row(),
    "createAlertingRule": Row(
        body={
            "ruleType": "WorkflowFailure",
            "ruleMetadata": {"threshold": 1, "period_secs": 60},
        }
    ),
    "deleteAlertingRule": Row(),
    "getAutoscale": Row(),
    "getVersionAutoscale": Row({"version": "latest"}),
    "getAutoscalingPolicy": Row(),
    "setAutoscalingPolicy": Row(body={"queue": "sized"}),
    "deleteAutoscalingPolicy": Row(),
    # Queues and schedules
    "listQueues": Row(),
    "getQueue": Row({"queueName": "any"}),
    "listSchedules": Row(),
    "getSchedule": Row({"scheduleName": "any"}),
    "pauseSchedule": Row({"scheduleName": "any"}),
    "resumeSchedule": Row({"scheduleName": "any"}),
    "triggerSchedule": Row({"scheduleName": "any"}),
    "backfillSchedule": Row({"scheduleName": "any"}, body=WINDOW),
    # Workflows
    "listWorkflows": Row(),
    "searchWorkflows": Row(body={}),
    "getWorkflowAggregates": Row(body={"groupByStatus": True}),
    "getStepAggregates": Row(body={"groupByStatus": True}),
    "getWorkflow": Row(),
    "listWorkflowSteps": Row(),
    "listWorkflowEvents": Row(),
    "listWorkflowNotifications": Row(),
    "listWorkflowStreams": Row(),
    "exportWorkflow": Row(),
    "importWorkflow": Row(body={"serializedWorkflow": "signed"}),
    "cancelWorkflow": Row(body={}),
    "resumeWorkflow": Row(body={}),
    "forkWorkflow": Row(body={"startStep": 1}),
    "rewindWorkflow": Row(body={"startStep": 1}),
    "deleteWorkflow": Row(),
    "bulkCancelWorkflows": Row(body=IDS),
    "bulkResumeWorkflows": Row(body=IDS),
    "bulkDeleteWorkflows": Row(body=IDS),
    "bulkForkWorkflowsFromFailure": Row(body={**IDS, "fromLastFailure": True}),
}
OPERATIONS = openapi.operations()


# --- The rules ---------------------------------------------------------------------


def test_every_operation_has_a_row() -> None:
    assert OPERATIONS.keys() - ROWS.keys() == set(), "give these operations a row"


def expected(name: str, row: Row, column: str, held: frozenset[str]) -> int:
    """The status that the rules give."""
    _, path, operation = OPERATIONS[name]
    success = min(int(code) for code in operation["responses"] if code != "default")
    if column in (NOBODY, UNKNOWN):
        return 401
    if column in row.otherwise:
        return row.otherwise[column]
    if row.is_personal:
        return success if column in (STRANGER, NEWCOMER, *PEOPLE) else 403
    if column in (STRANGER, STRANGE_KEY, NEWCOMER) and "{orgName}" in path:
        return 404
    if column == SCOPED and "{appName}" in path:
        return 403
    if operation["x-permission"] not in (None, *held):
        return 403
    return success


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() & ROWS.keys()))
def test_access(everybody: Everybody, name: str) -> None:
    row = ROWS[name]
    statuses: dict[str, int] = {}
    wanted: dict[str, int] = {}

    for column in COLUMNS:
        wanted[column] = expected(name, row, column, everybody.held[column])
        statuses[column] = _ask(everybody, name, row, column)

    assert statuses == wanted


def _ask(everybody: Everybody, name: str, row: Row, column: str) -> int:
    """Ask as one of them; check that who is refused reached nobody."""
    method, path, _ = OPERATIONS[name]
    world = everybody.world
    known = {
        "orgName": "acme",
        "appName": "orders",
        "workflowId": WORKFLOW_ID,
        "recoveryId": str(world.recovery.pk),
        "ruleId": str(AlertingRule.objects.values_list("pk", flat=True).first()),
        **row.path,
    }
    path = re.sub(r"{(\w+)}", lambda found: quote(known[found[1]], safe=""), path)
    headers = {"host": "localhost"}
    if token := everybody.tokens[column]:
        headers["authorization"] = f"Bearer {token}"
    everybody.sent.clear()
    remembered.forget()
    wrong_tokens.forget()
    with transaction.atomic():
        response = Client(headers=headers).generic(
            method,
            path,
            b"" if row.body is None else json.dumps(row.body).encode(),
            "application/json",
            query_params=row.query,
        )
        transaction.set_rollback(True)
    if response.status_code >= 400:
        assert response["Content-Type"] == "application/problem+json", column
        assert everybody.sent == [], column
    return response.status_code


# --- Everybody ---------------------------------------------------------------------


@pytest.fixture
def everybody(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Everybody]:
    remembered.forget()
    world = make_world()
    tokens, held = _credentials(world)
    users = {
        token: world.users[PEOPLE[c]] for c, token in tokens.items() if c in PEOPLE
    }
    users |= {
        tokens[STRANGER]: world.users["mallory"],
        tokens[NEWCOMER]: world.users["sam"],
    }
    monkeypatch.setattr(callers, "find_user_by_token", users.get)
    monkeypatch.setattr(write_through, "remember", lambda *_: None)
    monkeypatch.setattr(write_through, "forget", lambda *_: None)
    _furnish(world)
    yield Everybody(world, tokens, held, _double_executor(monkeypatch))
    remembered.forget()


def _credentials(world: World) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    acme = system_actor(world.acme)
    other = system_actor(Organization.objects.get(name="other"))
    services.create_application(actor=acme, name="billing")
    all_of_a_key = [p for p in Permission.values if p != Permission.TOKEN_WRITE]

    def key(column: str, permissions: list[str], **more: Any) -> str:
        actor = more.pop("actor", acme)
        _, secret = services.create_api_key(
            actor=actor, name=column, permissions=permissions, **more
        )
        return secret

    tom = world.users["tom"] = User.objects.create_user("tom", "tom@example.com")
    role = Role.objects.create(
        organization=world.acme, name="tokens", permissions=[Permission.TOKEN_WRITE]
    )
    Membership.objects.create(user=tom, organization=world.acme, role=role)
    tokens = {
        NOBODY: "",
        UNKNOWN: f"dbos_{'x' * 8}_{'y' * 43}",
        STRANGER: "token-of-mallory",
        NEWCOMER: "token-of-sam",
        STRANGE_KEY: key(STRANGE_KEY, all_of_a_key, actor=other),
        SCOPED: key(SCOPED, all_of_a_key, application_names=["billing"]),
        **{column: key(column, [p]) for column, p in KEYS.items()},
        **{column: f"token-of-{name}" for column, name in PEOPLE.items()},
    }
    held = dict.fromkeys(COLUMNS, frozenset[str]())
    held[STRANGER] = held[STRANGE_KEY] = held[SCOPED] = frozenset(all_of_a_key)
    held |= {column: frozenset({p}) for column, p in KEYS.items()}
    for column, name in PEOPLE.items():
        held[column] = frozenset(world.membership(name).role.permissions)
    return tokens, held


def _furnish(world: World) -> None:
    """What the rows need to be there."""
    Organization.objects.filter(pk=world.acme.pk).update(allows_unsigned_imports=True)


def _double_executor(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Answer as a recorded executor did; return the list of orders it is given."""
    orders: list[Request] = []

    def answer(_: Any, request: Request, **__: Any) -> gateway.Answer:
        if not request.read_only:
            orders.append(request)
        recorded = json.loads((GOLDEN / f"{request.type}.json").read_text())
        reply = cast("Json", recorded["exchanges"][0]["response"])
        is_gone = any(order.type == "delete" for order in orders)
        row = workflow(WORKFLOW_ID, status="ERROR")
        if request.type == "get_workflow":
            reply["output"] = row
        if request.type == "list_workflows":
            reply["output"] = [] if is_gone else [row]
        if request.type == "get_queue":
            # Only a queue with a limit for each worker can size a fleet.
            reply["output"]["worker_concurrency"] = 1
        by = gateway.Target("x1", "v1", "c1", "i1", codec.Peer("python", "3.2.0"))
        return gateway.Answer(codec.parse_reply(request, json.dumps(reply)), by)

    async def aanswer(*arguments: Any, **more: Any) -> gateway.Answer:
        return answer(*arguments, **more)

    async def aask(*arguments: Any, **more: Any) -> Any:
        return answer(*arguments, **more).reply

    monkeypatch.setattr(gateway, "answer", answer)
    monkeypatch.setattr(gateway, "ask", lambda *a, **m: answer(*a, **m).reply)
    monkeypatch.setattr(gateway, "aanswer", aanswer)
    monkeypatch.setattr(gateway, "aask", aask)
    return orders
