"""Applications, executors and recoveries over the HTTP API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from apps.executors import clock
from apps.executors.models import Executor, Recovery
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

    assert last_entry()[:2] == ("application.delete", "success")
    assert api.status("GET", "/apps/orders") == 404
    assert api.status("DELETE", "/apps/orders") == 404


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
            "database": "unknown",
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


# --- Recoveries and refusals ---------------------------------------------------------


def test_recovery_is_told_with_its_attempts(api: Api, world: World) -> None:
    (listed,) = api.get("/apps/orders/recoveries")
    told = api.get(f"/apps/orders/recoveries/{world.recovery.pk}")

    assert {name: told[name] for name in listed} == listed
    assert (told["executorId"], told["appVersion"]) == ("x1", "v1")
    assert (told["state"], told["confirmedAt"]) == ("WAITING", None)
    assert [one["outcome"] for one in told["attempts"]] == ["failed"]


def test_recoveries_are_narrowed_and_paged(api: Api, world: World) -> None:
    Recovery.objects.update(state="CONFIRMED")
    for number in range(3):
        Recovery.objects.create(
            application=world.application,
            executor_id=f"y{number}",
            dead_at=clock.now(),
            next_try_at=clock.now(),
        )

    def ids(query: str) -> list[str]:
        found = api.get(f"/apps/orders/recoveries?{query}")
        return [one["executorId"] for one in found]

    assert ids("") == ["y2", "y1", "y0", "x1"]
    assert ids("state=CONFIRMED") == ["x1"]
    assert ids("executorId=y1") == ["y1"]
    last = api.get("/apps/orders/recoveries?limit=2")[-1]["recoveryId"]
    assert ids(f"limit=2&beforeId={last}") == ["y0", "x1"]


@pytest.mark.parametrize(
    "query", ["state=LOST", "limit=0", "limit=1001", f"beforeId={2**63}", "beforeId=x"]
)
def test_recoveries_are_asked_for_sensibly(api: Api, query: str) -> None:
    assert api.status("GET", f"/apps/orders/recoveries?{query}") == 422


@pytest.mark.parametrize("number", ["0", "x", str(2**63), "-1", "1%2F2"])
def test_recovery_has_a_number(api: Api, number: str) -> None:
    assert api.status("GET", f"/apps/orders/recoveries/{number}") in (404, 422)


def test_recovery_that_waits_is_made_due(api: Api, world: World) -> None:
    path = f"/apps/orders/recoveries/{world.recovery.pk}/retry"
    assert api.status("POST", path) == 204
    assert last_entry()[:2] == ("recovery.retry", "success")

    Recovery.objects.update(state="CONFIRMED")

    assert api.status("POST", path) == 409
    assert api.status("POST", "/apps/orders/recoveries/999/retry") == 404
    assert Api(make_key(READ)).status("POST", path) == 403


def test_recovery_of_another_application_is_not_there(api: Api, world: World) -> None:
    services.create_application(actor=system_actor(world.acme), name="billing")

    path = f"/apps/billing/recoveries/{world.recovery.pk}"
    assert api.status("GET", path) == 404
    assert api.status("POST", f"{path}/retry") == 404


def test_refused_connections_are_told_to_whom_they_concern(
    api: Api, world: World
) -> None:
    (told,) = api.get("/rejected-connections")

    assert (told["appName"], told["status"], told["count"]) == ("orderz", 404, 3)
    assert (told["reason"], told["tokenName"]) == ("unknown_application", None)
    scoped = Api(make_key(READ, applications=[world.application]))
    assert scoped.get("/rejected-connections") == []
    assert Api(make_key(WRITE)).status("GET", "/rejected-connections") == 403


# --- What an organization imports ----------------------------------------------------


def test_unsigned_imports_are_allowed_by_who_may_change_the_organization(
    world: World,
) -> None:
    reads = Api(make_key(Permission.ORGANIZATION_READ))
    writes = Api(make_key(Permission.ORGANIZATION_WRITE))
    assert reads.get("/import-policy") == {"allowUnsigned": False}

    assert reads.status("PUT", "/import-policy", {"allowUnsigned": True}) == 403
    assert last_entry()[:2] == ("organization.update", "denied")
    assert writes.status("PUT", "/import-policy", {"allowUnsigned": "yes"}) == 422
    assert writes.status("PUT", "/import-policy", {}) == 422
    assert writes.status("PUT", "/import-policy", {"allowUnsigned": True}) == 204

    assert reads.get("/import-policy") == {"allowUnsigned": True}
    assert last_entry() == (
        "organization.update",
        "success",
        {"allows_unsigned_imports": True},
    )
    assert writes.status("GET", "/import-policy") == 403
