"""Every order of the HTTP API, carried out by real executors."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import Application, Conductor, needs

pytestmark = [pytest.mark.e2e, pytest.mark.services]

PERMISSIONS = "application.read application.write workflow.import"
ODD = "order/1?#%~ü"
MANY = 1_000
TABLE = "workflow_status"
# A client waits for 30 s.
ANSWER_SECS = 25.0


class Api:
    """The API of one application, whose database tells what came of it."""

    def __init__(self, conductor: Conductor, application: Application) -> None:
        self.application = application
        key = conductor.provision(application.name, permission=PERMISSIONS)
        self.root = f"/v2/orgs/acme/apps/{application.name}"
        self.http = httpx.Client(
            base_url=conductor.urls[-1],
            headers={"Authorization": f"Bearer {key}"},
            timeout=ANSWER_SECS,
        )

    def call(self, method: str, path: str, expect: int, body: Any = None) -> Any:
        """Return what the answer holds."""
        answer = self.http.request(method, f"{self.root}{path}", json=body)
        assert answer.status_code == expect, f"{method} {path}: {answer.text}"
        if expect >= 400:
            assert answer.headers["Content-Type"] == "application/problem+json"
        return answer.json() if answer.content else None

    def order(self, workflow_id: str, verb: str, expect: int, body: Any = None) -> Any:
        path = f"/workflows/{quote(workflow_id, safe='')}/{verb}"
        return self.call("POST", path, expect, body)

    def wait_for(self, workflow_id: str, *statuses: str) -> None:
        wait_until(
            f"{workflow_id} is {' or '.join(statuses)}",
            lambda: self.application.database.statuses().get(workflow_id) in statuses,
            secs=45,
            every=0.2,
        )

    def count(self, prefix: str) -> dict[str, int]:
        """How many workflows of a prefix are in each status, without the one that
        holds their queue up."""
        counts: dict[str, int] = {}
        for workflow_id, status in self.application.database.statuses().items():
            if workflow_id.startswith(prefix) and not workflow_id.endswith("-hold"):
                counts[status] = counts.get(status, 0) + 1
        return counts


# Each SDK under one way of running Conductor: its orders do not depend on that.
@pytest.mark.parametrize(
    ("conductor", "sdk"),
    [
        pytest.param("embedded", ("python", "3.2.0"), marks=needs("python")),
        pytest.param("services", ("typescript", "5.2.11"), marks=needs("typescript")),
    ],
    indirect=["conductor"],
    ids=["embedded-python", "services-typescript"],
)
def test_every_order_is_carried_out(
    conductor: Conductor, home: Path, sdk: tuple[str, str]
) -> None:
    names = [f"{name}-{sdk[0]}" for name in ("orders", "archive")]
    conductor.provision(*names)
    orders, archive = (
        Application(conductor, name, *sdk, home, program="scheduled") for name in names
    )
    try:
        with ThreadPoolExecutor(2) as threads:
            process, _ = threads.map(
                lambda one: one.start_connected(), (orders, archive)
            )
        api, others = Api(conductor, orders), Api(conductor, archive)
        wait_until(
            "the schedule is there", lambda: api.call("GET", "/schedules", 200), secs=30
        )
        process.begin(ODD, steps=3, secs=0.01)
        process.begin("long", steps=400, secs=0.1)
        process.begin_failing("failed")
        process.enqueue("many", MANY)
        chooses_versions(api)
        reads_queues(api)
        schedules(api)
        api.wait_for("failed", "ERROR")
        api.wait_for(ODD, "SUCCESS")
        forks_and_rewinds(api)
        moves(api, others)
        cancels_resumes_deletes(api)
        orders_many_about(api)
    finally:
        orders.stop()
        archive.stop()


def chooses_versions(api: Api) -> None:
    assert [v["versionName"] for v in api.call("GET", "/versions", 200)] == ["v1"]
    api.call("PATCH", "/versions/latest", 204, {"versionName": "v1"})
    api.call("PATCH", "/versions/latest", 404, {"versionName": "v9"})


def reads_queues(api: Api) -> None:
    queue = api.call("GET", "/queues/line", 200)
    assert (queue["concurrency"], queue["workerConcurrency"]) == (4, 1)
    assert queue["applicationName"] == api.application.name
    assert queue in api.call("GET", "/queues", 200)
    api.call("GET", f"/queues/{quote(ODD, safe='')}", 404)


def schedules(api: Api) -> None:
    here = "/schedules/nightly"
    schedule = api.call("GET", here, 200)
    assert schedule["cronExpression"] == "0 3 * * *"
    assert schedule["workflowName"] == "tick"
    assert "test" in schedule["context"]
    assert api.call("GET", "/schedules", 200) == [{**schedule, "context": None}]
    assert api.call("GET", "/schedules?loadContext=true", 200) == [schedule]
    assert api.call("GET", "/schedules?status=nonsense", 200) == []
    for verb, status in (("pause", "PAUSED"), ("resume", "ACTIVE")):
        api.call("POST", f"{here}/{verb}", 204)
        assert api.call("GET", here, 200)["status"] == status
        assert len(api.call("GET", f"/schedules?status={status}", 200)) == 1
        api.call("POST", f"/schedules/{quote(ODD, safe='')}/{verb}", 404)
    triggered = api.call("POST", f"{here}/trigger", 201)["workflowId"]
    api.wait_for(triggered, "SUCCESS")
    span = {"startTime": "2026-01-01T00:00:00Z", "endTime": "2026-01-04T00:00:00Z"}
    begun = api.call("POST", f"{here}/backfill", 200, span)["workflowIds"]
    assert len(begun) == 3
    assert api.call("POST", f"{here}/backfill", 200, span)["workflowIds"] == begun
    for workflow_id in begun:
        api.wait_for(workflow_id, "SUCCESS")


def forks_and_rewinds(api: Api) -> None:
    fork = {"newWorkflowId": f"fork of {ODD}", "startStep": 2, "appVersion": "v1"}
    for _ in range(2):
        assert api.order(ODD, "fork", 201, fork) == {"workflowId": f"fork of {ODD}"}
    api.wait_for(f"fork of {ODD}", "SUCCESS")
    api.order(ODD, "fork", 409, {"newWorkflowId": "failed"})
    api.order("nobody", "fork", 404)
    queued = api.order(ODD, "fork", 201, {"queueName": "line"})["workflowId"]
    api.wait_for(queued, "ENQUEUED")

    path = "/workflows/bulk-fork-from-failure"
    body = {"workflowIds": ["failed", ODD], "fromLastStep": True}
    again = api.call("POST", path, 200, body)["workflowIds"]
    api.wait_for(again[0], "ERROR")
    api.wait_for(again[1], "SUCCESS")
    api.call("POST", path, 404, {**body, "workflowIds": ["failed", "nobody"]})
    assert api.call("POST", path, 400, {"workflowIds": ["failed"]})

    api.order("long", "rewind", 409)
    api.order("nobody", "rewind", 404)
    before = dict(api.application.database.rows("workflow_uuid, updated_at", TABLE))
    api.order(ODD, "rewind", 204)
    api.wait_for(ODD, "SUCCESS")
    after = dict(api.application.database.rows("workflow_uuid, updated_at", TABLE))
    assert after[ODD] > before[ODD]


def moves(api: Api, others: Api) -> None:
    path = f"/workflows/{quote(ODD, safe='')}/export"
    exported = api.call("GET", path, 200)
    text = exported["serializedWorkflow"]
    altered = {"serializedWorkflow": ("B" if text[0] == "A" else "A") + text[1:]}
    others.call("POST", "/workflows/import", 403, altered)
    others.call("POST", "/workflows/import", 201, exported)
    assert others.application.database.statuses()[ODD] == "SUCCESS"
    steps = {step for step in api.application.database.steps() if step[0] == ODD}
    assert steps and steps <= others.application.database.steps()
    refusal = others.call("POST", "/workflows/import", 502, exported)
    assert "Traceback" not in refusal["detail"]
    api.call("GET", "/workflows/nobody/export", 404)


def cancels_resumes_deletes(api: Api) -> None:
    api.order("long", "cancel", 204)
    api.wait_for("long", "CANCELLED")
    api.order("long", "cancel", 204, {"cancelChildren": True})
    # Its process notices at the next step.
    time.sleep(0.5)
    api.order("long", "resume", 204, {"queueName": "line"})
    api.wait_for("long", "ENQUEUED")
    for verb in ("cancel", "resume"):
        api.order(ODD, verb, 204)
        api.order("nobody", verb, 404)
    assert api.application.database.statuses()[ODD] == "SUCCESS"
    here = f"/workflows/{quote(ODD, safe='')}"
    api.call("DELETE", f"{here}?deleteChildren=true", 204)
    api.call("DELETE", here, 404)
    api.call("GET", here, 404)
    assert ODD not in api.application.database.statuses()


def orders_many_about(api: Api) -> None:
    wait_until(
        "all are in the queue",
        lambda: sum(api.count("many-").values()) == MANY,
        secs=60,
    )
    ids = {"workflowIds": [f"many-{number}" for number in range(MANY)]}
    for verb, more, statuses in (
        ("cancel", {}, {"CANCELLED": MANY}),
        ("resume", {"queueName": "line"}, {"ENQUEUED": MANY}),
        ("delete", {}, {}),
    ):
        began = time.monotonic()
        api.call("POST", f"/workflows/bulk-{verb}", 204, {**ids, **more})
        print(f"bulk {verb} of {MANY}: {time.monotonic() - began:.2f} s")
        assert api.count("many-") == statuses


@needs("python")
@pytest.mark.parametrize("conductor", ["embedded"], indirect=True)
def test_old_sdk_says_what_it_lacks(conductor: Conductor, home: Path) -> None:
    conductor.provision("aged")
    application = Application(conductor, "aged", "python", "1.14.0", home)
    try:
        process = application.start_connected()
        api = Api(conductor, application)
        process.begin("short", steps=1, secs=0.01)
        api.wait_for("short", "SUCCESS")
        forked = api.order("short", "fork", 201)["workflowId"]
        api.wait_for(forked, "SUCCESS")
        api.order("short", "cancel", 204)
        for method, path, body in (
            ("GET", "/queues", None),
            ("GET", "/versions", None),
            ("POST", "/schedules/nightly/pause", None),
            ("DELETE", "/workflows/short", None),
            ("POST", "/workflows/short/rewind", None),
            ("GET", "/workflows/short/export", None),
            ("POST", "/workflows/short/fork", {"queueName": "line"}),
        ):
            assert "does not support" in api.call(method, path, 502, body)["detail"]
    finally:
        application.stop()
