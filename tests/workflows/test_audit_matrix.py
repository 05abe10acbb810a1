"""Every mutation leaves exactly one entry in the audit log, done or denied. What is
added without a row fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import User

from apps.executors import clock
from apps.executors.models import Recovery
from apps.registry import callers, remembered
from apps.registry.models import AuditEntry, Membership, Role
from conductor_site import openapi, refusals
from tests.architecture.test_access_matrix import CONSOLE
from tests.workflows.conftest import READ_ONLY, Served
from tests.workflows.executor import ScriptedExecutor, workflow

APP = "/apps/orders"
SCHEDULE = f"{APP}/schedules/nightly"
WORKFLOWS = f"{APP}/workflows"
RULE = {
    "ruleType": "WorkflowFailure",
    "ruleMetadata": {"threshold": 3, "periodSecs": 60},
}
TWO = {"workflowIds": ["w2", "w3"]}
DAY = {"startTime": "2026-11-23T00:00:00Z", "endTime": "2026-11-23T00:10:00Z"}

# In the order in which they are done; `{}` of a path is what the one before it made.
ROWS: tuple[tuple[str, str, str, Any], ...] = (
    ("registerApp", "PUT", "/apps/billing", {}),
    ("updateApp", "PATCH", APP, {"executorTimeoutSecs": 42}),
    ("setLatestAppVersion", "PATCH", f"{APP}/versions/latest", {"versionName": "v1"}),
    ("createAlertingRule", "POST", f"{APP}/alerting-rules", RULE),
    ("deleteAlertingRule", "DELETE", f"{APP}/alerting-rules/{{id}}", None),
    ("setAutoscalingPolicy", "PUT", f"{APP}/autoscaling-policy", {"queue": "fast"}),
    ("deleteAutoscalingPolicy", "DELETE", f"{APP}/autoscaling-policy", None),
    ("retryRecovery", "POST", f"{APP}/recoveries/{{recovery}}/retry", None),
    ("pauseSchedule", "POST", f"{SCHEDULE}/pause", None),
    ("resumeSchedule", "POST", f"{SCHEDULE}/resume", None),
    ("triggerSchedule", "POST", f"{SCHEDULE}/trigger", None),
    ("backfillSchedule", "POST", f"{SCHEDULE}/backfill", DAY),
    ("cancelWorkflow", "POST", f"{WORKFLOWS}/w1/cancel", {}),
    ("resumeWorkflow", "POST", f"{WORKFLOWS}/w1/resume", {}),
    ("forkWorkflow", "POST", f"{WORKFLOWS}/w1/fork", {}),
    ("rewindWorkflow", "POST", f"{WORKFLOWS}/failed/rewind", {"startStep": 1}),
    (
        "bulkCancelWorkflows",
        "POST",
        f"{WORKFLOWS}/bulk-cancel",
        TWO,
    ),
    (
        "bulkResumeWorkflows",
        "POST",
        f"{WORKFLOWS}/bulk-resume",
        TWO,
    ),
    (
        "bulkForkWorkflowsFromFailure",
        "POST",
        f"{WORKFLOWS}/bulk-fork-from-failure",
        {"workflowIds": ["failed"], "fromLastFailure": True},
    ),
    ("exportWorkflow", "GET", f"{WORKFLOWS}/w1/export", None),
    ("importWorkflow", "POST", f"{WORKFLOWS}/import", {"serializedWorkflow": "{blob}"}),
    (
        "bulkDeleteWorkflows",
        "POST",
        f"{WORKFLOWS}/bulk-delete",
        TWO,
    ),
    ("deleteWorkflow", "DELETE", f"{WORKFLOWS}/w1", None),
    ("deleteApp", "DELETE", "/apps/billing", None),
    ("createToken", "POST", "/tokens/ci", {"permissions": ["application.read"]}),
    ("updateToken", "PATCH", "/tokens/ci", {"newName": "cd"}),
    ("deleteToken", "DELETE", "/tokens/cd", None),
    ("createRole", "POST", "/roles", {"name": "operators", "permissions": []}),
    ("grantRole", "PUT", "/members/carol/roles/operators", None),
    ("removeMember", "DELETE", "/members/carol", None),
    ("deleteRole", "DELETE", "/roles/operators", None),
    ("generateSecret", "POST", "/secrets", None),
    ("requestDomainClaim", "POST", "/domain-claims", {"domain": "example.org"}),
    ("releaseDomainClaim", "DELETE", "/domain-claims/example.org", None),
    ("setImportPolicy", "PUT", "/import-policy", {"allowUnsigned": True}),
    ("updateOrg", "PATCH", "", {"auditLogRetentionDays": 30}),
)
# POST, but they change nothing.
READS = {"getStepAggregates", "getWorkflowAggregates", "searchWorkflows"}
# Called by who is in no organization yet, or not in this one: what they do is in the
# log of the one that they enter, and a refusal is in nobody's.
ENTERING = {"registerUser", "joinOrg"}
# Read for who may read, and yet audited: what is read leaves the application.
AUDITED_READS = {"exportWorkflow"}
PAGES_OF_NO_ORGANIZATION = {
    "registry:organization_create": "makes the organization, whose log it begins",
    "registry:invitation_accept": "by somebody who is no member yet",
    "registry:device_approve": "in each organization of a person, by its service",
    "registry:device_sign_out": "in each organization of a person, by its service",
}


def test_every_mutation_has_a_row() -> None:
    mutations = {
        one["operationId"]
        for methods in openapi.document()["paths"].values()
        for method, one in methods.items()
        if method != "get"
    }
    rows = {row[0] for row in ROWS} - AUDITED_READS

    assert mutations - READS - ENTERING == rows
    assert rows <= refusals.OPERATIONS.keys()


def test_every_page_that_changes_something_says_what() -> None:
    pages = {row.route for row in CONSOLE if row.method == "POST"}

    named = {name for name in refusals.OPERATIONS if ":" in name}
    assert pages - PAGES_OF_NO_ORGANIZATION.keys() == named


# --- Done ----------------------------------------------------------------------------

Send = Callable[..., httpx.Response]


@pytest.fixture
def send(served: Served, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Calls of the API by people, whose names are their tokens."""
    monkeypatch.setattr(remembered, "REMEMBER_SECS", 0.0)
    monkeypatch.setattr(
        callers,
        "find_user_by_token",
        lambda token: User.objects.filter(username=token).first(),
    )
    base = f"{served.base.replace('ws', 'http', 1)}/v2/orgs/acme"

    def send(name: str, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {name}"}
        return httpx.request(
            method, base + path, headers=headers, json=body, timeout=30
        )

    return send


@pytest.fixture
def names(served: Served) -> dict[str, str]:
    """What paths and bodies name, of which there is one to begin with."""
    carol = User.objects.create_user("carol", "carol@example.com")
    reader = Role.objects.get(name="reader", organization=None)
    organization = served.world.organization
    Membership.objects.create(user=carol, organization=organization, role=reader)
    # Transactional tests empty the tables that migrations filled.
    Role.objects.get_or_create(name=Role.MEMBER, organization=None)
    recovery = Recovery.objects.create(
        application=served.application,
        executor_id="x9",
        application_version="v9",
        dead_at=clock.now(),
        next_try_at=clock.now(),
    )
    return {"recovery": str(recovery.pk), "id": "0", "blob": "none"}


def connect(served: Served) -> ScriptedExecutor:
    executor = served.connect(
        rows=[
            workflow("w1", status="PENDING"),
            workflow("w2", status="PENDING"),
            workflow("w3", status="PENDING"),
            workflow("failed", status="ERROR"),
        ]
    )
    executor.schedules["nightly"] = {
        "schedule_id": "s1",
        "schedule_name": "nightly",
        "workflow_name": "tick",
        "schedule": "*/5 * * * *",
        "status": "ACTIVE",
        "context": "{}",
    }
    executor.queues["fast"] = {"name": "fast", "worker_concurrency": 2}
    executor.versions = [
        {
            "version_id": "1",
            "version_name": "v1",
            "version_timestamp": 1,
            "created_at": 1,
        }
    ]
    return executor


def filled(value: Any, names: dict[str, str]) -> Any:
    text = json.dumps(value)
    for name, one in names.items():
        text = text.replace("{" + name + "}", one)
    return json.loads(text)


def entries() -> list[AuditEntry]:
    return list(AuditEntry.objects.order_by("pk"))


def test_every_mutation_leaves_one_entry(
    served: Served, send: Send, names: dict[str, str]
) -> None:
    connect(served)
    for name, method, path, body in ROWS:
        before = len(entries())

        answer = send("alice", method, filled(path, names), filled(body, names))

        assert answer.is_success, (name, answer.text)
        if answer.content and "id" in answer.json():
            names["id"] = answer.json()["id"]
        if name == "exportWorkflow":
            names["blob"] = answer.json()["serializedWorkflow"]
        (entry,) = entries()[before:]
        operation = refusals.OPERATIONS.get(name, entry.operation)
        assert (entry.operation, entry.outcome) == (operation, "success"), name
        assert entry.subject_display == "alice@example.com", name
        # A secret is for anybody.
        assert bool(entry.target_id) is (name != "generateSecret"), name
        assert entry.request_id == answer.headers["X-Request-Id"], name
        assert entry.user_agent.startswith("python-httpx"), name
        assert entry.source_ip == "127.0.0.1", name


# --- Denied --------------------------------------------------------------------------


def test_every_denied_mutation_leaves_one_entry(
    served: Served, send: Send, names: dict[str, str]
) -> None:
    executor = connect(served)
    asked = len(executor.asked)
    assert set(READ_ONLY) == set(Role.objects.get(name="reader").permissions)
    for name, method, path, body in ROWS:
        if name in AUDITED_READS:
            continue
        before = len(entries())

        answer = send("bob", method, filled(path, names), filled(body, names))

        assert answer.status_code in (403, 404), (name, answer.text)
        (entry,) = entries()[before:]
        outcome = "denied" if answer.status_code == 403 else "failure"
        expected = (refusals.OPERATIONS[name], outcome, "bob@example.com")
        found = (entry.operation, entry.outcome, entry.subject_display)
        assert found == expected, name
        assert entry.details["reason"], name
        assert entry.request_id == answer.headers["X-Request-Id"], name
    assert len(executor.asked) == asked


def test_stranger_and_nobody_leave_nothing(
    served: Served, send: Send, names: dict[str, str]
) -> None:
    before = len(entries())

    for name in ("mallory", "nobody"):
        for _, method, path, body in ROWS:
            answer = send(name, method, filled(path, names), filled(body, names))
            assert answer.status_code in (401, 404, 422)

    assert len(entries()) == before
