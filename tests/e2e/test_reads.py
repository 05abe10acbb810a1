"""Reading over the HTTP API what applications of real SDKs did."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import FINAL, TOOLS, Application, Conductor, needs

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.services,
    # Two servers: who is asked does not hold the executor's socket.
    pytest.mark.parametrize("conductor", ["services"], indirect=True),
]

ODD_ID = "order/1?#%~ü"
# Without what its SDK does not know.
OLD = ("python", "1.14.0")
SDKS = [("python", "3.2.0"), OLD, ("typescript", "4.19.8")]


class Reader:
    """An application with work behind it, and the API as a key reads it."""

    def __init__(self, conductor: Conductor, sdk: tuple[str, str], home: Path) -> None:
        self.sdk = sdk
        name = f"reads-{'-'.join(sdk)}".replace(".", "-")
        conductor.provision(name)
        self.application = Application(conductor, name, *sdk, home)
        key = conductor.provision(permission="application.read")
        self.http = httpx.Client(
            base_url=f"{conductor.urls[-1]}/v2/orgs/acme/apps/{name}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )

    def do_its_work(self) -> None:
        process = self.application.start_connected()
        self.executor_id = process.executor_id
        process.begin("short", steps=3, secs=0.01)
        process.begin_failing("failed")
        process.begin(ODD_ID, steps=1, secs=0.01)
        process.begin_talking("talker")

        def is_over() -> bool:
            statuses = self.application.database.statuses()
            return len(statuses) >= 4 and set(statuses.values()) <= FINAL

        wait_until("its work is over", is_over, secs=45, every=0.2)

    def get(self, workflow_id: str, part: str = "", **query: str) -> Any:
        path = f"/workflows/{quote(workflow_id, safe='')}{part}"
        return self._ok(self.http.get(path, params=query))

    def search(self, **body: Any) -> Any:
        return self._ok(self.http.post("/workflows/search", json=body))

    def groups(self, what: str, **body: Any) -> Any:
        return self._ok(self.http.post(f"/{what}/aggregates", json=body))

    def _ok(self, answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()

    def in_its_database(self, columns: str) -> dict[str, Any]:
        rows = self.application.database.rows(
            f"workflow_uuid, {columns}", "workflow_status"
        )
        return {row[0]: row[1] for row in rows}


@pytest.fixture(scope="module")
def readers(
    conductor: Conductor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], tuple[Reader, Future[None]]]]:
    """All of them, at work at the same time."""
    home = tmp_path_factory.mktemp("reads")
    made = [Reader(conductor, sdk, home) for sdk in SDKS if shutil.which(TOOLS[sdk[0]])]
    with ThreadPoolExecutor(len(made)) as threads:
        yield {one.sdk: (one, threads.submit(one.do_its_work)) for one in made}
    for one in made:
        one.application.stop()


@pytest.fixture(
    params=[pytest.param(sdk, marks=needs(sdk[0]), id="-".join(sdk)) for sdk in SDKS]
)
def reader(
    request: pytest.FixtureRequest,
    readers: dict[tuple[str, str], tuple[Reader, Future[None]]],
) -> Reader:
    reader, work = readers[request.param]
    work.result(120)
    return reader


def test_a_workflow_is_as_its_database_has_it(reader: Reader) -> None:
    created_ms = reader.in_its_database("created_at")

    for workflow_id in ("short", ODD_ID):
        found = reader.get(workflow_id)

        assert len(found) == 30
        assert found["workflowId"] == workflow_id
        assert (found["status"], found["workflowName"]) == ("SUCCESS", "job")
        assert (found["appVersion"], found["executorId"]) == ("v1", reader.executor_id)
        assert "steps done" in found["output"]
        assert found["error"] is None
        created_at = datetime.fromisoformat(found["createdAt"])
        assert created_at.tzinfo is not None
        assert round(created_at.timestamp() * 1000) == created_ms[workflow_id]
        assert created_at <= datetime.fromisoformat(found["updatedAt"])
        assert datetime.fromisoformat(found["updatedAt"]) <= datetime.now(UTC)
    assert reader.http.get("/workflows/no%2Fsuch").status_code == 404


def test_a_search_finds_what_its_database_has(reader: Reader) -> None:
    created_ms = reader.in_its_database("created_at")
    everything = sorted(created_ms, key=lambda one: created_ms[one])

    def found(**body: Any) -> list[str]:
        return [one["workflowId"] for one in reader.search(**body)]

    assert sorted(found()) == sorted(everything)
    assert [created_ms[one] for one in found()] == sorted(created_ms.values())
    newest_first = found(sortDesc=True)
    assert [created_ms[one] for one in newest_first] == sorted(
        created_ms.values(), reverse=True
    )
    # Of one moment, any may come first.
    some = found(sortDesc=True, limit=2, offset=1)
    assert [created_ms[one] for one in some] == [
        created_ms[one] for one in newest_first[1:3]
    ]
    assert found(status=["ERROR"]) == ["failed"]
    assert set(found(status=["ERROR", "SUCCESS"])) == set(everything)
    assert found(workflowName=["talk"]) == ["talker"]
    assert found(workflowIds=["short", "failed"], limit=1, offset=2) == []
    assert found(workflowIdPrefix=["order/1?#%"]) == [ODD_ID]
    assert found(workflowIds=[ODD_ID, "no such"]) == [ODD_ID]
    assert found(queueName=["no such"]) == found(queuesOnly=True) == []
    assert set(found(executorId=[reader.executor_id])) == set(everything)
    middle = reader.get(everything[1])["createdAt"]
    assert set(found(startTime=middle)) == {
        one for one in everything if created_ms[one] >= created_ms[everything[1]]
    }
    assert set(found(endTime=middle)) == {
        one for one in everything if created_ms[one] <= created_ms[everything[1]]
    }


def test_payloads_come_where_they_are_asked_for(reader: Reader) -> None:
    (bare,) = reader.search(workflowIds=["failed"])
    (full,) = reader.search(workflowIds=["failed"], loadInput=True, loadOutput=True)

    assert bare["input"] is bare["output"] is bare["error"] is None
    assert full["input"] is not None
    assert "no such luck" in full["error"]


def test_steps_are_as_they_ran(reader: Reader) -> None:
    steps = reader.get("short", "/steps")

    first = 1 if reader.sdk[0] == "python" else 0
    assert [one["stepId"] for one in steps] == [first, first + 1, first + 2]
    assert all("work" in one["stepName"] for one in steps)
    assert [one["output"] for one in steps][1:] == ["1", "2"]
    assert reader.get("short", "/steps", limit="1", offset="1") == steps[1:2]
    assert reader.http.get("/workflows/no-such/steps").status_code == 404


def test_events_notifications_and_streams(reader: Reader) -> None:
    if reader.sdk == OLD:
        for part in ("events", "notifications", "streams"):
            refused = reader.http.get(f"/workflows/talker/{part}")
            assert refused.status_code == 502
            assert "it came with python 2.15" in refused.json()["detail"]
        return
    (event,) = reader.get("talker", "/events")
    (notification,) = reader.get("talker", "/notifications")
    (stream,) = reader.get("talker", "/streams")

    assert event["key"] == "progress"
    assert "half" in event["value"]
    assert (notification["topic"], notification["consumed"]) == ("news", True)
    assert "hello" in notification["message"]
    assert datetime.fromisoformat(notification["createdAt"]) <= datetime.now(UTC)
    assert stream["key"] == "words"
    assert [word.strip("'\"") for word in stream["values"]] == ["one", "two"]
    assert reader.get("short", "/events") == []


def test_groups_are_counted_in_its_database(reader: Reader) -> None:
    if reader.sdk == OLD:
        for what, since in (("workflows", "2.16"), ("steps", "2.23")):
            refused = reader.http.post(
                f"/{what}/aggregates", json={"groupByStatus": True}
            )
            assert refused.status_code == 502
            assert f"it came with python {since}" in refused.json()["detail"]
        return
    by_status = reader.groups("workflows", groupByStatus=True)
    by_name = reader.groups(
        "workflows",
        groupByWorkflowName=True,
        selectMinCreatedAt=True,
        workflowName=["job"],
    )
    steps = reader.groups(
        "steps", groupByFunctionName=True, selectCount=True, selectMaxDurationMs=True
    )

    counted = {one["group"]["status"]: one["count"] for one in by_status}
    assert counted == {"SUCCESS": 3, "ERROR": 1}
    (job,) = by_name
    created_ms = reader.in_its_database("created_at")
    first_ms = min(created_ms["short"], created_ms[ODD_ID])
    assert job["group"] == {"name": "job"}
    assert "count" not in job
    oldest = datetime.fromisoformat(job["minCreatedAt"])
    assert round(oldest.timestamp() * 1000) == first_ms
    (work,) = [one for one in steps if "work" in one["group"]["function_name"]]
    assert work["count"] == 4
    assert work["maxDurationMs"] >= 0


def test_a_filter_that_its_sdk_lacks_is_refused_by_name(reader: Reader) -> None:
    refused = reader.http.post("/workflows/search", json={"attributes": {"a": 1}})

    assert refused.status_code == 502
    if reader.sdk == OLD:
        assert "it came with python 2.25" in refused.json()["detail"]
    elif reader.sdk[0] == "typescript":
        assert "it came with typescript 4.21" in refused.json()["detail"]
