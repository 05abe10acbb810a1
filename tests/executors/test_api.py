"""Applications and executors over the HTTP API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from apps.executors.models import Executor
from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import Application, AuditEntry, Permission
from tests.api import Api, make_key
from tests.world import World, make_world

READ, WRITE = Permission.APPLICATION_READ, Permission.APPLICATION_WRITE
THRESHOLDS = ("gcRowsThreshold", "gcTimeThresholdMs", "globalTimeoutMs")


@pytest.fixture
def world(db: Any) -> World:
    return make_world()


@pytest.fixture
def api(world: World) -> Api:
    return Api(make_key(READ, WRITE))


def last_entry() -> tuple[str, str, dict[str, Any]]:
    entry = AuditEntry.objects.latest("pk")
    return entry.operation, entry.outcome, entry.details


def written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def test_application_is_told_whole(api: Api, world: World) -> None:
    Executor.objects.update(language="python")

    assert api.get("/apps/orders") == {
        "id": str(world.application.pk),
        "name": "orders",
        "orgId": str(world.acme.pk),
        "status": "AVAILABLE",
        "dbosCloud": False,
        "language": "python",
        "privateMode": False,
        "executorTimeoutSecs": 60,
        "gcRowsThreshold": None,
        "gcTimeThresholdMs": None,
        "globalTimeoutMs": None,
    }


def test_application_without_a_healthy_executor_is_unavailable(api: Api) -> None:
    Executor.objects.update(state="DISCONNECTED", language="python")

    told = api.get("/apps/orders")

    assert (told["status"], told["language"]) == ("UNAVAILABLE", None)


def test_applications_are_listed_with_few_queries(
    api: Api, world: World, django_assert_max_num_queries: Any
) -> None:
    for number in range(5):
        services.create_application(actor=system_actor(world.acme), name=f"a-{number}")
    api.get("/apps")

    with django_assert_max_num_queries(2):
        told = api.get("/apps")

    assert [one["name"] for one in told][:2] == ["a-0", "a-1"]
    assert told[-1] == api.get("/apps/orders")


@pytest.mark.parametrize("body", [None, {}, {"privateMode": False}])
def test_registering_is_idempotent(api: Api, body: Any) -> None:
    for _ in range(2):
        assert api.status("PUT", "/apps/new-one", body) == 204

    assert Application.objects.filter(name="new-one").count() == 1
    assert api.get("/apps/new-one")["status"] == "UNAVAILABLE"


def test_registering_again_changes_only_what_is_given(api: Api) -> None:
    api.send("PUT", "/apps/orders", {"privateMode": True})
    api.send("PUT", "/apps/orders", {})

    assert api.get("/apps/orders")["privateMode"] is True


@pytest.mark.parametrize(
    "name", ["ab", "UPPER", "with%20space", "a" * 257, "sp%C3%A4t", "a%3Fb"]
)
def test_name_that_no_application_can_have_is_refused(api: Api, name: str) -> None:
    assert api.status("PUT", f"/apps/{name}", {}) == 422


def test_name_of_256_characters_is_taken(api: Api) -> None:
    assert api.status("PUT", f"/apps/{'a' * 256}", {}) == 204


def test_settings_are_changed_and_every_change_is_audited(api: Api) -> None:
    body = {
        "executorTimeoutSecs": 42,
        "privateMode": True,
        "gcRowsThreshold": 1000,
        "gcTimeThresholdMs": 2**40,
        "globalTimeoutMs": 3_600_000,
    }

    assert api.status("PATCH", "/apps/orders", body) == 204

    told = api.get("/apps/orders")
    assert {name: told[name] for name in body} == body
    assert last_entry() == (
        "application.update",
        "success",
        {
            "executor_timeout_secs": 42,
            "private_mode": True,
            "gc_rows_threshold": 1000,
            "gc_time_threshold_ms": 2**40,
            "global_timeout_ms": 3_600_000,
        },
    )


@pytest.mark.parametrize("nothing", [None, 0])
@pytest.mark.parametrize("name", THRESHOLDS)
def test_threshold_is_taken_away(api: Api, name: str, nothing: Any) -> None:
    api.send("PATCH", "/apps/orders", dict.fromkeys(THRESHOLDS, 5))

    assert api.status("PATCH", "/apps/orders", {name: nothing}) == 204

    told = api.get("/apps/orders")
    assert {one: told[one] for one in THRESHOLDS} == {
        **dict.fromkeys(THRESHOLDS, 5),
        name: None,
    }


def test_what_is_not_given_stays(api: Api) -> None:
    before = api.get("/apps/orders")

    assert api.status("PATCH", "/apps/orders", {}) == 204
    assert api.status("PATCH", "/apps/orders", {"executorTimeoutSecs": None}) == 204

    assert api.get("/apps/orders") == before


@pytest.mark.parametrize(
    ("body", "status", "location"),
    [
        ({"executorTimeoutSecs": 0}, 400, "body.executorTimeoutSecs"),
        ({"executorTimeoutSecs": 86_401}, 400, "body.executorTimeoutSecs"),
        ({"gcRowsThreshold": -1}, 400, "body.gcRowsThreshold"),
        ({"globalTimeoutMs": 2**63}, 422, "body.globalTimeoutMs"),
        ({"gcTimeThresholdMs": 1.5}, 422, "body.gcTimeThresholdMs"),
        ({"privateMode": "yes"}, 422, "body.privateMode"),
        ({"surprise": 1}, 422, "body.surprise"),
        ({"\ud800": 1}, 422, "body"),
        ([], 422, "body"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    api: Api, body: Any, status: int, location: str
) -> None:
    answer = api.send("PATCH", "/apps/orders", body)

    assert answer.status_code == status
    assert [one["location"] for one in answer.json()["errors"]] == [location]


@pytest.mark.parametrize("body", ["", "{", "nonsense", b"\xff"])
def test_body_that_is_no_json_is_refused(api: Api, body: Any) -> None:
    assert api.status("PATCH", "/apps/orders", body) in (400, 422)


def test_deleted_application_is_gone(api: Api) -> None:
    assert api.status("DELETE", "/apps/orders") == 204

    assert api.status("GET", "/apps/orders") == 404
    assert api.status("DELETE", "/apps/orders") == 404
    assert last_entry()[:2] == ("application.delete", "success")


def test_executors_are_told_whole(api: Api, world: World) -> None:
    Executor.objects.update(language="go", dbos_version="1.3.0", metadata={"zone": "a"})
    row = Executor.objects.get()

    assert api.get("/apps/orders/executors") == [
        {
            "executorId": "x1",
            "appId": str(world.application.pk),
            "appVersion": "v1",
            "status": "HEALTHY",
            "createdAt": written(row.created_at),
            "updatedAt": written(row.updated_at),
            "hostId": None,
            "hostname": "h1",
            "language": "go",
            "dbosVersion": "1.3.0",
            "executorMetadata": {"zone": "a"},
        }
    ]


@pytest.mark.parametrize("state", list(Executor.State))
def test_executor_is_in_one_of_three_states(api: Api, state: str) -> None:
    Executor.objects.update(state=state)

    assert [e["status"] for e in api.get("/apps/orders/executors")] == [state]


def test_application_without_executors_has_an_empty_list(api: Api) -> None:
    Executor.objects.all().delete()

    assert api.get("/apps/orders/executors") == []


CALLS = [
    ("GET", "/apps/orders", READ),
    ("GET", "/apps/orders/executors", READ),
    ("PUT", "/apps/orders", WRITE),
    ("PATCH", "/apps/orders", WRITE),
    ("DELETE", "/apps/orders", WRITE),
]


@pytest.mark.parametrize(("method", "path", "needed"), CALLS)
def test_call_needs_exactly_one_permission(
    world: World, method: str, path: str, needed: str
) -> None:
    body = {} if method in ("PUT", "PATCH") else None
    others = set(Permission.values) - {needed, Permission.TOKEN_WRITE}

    assert Api("").status(method, path, body) == 401
    assert Api(make_key(*others)).status(method, path, body) == 403
    assert Api(make_key(needed)).status(method, path, body) in (200, 204)


@pytest.mark.parametrize(("method", "path", "needed"), CALLS)
def test_key_for_another_application_is_refused(
    world: World, method: str, path: str, needed: str
) -> None:
    other = services.create_application(actor=system_actor(world.acme), name="other")
    api = Api(make_key(READ, WRITE, applications=[other]))
    body = {} if method in ("PUT", "PATCH") else None

    assert api.status(method, path, body) == 403
    assert [one["name"] for one in api.get("/apps")] == ["other"]
