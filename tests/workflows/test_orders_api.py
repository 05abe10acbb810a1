"""Orders, schedules, queues and versions over the HTTP API, through a real server."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from apps.executors.protocol import messages
from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import Application, AuditEntry, Organization, Permission
from apps.workflows.services.schedules import most_firings
from apps.workflows.services.transfers import signer_of
from tests.api import PROBLEM, make_key
from tests.workflows.conftest import Served
from tests.workflows.executor import ScriptedExecutor, workflow

STATES = ("PENDING", "ENQUEUED", "CANCELLED", "SUCCESS", "ERROR")
ODD = "order/1?#%~ü 日"
ODD_PATH = quote(ODD, safe="")
READ, WRITE = Permission.APPLICATION_READ, Permission.APPLICATION_WRITE
IMPORT = Permission.WORKFLOW_IMPORT


@pytest.fixture
def executor(served: Served) -> ScriptedExecutor:
    rows = [workflow(s.lower(), status=s) for s in STATES]
    made = served.connect(rows=[*rows, workflow(ODD, status="PENDING")])
    made.schedules = {
        name: {
            "schedule_id": "s1",
            "schedule_name": name,
            "workflow_name": "tick",
            "schedule": "*/5 * * * *",
            "status": "ACTIVE",
            "context": "{'n': 1}",
            "last_fired_at": "2026-11-23T15:47:15+00:00",
            "automatic_backfill": False,
        }
        for name in ("nightly", ODD)
    }
    made.queues = {
        name: {
            "name": name,
            "concurrency": 4,
            "worker_concurrency": 2,
            "rate_limit_max": None,
            "polling_interval_sec": 1,
            "partition_concurrency": 3,
        }
        for name in ("fast", ODD)
    }
    made.versions = [
        {
            "version_id": f"id {name}",
            "version_name": name,
            "version_timestamp": 1_795_448_829_000,
            "created_at": 1_795_448_829_000,
        }
        for name in ("v2", "v1")
    ]
    return made


@pytest.fixture
def api(served: Served) -> httpx.Client:
    return served.api(READ, WRITE)


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == PROBLEM, answer.text
    return answer.status_code, answer.json()["detail"]


def audited() -> list[tuple[str, str, str]]:
    return list(
        AuditEntry.objects.filter(subject_type="api_key")
        .order_by("pk")
        .values_list("operation", "outcome", "target_id")
    )


# --- One workflow --------------------------------------------------------------------


def test_cancel_is_done_or_was_not_needed(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    bodies = {"pending": None, "success": {}, ODD: {"cancelChildren": True}}
    for one, body in bodies.items():
        answer = api.post(f"/workflows/{quote(one, safe='')}/cancel", json=body)

        assert (answer.status_code, answer.content) == (204, b"")
        assert executor.workflows[one]["Status"] in ("CANCELLED", "SUCCESS")
        assert audited()[-1] == ("workflow.cancel", "success", one)
    assert len(audited()) == len(bodies)
    assert executor.last("cancel")["cancel_children"] is True


def test_resume_goes_by_the_queue_that_is_named(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    answer = api.post("/workflows/cancelled/resume", json={"queueName": "fast"})

    assert answer.status_code == 204
    assert executor.last("resume")["queue_name"] == "fast"


def test_fork_passes_everything_on_and_says_where(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    body = {
        "startStep": 2,
        "newWorkflowId": f"new {ODD}",
        "appVersion": "v2",
        "queueName": "fast",
        "queuePartitionKey": "p1",
    }

    answer = api.post(f"/workflows/{ODD_PATH}/fork", json=body)

    assert (answer.status_code, answer.json()) == (201, {"workflowId": f"new {ODD}"})
    assert answer.headers["Location"] == (
        f"/v2/orgs/acme/apps/orders/workflows/{quote(f'new {ODD}', safe='')}"
    )
    assert executor.last("fork_workflow")["body"] == {
        "workflow_id": ODD,
        "start_step": 2,
        "new_workflow_id": f"new {ODD}",
        "application_version": "v2",
        "queue_name": "fast",
        "queue_partition_key": "p1",
    }
    again = api.post(f"/workflows/{ODD_PATH}/fork", json=body)
    assert (again.status_code, executor.count("fork_workflow")) == (201, 1)


def test_fork_to_an_id_that_is_taken_is_a_conflict(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    answer = api.post("/workflows/success/fork", json={"newWorkflowId": "pending"})

    assert problem(answer)[0] == 409


SENSELESS_FORKS = [
    ({"startStep": -1}, 400),
    ({"startStep": 2**31}, 422),
    ({"startStep": "2"}, 422),
    ({"newWorkflowId": "nul\0"}, 422),
    ({"newWorkflowId": "\ud800"}, 422),
    ({"newWorkflowId": "x" * 10_001}, 400),
    ({"surprise": 1}, 422),
    ([], 422),
]


def test_fork_that_makes_no_sense_is_refused(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for body, status in SENSELESS_FORKS:
        answer = api.post("/workflows/success/fork", content=json.dumps(body))

        assert problem(answer)[0] == status, body
    assert executor.count("fork_workflow") == 0


def test_deleted_workflow_is_gone(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    answer = api.delete(f"/workflows/{ODD_PATH}", params={"deleteChildren": True})

    assert (answer.status_code, answer.content) == (204, b"")
    assert ODD not in executor.workflows
    assert executor.last("delete")["delete_children"] is True


def test_rewind_does_a_finished_workflow_again(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    answer = api.post(
        "/workflows/error/rewind", json={"startStep": 3, "queueName": "fast"}
    )

    assert answer.status_code == 204
    assert executor.last("rewind_workflow")["body"] == {
        "workflow_id": "error",
        "start_step": 3,
        "queue_name": "fast",
    }
    status, detail = problem(api.post("/workflows/pending/rewind"))
    assert (status, "cancel it first" in detail) == (409, True)
    assert executor.count("rewind_workflow") == 1


ONE = [
    ("POST", "/workflows/{}/cancel"),
    ("POST", "/workflows/{}/resume"),
    ("POST", "/workflows/{}/fork"),
    ("POST", "/workflows/{}/rewind"),
    ("DELETE", "/workflows/{}"),
    ("GET", "/workflows/{}/export"),
]


def test_order_to_nothing_is_not_found(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for method, path in ONE:
        assert problem(api.request(method, path.format("nobody")))[0] == 404, path

    assert [outcome for _, outcome, _ in audited()] == ["failure"] * len(ONE)


def test_order_while_nobody_is_connected_waits_for_nobody(api: httpx.Client) -> None:
    for method, path in ONE:
        answer = api.request(method, path.format("w0"))

        assert problem(answer)[0] == 503, path
        assert answer.headers["Retry-After"]


def test_refusal_is_told_in_the_executors_words(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    executor.refused["cancel"] = "the database is read-only"

    answer = api.post("/workflows/pending/cancel")

    assert problem(answer) == (502, "the database is read-only")


# --- Many workflows ------------------------------------------------------------------


def test_bulk_order_is_one_order(api: httpx.Client, executor: ScriptedExecutor) -> None:
    ids = ["pending", "enqueued", ODD]
    for verb in ("cancel", "resume", "delete"):
        answer = api.post(f"/workflows/bulk-{verb}", json={"workflowIds": ids})

        assert (answer.status_code, answer.content) == (204, b"")
        assert audited()[-1] == (f"workflow.bulk_{verb}", "success", "orders")
    assert len(audited()) == 3
    assert not executor.workflows.keys() & set(ids)


def test_bulk_order_names_what_does_not_exist(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    ids = ["pending", "nobody", "enqueued"]

    answer = api.post("/workflows/bulk-cancel", json={"workflowIds": ids})

    assert problem(answer)[0] == 404
    assert [one["location"] for one in answer.json()["errors"]] == [
        "body.workflowIds[1]"
    ]
    assert executor.workflows["enqueued"]["Status"] == "CANCELLED"


def test_bulk_order_that_is_refused_says_how_far_it_came(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    executor.refused["cancel"] = "the database is read-only"

    answer = api.post(
        "/workflows/bulk-cancel", json={"workflowIds": ["success", "pending"]}
    )

    assert problem(answer) == (
        502,
        "Carried out for 1 of 2 workflows. the database is read-only",
    )


SENSELESS_BULKS: list[tuple[dict[str, Any], int]] = [
    ({"workflowIds": []}, 400),
    ({"workflowIds": [""]}, 400),
    ({"workflowIds": [f"w{n}" for n in range(10_001)]}, 400),
    ({"workflowIds": ["a\0b"]}, 422),
    ({"workflowIds": [1]}, 422),
    ({"workflowIds": "w1"}, 422),
    ({}, 422),
]


def test_bulk_order_of_no_workflows_is_refused(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for verb in ("cancel", "resume", "delete", "fork-from-failure"):
        more = {"fromLastStep": True} if verb == "fork-from-failure" else {}
        for body, status in SENSELESS_BULKS:
            answer = api.post(f"/workflows/bulk-{verb}", json={**body, **more})

            assert problem(answer)[0] == status, (verb, str(body)[:50])


SELECTORS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"fromLastFailure": True}, {"from_last_failure": True}),
    ({"fromLastStep": True, "fromLastFailure": False}, {"from_last_step": True}),
    ({"fromStep": 0}, {"from_step": 0}),
    ({"fromStepName": "pay"}, {"from_step_name": "pay"}),
]


def test_forks_begin_where_one_selector_says(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for selector, told in SELECTORS:
        answer = api.post(
            "/workflows/bulk-fork-from-failure",
            json={"workflowIds": ["error", ODD], "queueName": "fast", **selector},
        )

        assert (answer.status_code, answer.json()) == (
            200,
            {"workflowIds": ["error-again", f"{ODD}-again"]},
        )
        assert executor.last("fork_from_failure")["body"] == {
            "workflow_ids": ["error", ODD],
            "queue_name": "fast",
            **told,
        }


def test_forks_need_exactly_one_selector(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for selector in (
        {},
        {"fromLastFailure": False},
        {"fromStepName": ""},
        {"fromLastFailure": True, "fromStep": 0},
        {"fromStep": -1},
    ):
        body = {"workflowIds": ["error"], **selector}

        answer = api.post("/workflows/bulk-fork-from-failure", json=body)

        assert problem(answer)[0] == 400, selector
    assert executor.count("fork_from_failure") == 0


def test_nothing_is_forked_where_one_is_missing(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    body = {"workflowIds": ["error", "nobody"], "fromLastFailure": True}

    answer = api.post("/workflows/bulk-fork-from-failure", json=body)

    assert problem(answer)[0] == 404
    assert executor.count("fork_from_failure") == 0


def test_what_would_happen_twice_is_never_sent_twice() -> None:
    for request in (
        messages.ForkFromFailure,
        messages.TriggerSchedule,
        messages.BackfillSchedule,
        messages.RewindWorkflow,
        messages.ImportWorkflow,
    ):
        assert not (request.read_only or request.idempotent), request


# --- Export and import ---------------------------------------------------------------


def exported(api: httpx.Client, workflow_id: str) -> str:
    answer = api.get(f"/workflows/{quote(workflow_id, safe='')}/export")
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["serializedWorkflow"]
    return text


def imported(served: Served, text: str, *permissions: str) -> httpx.Response:
    api = served.api(*(permissions or (IMPORT,)))
    return api.post("/workflows/import", json={"serializedWorkflow": text})


def test_what_was_exported_is_imported_as_it_was(
    served: Served, api: httpx.Client, executor: ScriptedExecutor
) -> None:
    text = exported(api, ODD)

    answer = imported(served, text)

    assert (answer.status_code, answer.content) == (201, b"")
    blob = text.partition(":")[0]
    assert executor.imported == [blob]
    assert [(o, r) for o, r, _ in audited()] == [
        ("workflow.export", "success"),
        ("workflow.import", "success"),
    ]
    details = AuditEntry.objects.get(operation="workflow.import").details
    assert details["signed"] is True
    assert details["bytes"] == len(blob)


def test_what_we_did_not_export_is_not_imported(
    served: Served, api: httpx.Client, executor: ScriptedExecutor
) -> None:
    text = exported(api, "success")
    other = Organization.objects.get(name="other")
    for foreign in (
        text.partition(":")[0],
        "A" + text[1:],
        text[:-1],
        text + "=",
        "",
        "gASVIAAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAV0b3VjaJSFlFKULg==",
        signer_of(other).sign("QUJD"),
    ):
        assert problem(imported(served, foreign))[0] == 403, foreign

    assert executor.imported == []
    assert audited()[-1][:2] == ("workflow.import", "denied")


def test_organization_may_allow_what_others_exported(
    served: Served, api: httpx.Client, executor: ScriptedExecutor
) -> None:
    def policy(method: str, *permissions: str, **body: Any) -> httpx.Response:
        url = str(api.base_url).replace("/apps/orders/", "/import-policy")
        return served.api(*permissions).request(method, url, **body)

    allow = {"json": {"allowUnsigned": True}}
    assert policy("PUT", READ, **allow).status_code == 403
    assert policy("PUT", Permission.ORGANIZATION_WRITE, **allow).status_code == 204
    assert policy("GET", Permission.ORGANIZATION_READ).json() == {"allowUnsigned": True}

    assert imported(served, "QUJD").status_code == 201
    assert imported(served, "QUJE:1abc:another-conductors").status_code == 201

    assert executor.imported == ["QUJD", "QUJE"]
    details = AuditEntry.objects.filter(operation="workflow.import").first()
    assert details is not None
    assert details.details["signed"] is False


def test_import_needs_a_permission_of_its_own(
    served: Served, api: httpx.Client, executor: ScriptedExecutor
) -> None:
    text = exported(api, "success")
    others = set(Permission.values) - {IMPORT, Permission.TOKEN_WRITE}

    assert problem(imported(served, text, *others))[0] == 403

    assert audited()[-1][:2] == ("workflow.import", "denied")
    assert executor.imported == []


def test_private_application_gives_and_takes_no_data(
    served: Served, api: httpx.Client, executor: ScriptedExecutor
) -> None:
    text = exported(api, "success")
    Application.objects.filter(name="orders").update(private_mode=True)

    assert problem(api.get("/workflows/success/export"))[0] == 409
    assert problem(imported(served, text))[0] == 409
    assert executor.imported == []


# --- Schedules -----------------------------------------------------------------------


def test_schedules_are_told_whole(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    wanted = {
        "scheduleId": "s1",
        "scheduleName": "nightly",
        "applicationName": None,
        "workflowName": "tick",
        "workflowClass": None,
        "cronExpression": "*/5 * * * *",
        "cronTimezone": None,
        "status": "ACTIVE",
        "context": "{'n': 1}",
        "automaticBackfill": False,
        "lastFiredAt": "2026-11-23T15:47:15Z",
    }

    assert api.get("/schedules/nightly").json() == wanted
    assert api.get(f"/schedules/{ODD_PATH}").json()["scheduleName"] == ODD
    listed = api.get("/schedules").json()
    assert listed[0] == {**wanted, "context": None}
    assert api.get("/schedules?loadContext=true").json()[0] == wanted
    assert api.get("/schedules?status=nonsense").json() == []
    assert problem(api.get("/schedules/nobody"))[0] == 404


def test_private_application_tells_no_context(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    Application.objects.update(private_mode=True)

    assert api.get("/schedules/nightly").json()["context"] is None
    assert api.get("/schedules?loadContext=true").json()[0]["context"] is None
    assert executor.last("list_schedules")["body"]["load_context"] is False


def test_schedule_is_paused_and_resumed(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    path = f"/schedules/{ODD_PATH}"

    for verb, status in (("pause", "PAUSED"), ("resume", "ACTIVE")):
        answer = api.post(f"{path}/{verb}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert api.get(path).json()["status"] == status

    assert audited() == [
        ("schedule.pause", "success", ODD),
        ("schedule.resume", "success", ODD),
    ]


def test_triggered_workflow_is_where_it_says(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    answer = api.post(f"/schedules/{ODD_PATH}/trigger")

    workflow_id = f"sched-{ODD}-now"
    assert (answer.status_code, answer.json()) == (201, {"workflowId": workflow_id})
    assert answer.headers["Location"].endswith(f"/{quote(workflow_id, safe='')}")
    assert executor.count("trigger_schedule") == 1


def test_backfill_tells_what_it_began(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    body = {"startTime": "2026-11-23T12:00:00+02:00", "endTime": "2026-11-23T11:00:00Z"}

    answer = api.post("/schedules/nightly/backfill", json=body)

    began = "sched-2026-11-23T10:00:00.000+00:00"
    assert (answer.status_code, answer.json()) == (200, {"workflowIds": [began]})
    details = AuditEntry.objects.get(operation="schedule.backfill").details
    assert details["workflows"] == 1


SENSELESS_TIMES = [
    ("2026-11-23T12:00:00Z", "2026-11-23T11:00:00Z", 400),
    ("2020-11-23T12:00:00Z", "2026-11-23T11:00:00Z", 400),
    ("0001-01-01T00:00:00+14:00", "2026-11-23T11:00:00Z", 422),
    ("2026-11-23T12:00:00", "2026-11-24T11:00:00Z", 422),
    ("yesterday", "2026-11-24T11:00:00Z", 422),
    (None, "2026-11-24T11:00:00Z", 422),
]


def test_backfill_of_too_much_or_nothing_is_refused(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for start, end, status in SENSELESS_TIMES:
        body = {"startTime": start, "endTime": end}

        answer = api.post("/schedules/nightly/backfill", json=body)

        assert problem(answer)[0] == status, start
    assert executor.count("backfill_schedule") == 0


@pytest.mark.parametrize(
    ("cron", "span", "most"),
    [
        ("* * * * * *", timedelta(seconds=90), 91),
        ("*/5 * * * * *", timedelta(minutes=1), 24),
        ("0 * * * * *", timedelta(hours=1), 61),
        ("* * * * *", timedelta(hours=1), 61),
        ("*/15 * * * *", timedelta(days=7), 676),
        ("0 0 * * *", timedelta(days=365), 366),
        ("0,30 9-17 * * *", timedelta(days=1), 36),
        ("nonsense", timedelta(seconds=9), 10),
    ],
)
def test_firings_are_never_counted_too_low(
    cron: str, span: timedelta, most: int
) -> None:
    assert most_firings(cron, span) == most


def test_order_to_no_schedule_is_not_found(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    for verb in ("pause", "resume", "trigger", "backfill"):
        body = TIMES if verb == "backfill" else None

        answer = api.post(f"/schedules/nobody/{verb}", json=body)

        assert problem(answer)[0] == 404
        assert executor.count(f"{verb}_schedule") == 0
        assert audited()[-1] == (f"schedule.{verb}", "failure", "nobody")


# --- Queues and versions -------------------------------------------------------------


def test_queues_are_told_whole(api: httpx.Client, executor: ScriptedExecutor) -> None:
    wanted = {
        "name": "fast",
        "applicationName": None,
        "concurrency": 4,
        "workerConcurrency": 2,
        "rateLimitMax": None,
        "rateLimitPeriodSecs": None,
        "pollingIntervalSecs": 1.0,
        "priorityEnabled": False,
        "partitionQueue": False,
        "partitionConcurrency": 3,
        "partitionWorkerConcurrency": None,
        "partitionRateLimitMax": None,
        "partitionRateLimitPeriodSecs": None,
    }

    assert api.get("/queues").json()[0] == wanted
    assert api.get("/queues/fast").json() == wanted
    assert api.get(f"/queues/{ODD_PATH}").json()["name"] == ODD
    assert problem(api.get("/queues/nobody"))[0] == 404


def test_nonsense_of_an_executor_is_no_failure_of_ours(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    executor.queues["fast"] = {
        "name": ["odd\0"],
        "concurrency": 2**70,
        "worker_concurrency": 2**40,
        "rate_limit_max": "many",
        "rate_limit_period_sec": float("inf"),
        "polling_interval_sec": float("nan"),
        "priority_enabled": "yes",
    }
    executor.versions.append({"version_name": None, "version_timestamp": "soon"})
    executor.schedules["nightly"] = {"last_fired_at": 12, "context": {}}

    told = api.get("/queues/fast").json()
    assert (told["concurrency"], told["workerConcurrency"]) == (None, None)
    assert (told["rateLimitPeriodSecs"], told["pollingIntervalSecs"]) == (None, 1.0)
    assert len(api.get("/versions").json()) == 2
    assert api.get("/schedules/nightly").json()["lastFiredAt"] is None


def test_workflow_may_be_called_as_an_order_to_many(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    executor.workflows["bulk-cancel"] = workflow("bulk-cancel")

    assert api.delete("/workflows/bulk-cancel").status_code == 204
    answer = api.put("/workflows/bulk-cancel")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "DELETE, GET, POST")


def test_version_is_made_the_latest(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    moment = "2026-11-23T15:47:09Z"
    assert api.get("/versions").json()[0] == {
        "versionId": "id v2",
        "versionName": "v2",
        "versionTimestamp": moment,
        "createdAt": moment,
    }

    answer = api.patch("/versions/latest", json={"versionName": "v1"})

    assert (answer.status_code, answer.content) == (204, b"")
    assert api.get("/versions").json()[0]["versionName"] == "v1"
    entry = AuditEntry.objects.get(operation="application.set_latest_version")
    assert (entry.target_id, entry.details["version_name"]) == ("orders", "v1")


def test_unknown_version_cannot_be_the_latest(
    api: httpx.Client, executor: ScriptedExecutor
) -> None:
    answer = api.patch("/versions/latest", json={"versionName": "v9"})

    assert problem(answer)[0] == 404
    assert executor.count("set_latest_application_version") == 0


# --- Who may, and who can ------------------------------------------------------------

BULK = {"workflowIds": ["pending"]}
TIMES = {"startTime": "2026-11-23T12:00:00Z", "endTime": "2026-11-23T13:00:00Z"}
# method, path, body, permission, status
CALLS = [
    ("POST", "/workflows/pending/cancel", None, WRITE, 204),
    ("POST", "/workflows/pending/resume", None, WRITE, 204),
    ("POST", "/workflows/success/fork", None, WRITE, 201),
    ("POST", "/workflows/success/rewind", None, WRITE, 204),
    ("DELETE", "/workflows/pending", None, WRITE, 204),
    ("GET", "/workflows/pending/export", None, READ, 200),
    ("POST", "/workflows/bulk-cancel", BULK, WRITE, 204),
    ("POST", "/workflows/bulk-resume", BULK, WRITE, 204),
    ("POST", "/workflows/bulk-delete", BULK, WRITE, 204),
    (
        "POST",
        "/workflows/bulk-fork-from-failure",
        {**BULK, "fromLastStep": True},
        WRITE,
        200,
    ),
    ("GET", "/schedules", None, READ, 200),
    ("GET", "/schedules/nightly", None, READ, 200),
    ("POST", "/schedules/nightly/pause", None, WRITE, 204),
    ("POST", "/schedules/nightly/resume", None, WRITE, 204),
    ("POST", "/schedules/nightly/trigger", None, WRITE, 201),
    ("POST", "/schedules/nightly/backfill", TIMES, WRITE, 200),
    ("GET", "/queues", None, READ, 200),
    ("GET", "/queues/fast", None, READ, 200),
    ("GET", "/versions", None, READ, 200),
    ("PATCH", "/versions/latest", {"versionName": "v1"}, WRITE, 204),
]


def test_call_needs_exactly_one_permission(
    served: Served, executor: ScriptedExecutor
) -> None:
    world = served.world
    everything = set(Permission.values) - {Permission.TOKEN_WRITE}
    other = services.create_application(
        actor=system_actor(world.organization), name="other"
    )
    for method, path, body, needed, status in CALLS:
        rows = dict(executor.workflows)
        with_it, without = served.api(needed), served.api(*(everything - {needed}))
        scoped = make_key(needed, applications=[other])
        tries = [
            (without, {}, 403),
            (with_it, {"Authorization": f"Bearer {scoped}"}, 403),
            (with_it, {"Authorization": ""}, 401),
            (with_it, {}, status),
        ]
        for api, headers, expected in tries:
            answer = api.request(method, path, json=body, headers=headers)
            assert answer.status_code == expected, (method, path, answer.text)
        executor.workflows.clear()
        executor.workflows.update(rows)
        executor.workflows["pending"]["Status"] = "PENDING"
        executor.workflows["success"]["Status"] = "SUCCESS"


def test_old_sdk_says_what_it_lacks(served: Served) -> None:
    served.connect(version="1.14.0", rows=[workflow("pending"), workflow("success")])
    api = served.api(READ, WRITE, IMPORT)
    unknown = {path for _, path, *_ in CALLS if "cancel" not in path} - {
        "/workflows/pending/resume",
        "/workflows/bulk-resume",
        "/workflows/success/fork",
    }

    for method, path, body, _, _ in CALLS:
        if path in unknown:
            status, detail = problem(api.request(method, path, json=body))
            assert status == 502, path
            assert "does not support" in detail, path
