"""Autoscaling: never an empty answer, never a wrong zero, and policies that hold."""

from __future__ import annotations

import time
from typing import Any

import pytest

from apps import errors
from apps.executors.protocol import codec
from apps.executors.protocol.rows import QueueRow
from apps.monitoring import scaling
from apps.monitoring.models import AutoscalingPolicy
from apps.monitoring.scaling import Backlog
from apps.registry.models import Application, AuditEntry
from tests.monitoring.conftest import Oracle, api, group, key_of
from tests.world import World

APP = "/v2/orgs/acme/apps/orders"
POLICY = f"{APP}/autoscaling-policy"


def queue(**limits: Any) -> QueueRow:
    return QueueRow.parse({"name": "q1", "worker_concurrency": 4, **limits})


def backlog(depth: dict[str, int], row: QueueRow | None = None, **more: Any) -> Backlog:
    versions = more.get("versions", ("v3", "v2", "v1"))
    return Backlog(row or queue(), versions, depth, 1)


def policy(**values: Any) -> AutoscalingPolicy:
    return AutoscalingPolicy(queue="q1", **values)


def desired(found: list[scaling.Recommendation]) -> dict[str, int]:
    return {one.version: one.desired_executors for one in found}


# --- How many ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "limits", "wanted"),
    [
        (0, {}, 1),
        (1, {}, 1),
        (4, {}, 1),
        (5, {}, 2),
        (400, {}, 100),
        (400, {"concurrency": 10}, 3),
        (4, {"concurrency": 10}, 1),
        (400, {"concurrency": 10, "partition_queue": True}, 100),
        (7, {"worker_concurrency": 1}, 7),
    ],
)
def test_as_many_as_work_on_the_whole_backlog(
    depth: int, limits: dict[str, Any], wanted: int
) -> None:
    found = scaling.recommend(policy(), backlog({"v3": depth}, queue(**limits)))

    assert desired(found) == {"v3": wanted}
    assert [(one.is_latest, one.queue_depth) for one in found] == [(True, depth)]


def test_old_versions_are_there_while_they_have_work_and_are_allowed() -> None:
    work = backlog({"v1": 9, "v2": 0, "unregistered": 5})
    busy = backlog({"v1": 9, "v2": 5})

    assert desired(scaling.recommend(policy(), busy)) == {"v3": 1}
    assert desired(scaling.recommend(policy(max_old_versions=2), work)) == {
        "v3": 1,
        "v1": 3,
    }
    newest = scaling.recommend(policy(max_old_versions=1), busy)
    assert desired(newest) == {"v3": 1, "v2": 2}
    assert [one.is_latest for one in newest] == [True, False]


@pytest.mark.parametrize(("cap", "wanted"), [(None, 3), (2, 2), (0, 0), (9, 3)])
def test_old_versions_are_capped(cap: int | None, wanted: int) -> None:
    rules = policy(max_old_versions=1, max_executors_per_old_version=cap)

    found = scaling.recommend(rules, backlog({"v2": 9, "v3": 40}))

    assert desired(found) == {"v3": 10, "v2": wanted}


@pytest.mark.parametrize("row", [None, queue(worker_concurrency=None)])
def test_without_a_usable_queue_one_of_the_latest_stays(row: QueueRow | None) -> None:
    gone = Backlog(row, ("v3", "v2"), {"v3": 9, "v2": 9}, 1)

    found = scaling.recommend(policy(max_old_versions=5), gone)

    assert desired(found) == {"v3": 1}
    with pytest.raises(errors.ProtocolError):
        scaling.recommend_version(policy(), gone, "v2")


def test_one_version_is_asked_for_by_name() -> None:
    work = backlog({"v3": 9, "v2": 9})

    def ask(version: str) -> int:
        return scaling.recommend_version(policy(), work, version).desired_executors

    assert (ask("latest"), ask("v3"), ask("v2"), ask("v1")) == (3, 3, 3, 0)
    with pytest.raises(errors.NotFound):
        ask("v9")


