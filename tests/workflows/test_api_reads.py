"""Reading workflows over the API, from an executor that is connected for real."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import Application, Permission
from apps.registry.remembered import forget
from apps.workflows import search
from apps.workflows.api import answers
from apps.workflows.models import WorkflowSnapshot
from tests.workflows.conftest import Served
from tests.workflows.executor import NOON, SECOND, wait_until, workflow

pytestmark = pytest.mark.django_db(transaction=True)

ODD_ID = "order/1?#%~ü ☃"
FULL = workflow(
    "full",
    NOON,
    WorkflowClassName="Shop",
    WorkflowConfigName="eu",
    AuthenticatedUser="ann",
    AssumedRole="buyer",
    AuthenticatedRoles="['buyer']",
    Input="in",
    Output="out",
    Error="err",
    QueueName="fast",
    WorkflowTimeoutMS="5000",
    WorkflowDeadlineEpochMS=str(NOON + SECOND),
    DeduplicationID="d1",
    Priority="7",
    QueuePartitionKey="p1",
    ForkedFrom="old",
    WasForkedFrom=True,
    ParentWorkflowID="parent",
    DequeuedAt=str(NOON),
    DelayUntilEpochMS=str(NOON),
    CompletedAt=str(NOON + 1),
    Attributes='{"a": 1}',
    ScheduleName="nightly",
    ApplicationName="orders",
)
AT_NOON = "2026-09-21T14:13:20Z"
_names = itertools.count()


class Api:
    """The API as a key with a permission uses it."""

    def __init__(self, served: Served, *permissions: str) -> None:
        _, key = services.create_api_key(
            actor=system_actor(served.world.organization),
            name=f"reader{next(_names)}",
            permissions=list(permissions) or [Permission.APPLICATION_READ],
        )
        self.http = httpx.Client(
            base_url=served.base.replace("ws", "http", 1),
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )

    def get(self, rest: str = "", **query: Any) -> Any:
        return self.read("GET", f"/workflows{rest}", params=query)

    def search(self, **body: Any) -> Any:
        return self.read("POST", "/workflows/search", json=body)

    def read(self, method: str, path: str, **more: Any) -> Any:
        answer = self.ask(method, path, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"] == "application/json"
        return answer.json()

    def refused(self, method: str, path: str, **more: Any) -> tuple[int, str]:
        answer = self.ask(method, path, **more)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        return answer.status_code, answer.json().get("detail", "")

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.http.request(method, f"/v2/orgs/acme/apps/orders{path}", **more)


@pytest.fixture
def api(served: Served) -> Api:
    forget()
    return Api(served)


def make_private() -> None:
    Application.objects.update(private_mode=True)
    forget()


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["workflowId"] for one in found]


def test_a_workflow_has_its_thirty_fields(served: Served, api: Api) -> None:
    served.connect(rows=[FULL])

    found = api.get("/full")

    assert found == {
        "workflowId": "full",
        "status": "SUCCESS",
        "workflowName": "work",
        "workflowClass": "Shop",
        "workflowConfig": "eu",
        "applicationName": "orders",
        "appVersion": "v1",
        "executorId": "x1",
        "user": "ann",
        "assumedRole": "buyer",
        "roles": "['buyer']",
        "input": "in",
        "output": "out",
        "error": "err",
        "attributes": '{"a": 1}',
        "queueName": "fast",
        "queuePartitionKey": "p1",
        "priority": 7,
        "deduplicationId": "d1",
        "timeoutMs": 5000,
        "deadline": "2026-09-21T14:13:21Z",
        "delayUntil": AT_NOON,
        "createdAt": AT_NOON,
        "updatedAt": AT_NOON,
        "dequeuedAt": AT_NOON,
        "completedAt": "2026-09-21T14:13:20.001000Z",
        "forkedFrom": "old",
        "wasForkedFrom": True,
        "parentWorkflowId": "parent",
        "scheduleName": "nightly",
    }
    assert len(found) == 30


def test_what_an_executor_does_not_say_is_null(served: Served, api: Api) -> None:
    served.connect(rows=[{"WorkflowUUID": "bare", "CreatedAt": str(NOON)}])

    found = api.get("/bare")

    assert len(found) == 30
    assert found["updatedAt"] == found["createdAt"] == AT_NOON
    assert (found["status"], found["priority"], found["wasForkedFrom"]) == (
        "",
        0,
        False,
    )
    assert found["workflowName"] is found["timeoutMs"] is found["completedAt"] is None


def test_garbage_of_an_executor_is_left_out(served: Served, api: Api) -> None:
    rubbish: dict[str, Any] = {
        "Priority": "9" * 30,
        "WorkflowTimeoutMS": "soon",
        "CompletedAt": 10**30,
        "Attributes": ["no", "text"],
        "WorkflowName": "N\0UL \ud800",
        "WasForkedFrom": "yes",
    }
    executor = served.connect(rows=[workflow("odd", **rubbish)])
    executor.workflows["no-moment"] = workflow("no-moment", CreatedAt="0x")
    executor.workflows["no-moment"]["CreatedAt"] = "yesterday"
    executor._list_workflows = lambda _: {  # type: ignore[method-assign]
        "output": [None, 1, {}, *executor.workflows.values()]
    }

    found, timeless = api.get()

    assert (found["workflowId"], found["wasForkedFrom"]) == ("odd", False)
    assert found["completedAt"] is found["timeoutMs"] is None
    assert "\0" not in found["workflowName"]
    # Before, it was left out of lists, and 502 alone.
    assert timeless["workflowId"] == "no-moment"
    assert timeless["createdAt"] == "1970-01-01T00:00:00Z"
    alone = api.ask("GET", "/workflows/no-moment").json()
    assert alone["createdAt"] == timeless["createdAt"]


def test_lists_carry_payloads_only_if_they_are_asked_for(
    served: Served, api: Api
) -> None:
    # Before 1.8, Python's SDK sends them whatever it is asked.
    served.connect(rows=[FULL], version="1.7")

    (bare,) = api.get()
    (with_input,) = api.get(loadInput="true")
    (full,) = api.search(loadInput=True, loadOutput=True)

    assert (bare["input"], bare["output"], bare["error"]) == (None, None, None)
    assert (with_input["input"], with_input["output"]) == ("in", None)
    assert (full["input"], full["output"], full["error"]) == ("in", "out", "err")


def test_private_mode_withholds_payloads(served: Served, api: Api) -> None:
    executor = served.connect(rows=[FULL], version="1.7")
    executor.steps["full"] = [step(1)]
    executor.events = [{"key": "k", "value": "v"}]
    make_private()

    (listed,) = api.get(loadInput="true", loadOutput="true")
    one = api.get("/full")
    (first,) = api.get("/full/steps")

    for found in (listed, one):
        assert found["input"] is found["output"] is found["error"] is None
    assert (first["stepName"], first["output"], first["error"]) == ("step", None, None)
    for rest in ("/events", "/notifications", "/streams"):
        assert api.get(f"/full{rest}") == []
    assert executor.count("get_workflow_events") == 0
    assert not WorkflowSnapshot.objects.exists()


def test_every_filter_of_a_search_is_told_to_the_executor(
    served: Served, api: Api
) -> None:
    executor = served.connect()
    moment, told = "2026-09-21T16:13:20.5+02:00", "2026-09-21T14:13:20.500+00:00"

    assert (
        api.search(
            workflowIds=["a", "b"],
            # One without letters, which every SDK compares exactly.
            workflowIdPrefix=["1-"],
            workflowName=["n"],
            status=["PENDING"],
            user=["u"],
            appVersion=["v1", "v2"],
            executorId=["x"],
            queueName=["q"],
            queuesOnly=True,
            scheduleName=["s"],
            forkedFrom=["f"],
            wasForkedFrom=False,
            parentWorkflowId=["p"],
            hasParent=False,
            attributes={"a": {"b": [1, None]}},
            startTime=moment,
            endTime=moment,
            completedAfter=moment,
            completedBefore=moment,
            dequeuedAfter=moment,
            dequeuedBefore=moment,
            limit=3,
            offset=2,
            sortDesc=True,
            loadInput=True,
        )
        == []
    )

    assert executor.last("list_workflows")["body"] == {
        "workflow_uuids": ["a", "b"],
        "workflow_id_prefix": "1-",
        "workflow_name": "n",
        "status": "PENDING",
        "authenticated_user": "u",
        "application_version": ["v1", "v2"],
        "executor_id": "x",
        "queue_name": "q",
        "queues_only": True,
        "schedule_name": "s",
        "forked_from": "f",
        "was_forked_from": False,
        "parent_workflow_id": "p",
        "has_parent": False,
        "attributes": {"a": {"b": [1, None]}},
        "start_time": told,
        "end_time": told,
        "completed_after": told,
        "completed_before": told,
        "dequeued_after": told,
        "dequeued_before": told,
        # One more on either side, and payloads only of what is on the page.
        "limit": 5,
        "offset": 1,
        "sort_desc": True,
        "load_input": False,
        "load_output": False,
    }


def test_empty_filters_are_none(served: Served, api: Api) -> None:
    served.connect(rows=[workflow("a")])

    assert ids(api.search(workflowIds=[], status=None, attributes={}, limit=0)) == ["a"]
    assert ids(api.read("POST", "/workflows/search")) == ["a"]
    assert ids(api.get(status="", limit="0")) == ["a"]


def test_a_list_is_narrowed_by_its_query(served: Served, api: Api) -> None:
    served.connect(
        rows=[
            workflow("a", NOON, "ERROR"),
            workflow("b", NOON + 1, "ERROR", WorkflowName="other"),
            workflow("c", NOON + 2),
        ]
    )

    assert ids(api.get(status="ERROR")) == ["a", "b"]
    assert ids(api.get(workflowName="work", sortDesc="true")) == ["c", "a"]
    assert ids(api.get(limit="1", offset="1")) == ["b"]


def test_a_long_list_is_streamed_whole_and_its_first_page_kept(
    served: Served, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PAGE", 100)
    executor = served.connect(rows=[workflow(f"w{n}", NOON + n) for n in range(950)])

    answer = api.ask("POST", "/workflows/search", json={"sortDesc": True})

    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert ids(answer.json()) == [f"w{n}" for n in reversed(range(950))]
    # The last two ask for those without a creation time, at either end.
    assert executor.count("list_workflows") == 12
    wait_until(lambda: WorkflowSnapshot.objects.count() == 100)


def test_a_list_that_fails_midway_has_no_end(
    served: Served, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PAGE", 10)
    executor = served.connect(rows=[workflow(f"w{n}", NOON + n) for n in range(30)])
    pages = itertools.count()
    answer_page = executor._list_workflows

    def fail_later(request: dict[str, Any]) -> dict[str, Any]:
        if next(pages) > 0:
            return {"error_message": "the database went away", "output": []}
        return answer_page(request)

    executor._list_workflows = fail_later  # type: ignore[method-assign]
    told = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        api.http.stream("GET", "/v2/orgs/acme/apps/orders/workflows") as answer,
    ):
        assert answer.status_code == 200
        for chunk in answer.iter_raw():
            told += chunk

    assert told.startswith(b'[{"workflowId"')
    assert not told.endswith(b"]")


def test_a_list_that_fails_at_once_is_a_problem(served: Served, api: Api) -> None:
    executor = served.connect()
    executor.refused["list_workflows"] = "no such table"

    assert api.refused("GET", "/workflows") == (502, "no such table")


def test_many_who_ask_the_same_get_one_answer(
    served: Served, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = served.connect(rows=[workflow("a")])
    may_answer, asked = threading.Event(), itertools.count(1)
    shared, list_now = answers.shared, executor._list_workflows
    come = 0

    def come_and_share(*args: Any) -> Any:
        nonlocal come
        come = next(asked)
        return shared(*args)

    def wait_and_list(request: dict[str, Any]) -> dict[str, Any]:
        assert may_answer.wait(20)
        return list_now(request)

    monkeypatch.setattr("apps.workflows.api.reads.shared", come_and_share)
    executor._list_workflows = wait_and_list  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as threads:
        got = [threads.submit(api.get) for _ in range(8)]
        wait_until(lambda: come == 8)
        may_answer.set()

    assert [ids(one.result()) for one in got] == [["a"]] * 8
    assert executor.count("list_workflows") == 1


def step(number: int) -> dict[str, Any]:
    return {
        "function_id": number,
        "function_name": "step",
        "output": "out",
        "error": None,
        "child_workflow_id": "child",
        "started_at_epoch_ms": str(NOON),
        "completed_at_epoch_ms": str(NOON + SECOND),
    }


@pytest.mark.parametrize("version", ["3.2.0", "1.14"])
def test_steps_are_paged_by_every_sdk(
    served: Served, api: Api, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.workflows.api.reads.STEPS_PAGE", 10)
    executor = served.connect(rows=[workflow("a")], version=version)
    executor.steps["a"] = [step(number) for number in range(1, 36)]

    def numbers(**query: str) -> list[int]:
        return [one["stepId"] for one in api.get("/a/steps", **query)]

    assert numbers() == list(range(1, 36))
    assert numbers(limit="25") == list(range(1, 26))
    assert numbers(limit="5", offset="32") == [33, 34, 35]
    assert numbers(offset="100") == []
    assert api.get("/a/steps", limit="1") == [
        {
            "stepId": 1,
            "stepName": "step",
            "output": "out",
            "error": None,
            "childWorkflowId": "child",
            "startedAt": AT_NOON,
            "completedAt": "2026-09-21T14:13:21Z",
        }
    ]


def test_events_notifications_and_streams(served: Served, api: Api) -> None:
    executor = served.connect(rows=[workflow("a")])
    executor.events = [{"key": "k", "value": "v"}, {"key": "none", "value": None}]
    executor._get_workflow_notifications = lambda _: {  # type: ignore[method-assign]
        "notifications": [
            {
                "topic": None,
                "message": "m",
                "created_at_epoch_ms": NOON,
                "consumed": True,
            },
            {"topic": "t", "message": "of no moment"},
        ]
    }
    executor._get_workflow_streams = lambda _: {  # type: ignore[attr-defined]
        "streams": [{"key": "s", "values": ["1", "2"]}]
    }

    assert api.get("/a/events") == [
        {"key": "k", "value": "v"},
        {"key": "none", "value": ""},
    ]
    assert api.get("/a/notifications") == [
        {"topic": None, "message": "m", "createdAt": AT_NOON, "consumed": True}
    ]
    assert api.get("/a/streams") == [{"key": "s", "values": ["1", "2"]}]


def test_ids_hold_any_character(served: Served, api: Api) -> None:
    served.connect(rows=[workflow(ODD_ID), workflow("plain")])

    assert api.get(f"/{quote(ODD_ID, safe='')}")["workflowId"] == ODD_ID
    assert api.get("/%70lain")["workflowId"] == "plain"
    assert api.refused("GET", "/workflows/a%00b")[0] == 404
    assert api.refused("GET", "/workflows/%FF")[0] == 404


def test_what_is_not_there_is_not_found(served: Served, api: Api) -> None:
    executor = served.connect()
    executor._get_workflow_streams = lambda _: {"streams": []}  # type: ignore[attr-defined]

    for rest in ("", "/steps", "/events", "/notifications", "/streams"):
        assert api.refused("GET", f"/workflows/gone{rest}") == (
            404,
            "orders has no workflow with this id.",
        )


def test_what_is_gone_is_no_longer_kept(served: Served, api: Api) -> None:
    executor = served.connect(rows=[workflow("a")])
    api.get("/a")
    wait_until(WorkflowSnapshot.objects.exists)
    executor.workflows.clear()

    assert api.refused("GET", "/workflows/a")[0] == 404
    wait_until(lambda: not WorkflowSnapshot.objects.exists())


ALL = [
    ("GET", "/workflows", None),
    ("POST", "/workflows/search", {}),
    ("GET", "/workflows/a", None),
    ("GET", "/workflows/a/steps", None),
    ("GET", "/workflows/a/events", None),
    ("GET", "/workflows/a/notifications", None),
    ("GET", "/workflows/a/streams", None),
    ("POST", "/workflows/aggregates", {"groupByStatus": True}),
    ("POST", "/steps/aggregates", {"groupByStatus": True}),
]


def test_without_an_executor_nothing_is_answered(served: Served, api: Api) -> None:
    for method, path, body in ALL:
        assert api.refused(method, path, json=body) == (
            503,
            "No executor of orders is connected.",
        ), path


def test_a_key_without_the_permission_reads_nothing(served: Served) -> None:
    served.connect()
    writer = Api(served, Permission.APPLICATION_WRITE)

    for method, path, body in ALL:
        assert writer.refused(method, path, json=body)[0] == 403, path


# --- Aggregates --------------------------------------------------------------------


def answer_groups(*groups: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda _: {"output": list(groups)}


def test_workflows_are_counted_in_groups(served: Served, api: Api) -> None:
    executor = served.connect()
    executor._get_workflow_aggregates = answer_groups(  # type: ignore[attr-defined]
        {
            "group": {"status": "SUCCESS", "queue_name": None, "time_bucket": "0"},
            "count": 3,
            "min_created_at": NOON,
            "max_queue_wait_ms": None,
            "max_total_latency_ms": 70,
        }
    )

    found = api.read(
        "POST",
        "/workflows/aggregates",
        json={
            "groupByStatus": True,
            "groupByQueueName": True,
            "timeBucketSizeMs": 60_000,
            "selectMinCreatedAt": True,
            "workflowIds": ["a"],
            "user": ["u"],
            "hasParent": False,
        },
    )

    assert found == [
        {
            "group": {"status": "SUCCESS", "queue_name": None, "time_bucket": "0"},
            "count": 3,
            "minCreatedAt": AT_NOON,
            "maxTotalLatencyMs": 70,
        }
    ]
    body = executor.last("get_workflow_aggregates")["body"]
    assert body["select_count"] is False
    assert body["workflow_ids"] == body["workflow_uuids"] == ["a"]
    assert body["user"] == body["authenticated_user"] == ["u"]
    assert body["has_parent"] is False


def test_steps_are_counted_in_groups(served: Served, api: Api) -> None:
    executor = served.connect()
    executor._get_step_aggregates = answer_groups(  # type: ignore[attr-defined]
        {"group": {"function_name": "step"}, "count": 2, "max_duration_ms": None}
    )

    found = api.read(
        "POST", "/steps/aggregates", json={"groupByFunctionName": True, "stepName": []}
    )

    assert found == [{"group": {"function_name": "step"}, "count": 2}]
    assert executor.last("get_step_aggregates")["body"]["select_count"] is True


def test_groups_need_something_to_group_by(served: Served, api: Api) -> None:
    served.connect()

    for path in ("/workflows/aggregates", "/steps/aggregates"):
        for body in (None, {}, {"groupByStatus": False}):
            status, detail = api.refused("POST", path, json=body)
            assert (status, detail.split(":")[0]) == (400, "Say what to group by")
        assert api.refused("POST", path, json={"timeBucketSizeMs": 0})[0] == 400


def test_groups_are_never_of_more_than_was_asked(served: Served, api: Api) -> None:
    """An SDK that ignores a filter would count too much, and nobody could tell."""
    executor = served.connect(version="2.20")
    executor._get_workflow_aggregates = answer_groups()  # type: ignore[attr-defined]
    asked = {"groupByStatus": True, "completedAfter": AT_NOON}

    status, detail = api.refused("POST", "/workflows/aggregates", json=asked)

    assert status == 502
    assert "completed_after" in detail
    assert "it came with python 2.23" in detail
    assert api.refused("POST", "/steps/aggregates", json={"groupByStatus": True}) == (
        502,
        "python 2.20 does not support get_step_aggregates: it came with python 2.23.",
    )


# --- Bad input ---------------------------------------------------------------------


BODIES = [
    (b"", 200),
    (b"null", 422),
    (b"{", 400),
    (b"[]", 422),
    (b'{"what": 1}', 422),
    (b'{"limit": "1"}', 422),
    (b'{"limit": 1.5}', 422),
    (b'{"limit": 9223372036854775808}', 422),
    (b'{"limit": 9223372036854775807, "offset": 9223372036854775807}', 200),
    (b'{"limit": -1}', 400),
    (b'{"offset": -1}', 400),
    (b'{"status": "ERROR"}', 422),
    (b'{"status": [null]}', 422),
    (b'{"workflowIds": ["a\\u0000b"]}', 422),
    (b'{"workflowIds": ["\\ud800"]}', 422),
    (b'{"startTime": "yesterday"}', 422),
    (b'{"startTime": "2026-01-01T00:00:00"}', 422),
    (b'{"startTime": "0001-01-01T00:00:00+14:00"}', 422),
    (b'{"attributes": {"a": NaN}}', 422),
    (b'{"attributes": {"a": 1e999}}', 422),
    (b'{"attributes": {"a": "\\u0000"}}', 422),
    (b'{"attributes": {"a": "\\ud800"}}', 422),
]


def test_a_search_says_what_is_wrong_with_it(served: Served, api: Api) -> None:
    served.connect(rows=[])
    headers = {"Content-Type": "application/json"}

    for body, status in BODIES:
        answer = api.ask("POST", "/workflows/search", content=body, headers=headers)

        assert answer.status_code == status, (body, answer.text)
        is_problem = answer.headers["Content-Type"] == "application/problem+json"
        assert is_problem is (status != 200), body


def test_a_filter_of_too_many_values_is_refused(served: Served, api: Api) -> None:
    served.connect()

    answer = api.ask(
        "POST", "/workflows/search", json={"user": [str(n) for n in range(1_001)]}
    )

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["location"] == "body.user"
    assert json.loads(answer.text)["title"] == "Bad Request"