# --- Operations ----------------------------------------------------------------------


def connect(oracle: Oracle, **replies: Any) -> None:
    def named(sent: dict[str, Any]) -> dict[str, Any]:
        row = {"name": sent["name"], "worker_concurrency": 4}
        rows = {"q1": row, "free": {"name": "free"}}
        return {"output": rows.get(sent["name"])}

    oracle.replies = {
        "get_queue": named,
        "list_application_versions": {
            "output": [{"version_name": "v3"}, {"version_name": "v 2?#%"}]
        },
        "backlog": {
            "output": [
                group({"count": 5}, application_version="v3"),
                group({"count": 1}, application_version=None),
                group({"count": 9}, application_version="v 2?#%"),
            ]
        },
        **replies,
    }


def put(world: World, body: Any, *permissions: str) -> Any:
    key = key_of(world, *(permissions or ("application.write",)))
    return api(key).put(POLICY, body, content_type="application/json")


def read(world: World, path: str = f"{APP}/autoscale") -> Any:
    return api(key_of(world, "application.read")).get(path)


@pytest.mark.parametrize(
    "body",
    [
        {"queue": "q1"},
        {"queue": "q1", "rollout": {}},
        {
            "queue": "q1",
            "rollout": {
                "maxOldApplicationVersions": 3,
                "maxExecutorsForOldApplicationVersions": 0,
            },
        },
    ],
)
def test_a_policy_is_stored_and_echoed(
    world: World, oracle: Oracle, body: dict[str, Any]
) -> None:
    connect(oracle)
    answer = put(world, body)

    assert (answer.status_code, answer.json()) == (200, {"policy": body})
    assert read(world, POLICY).json() == {"policy": body}
    entry = AuditEntry.objects.get(operation="autoscaling_policy.set")
    assert (entry.outcome, entry.target_id) == ("success", "orders")
    assert entry.details["queue"] == "q1"


@pytest.mark.parametrize(
    ("body", "status", "location"),
    [
        ({"queue": "nope"}, 400, "body.queue"),
        ({"queue": "free"}, 400, "body.queue"),
        ({"queue": ""}, 400, None),
        ({"queue": "x" * 300}, 400, None),
        ({"queue": "a\0b"}, 422, "body.queue"),
        ({}, 422, "body.queue"),
        ({"queue": 7}, 422, "body.queue"),
        ({"queue": "q1", "other": 1}, 422, "body.other"),
        (
            {"queue": "q1", "rollout": {"maxOldApplicationVersions": -1}},
            422,
            "body.rollout.maxOldApplicationVersions",
        ),
        (
            {"queue": "q1", "rollout": {"maxOldApplicationVersions": 2**63}},
            422,
            "body.rollout.maxOldApplicationVersions",
        ),
        ([], 422, None),
    ],
)
def test_a_bad_policy_is_refused(
    *, world: World, oracle: Oracle, body: Any, status: int, location: str | None
) -> None:
    connect(oracle)
    answer = put(world, body)

    assert answer.status_code == status
    if location is not None:
        assert answer.json()["errors"][0]["location"] == location
    assert not AutoscalingPolicy.objects.exists()


def test_a_policy_that_nobody_can_check_is_refused(
    world: World, oracle: Oracle
) -> None:
    oracle.is_connected = False
    assert put(world, {"queue": "q1"}).status_code == 503
    assert AuditEntry.objects.latest("pk").outcome == "failure"

    assert put(world, {"queue": "q1"}, "application.read").status_code == 403
    assert AuditEntry.objects.latest("pk").outcome == "denied"


def test_deleting_a_policy_twice_is_harmless(world: World, oracle: Oracle) -> None:
    connect(oracle)
    put(world, {"queue": "q1"})
    client = api(key_of(world, "application.write"))

    for _ in range(2):
        answer = client.delete(POLICY)
        assert (answer.status_code, answer.content) == (204, b"")

    assert read(world, POLICY).status_code == 404
    entries = AuditEntry.objects.filter(operation="autoscaling_policy.delete")
    assert [entry.outcome for entry in entries] == ["success", "success"]


def test_no_policy_is_404_also_while_nobody_is_connected(
    world: World, oracle: Oracle
) -> None:
    oracle.is_connected = False
    for path in (POLICY, f"{APP}/autoscale", f"{APP}/autoscale/versions/latest"):
        assert read(world, path).status_code == 404


def install(world: World, **values: Any) -> None:
    AutoscalingPolicy.objects.create(
        application=world.application, queue="q1", **values
    )


def test_the_answer_has_the_latest_first(world: World, oracle: Oracle) -> None:
    connect(oracle)
    install(world, max_old_versions=1)
    before_ms = time.time_ns() // 1_000_000

    found = read(world).json()

    assert before_ms <= found[0]["observedAt"] <= time.time_ns() // 1_000_000
    assert found == [
        {
            "applicationVersion": "v3",
            "isLatest": True,
            "desiredExecutors": 2,
            "queueName": "q1",
            "queueDepth": 6,
            "observedAt": found[0]["observedAt"],
        },
        {
            "applicationVersion": "v 2?#%",
            "isLatest": False,
            "desiredExecutors": 3,
            "queueName": "q1",
            "queueDepth": 9,
            "observedAt": found[0]["observedAt"],
        },
    ]


def test_a_version_is_found_by_its_encoded_name(world: World, oracle: Oracle) -> None:
    connect(oracle)
    install(world)
    versions = f"{APP}/autoscale/versions"

    assert read(world, f"{versions}/v%202%3F%23%25").json()["desiredExecutors"] == 3
    assert read(world, f"{versions}/latest").json()["applicationVersion"] == "v3"
    assert read(world, f"{versions}/v9").status_code == 404


def test_a_queue_that_is_gone_is_not_named(world: World, oracle: Oracle) -> None:
    connect(oracle, get_queue={"output": None})
    install(world)

    (only,) = read(world).json()

    assert "queueName" not in only
    assert (only["desiredExecutors"], only["queueDepth"]) == (1, 0)


def test_polling_asks_the_executors_once(world: World, oracle: Oracle) -> None:
    connect(oracle)
    install(world)

    assert read(world).json() == read(world).json()
    read(world, f"{APP}/autoscale/versions/latest")

    assert len(oracle.asked) == 3


@pytest.mark.parametrize(
    ("replies", "status"),
    [
        ({"backlog": {"error_message": "no such table"}}, 502),
        ({"list_application_versions": {"output": []}}, 502),
        ({"backlog": {"output": [group(application_version="v3")]}}, 502),
        ({"get_queue": {"error_message": "Unknown message type"}}, 502),
    ],
)
def test_what_cannot_be_computed_is_no_number(
    world: World, oracle: Oracle, replies: dict[str, Any], status: int
) -> None:
    connect(oracle, **replies)
    install(world)

    assert read(world).status_code == status


def test_an_absent_or_old_executor_is_no_number(world: World, oracle: Oracle) -> None:
    connect(oracle)
    install(world)
    oracle.peer = codec.Peer("python", "2.10.0")
    assert read(world).status_code == 502
    oracle.raises = errors.ExecutorTimeout("No answer.")
    assert read(world).status_code == 502
    oracle.is_connected = False
    assert read(world).status_code == 503


def test_strangers_read_nothing(world: World, oracle: Oracle) -> None:
    connect(oracle)
    install(world)
    Application.objects.create(organization=world.acme, name="billing")

    for secret, status in (
        (None, 401),
        (key_of(world, "metric.read"), 403),
        (key_of(world, "application.read", application_names=["billing"]), 403),
    ):
        assert api(secret).get(f"{APP}/autoscale").status_code == status
    assert oracle.asked == []
