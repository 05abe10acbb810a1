"""The API before v2: by other names, the same operations."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from apps.registry import remembered, services
from apps.registry.auth import system_actor
from conductor_site import openapi, v1alpha1
from conductor_site.v1alpha1 import PREFIXES, ROUTES, Route
from tests.world import World, make_world

ALL = [(path, route) for path, routes in ROUTES.items() for route in routes]
SERVED = [(p, r) for p, r in ALL if r.operation in openapi.operations()]


@pytest.fixture
def world(db: None) -> World:
    remembered.forget()
    return make_world()


def client_of(world: World, *permissions: str) -> Client:
    _, secret = services.create_api_key(
        actor=system_actor(world.acme), name="old", permissions=list(permissions)
    )
    return Client(headers={"host": "localhost", "authorization": f"Bearer {secret}"})


@pytest.mark.parametrize(("path", "route"), SERVED, ids=str)
def test_every_value_has_its_place_in_v2(path: str, route: Route) -> None:
    _, place, operation = openapi.operations()[route.operation]

    assert {part.split(":")[1][:-1] for part in path.split("/") if ":" in part} == {
        part[1:-1] for part in place.split("/") if part.startswith("{")
    }
    if route.shape is not None:
        status = next(code for code in operation["responses"] if code[0] == "2")
        schema = next(iter(operation["responses"][status]["content"].values()))[
            "schema"
        ]
        name = schema.get("items", schema)["$ref"].rpartition("/")[2]
        properties = openapi.document()["components"]["schemas"][name]["properties"]
        assert {new for new, _ in route.shape.values()} <= properties.keys()
    known = openapi.body_schema(operation).get("properties", {})
    assert (route.added or {}).keys() <= known.keys()


def test_renamed_values_are_known_to_some_operation() -> None:
    known: set[str] = set()
    for _, route in SERVED:
        operation = openapi.operations()[route.operation][2]
        known |= openapi.body_schema(operation).get("properties", {}).keys()
        known |= {one["name"] for one in operation["parameters"]}

    assert set(v1alpha1.RENAMED.values()) <= known


@pytest.mark.parametrize("prefix", PREFIXES)
def test_applications_by_every_prefix(world: World, prefix: str) -> None:
    client = client_of(world, "application.read")

    response = client.get(f"/{prefix}api/acme/applications")

    assert response.status_code == 200
    (application,) = response.json()
    assert application["application_name"] == "orders"
    assert application["org_id"] == str(world.acme.pk)
    assert application["private_mode"] is False


def test_errors_are_those_of_the_operation(world: World) -> None:
    client = client_of(world, "application.read")
    app = "/conductor/v1alpha1/api/acme/applications/orders"

    def status(method: str, path: str, body: Any = None) -> int:
        response = client.generic(method, path, body or b"", "application/json")
        assert response["Content-Type"] == "application/problem+json"
        return int(response.status_code)

    assert status("GET", "/v1alpha1/api/other/applications") == 404
    assert status("GET", "/v1alpha1/api/acme/applications/absent/executors") == 404
    assert status("POST", f"{app}/workflows/", b"[]") == 400
    assert status("POST", f"{app}/workflows/", b"[" * 100_000) == 400
    assert status("POST", f"{app}/workflows/", b'{"nonsense": 1}') == 422
    assert status("POST", f"{app}/workflows/", b'{"limit": "x"}') == 422
    assert status("GET", f"{app}/workflows/") in (404, 405)
    refused = client.put(f"{app}/workflows/", b"", "application/json")
    assert (refused.status_code, refused["Allow"]) == (405, "POST")
    stranger = Client(headers={"host": "localhost"})
    assert stranger.get("/api/acme/applications").status_code == 401


def test_answer_is_written_by_its_old_names() -> None:
    route = Route("GET", "getWorkflow", v1alpha1.WORKFLOW)
    found = v1alpha1._reshaped(
        route,
        200,
        b'{"workflowId": "w", "createdAt": "2026-01-01T00:00:00.5Z", "priority": 3,'
        b' "error": null, "wasForkedFrom": false, "timeoutMs": 7}',
    )

    assert found.content == (
        b'{"WorkflowUUID": "w", "CreatedAt": "1767225600500", "WorkflowTimeoutMS": "7",'
        b' "Priority": "3", "WasForkedFrom": false}'
    )


def test_body_has_lists_where_v2_wants_them() -> None:
    operation = openapi.operations()["searchWorkflows"][2]

    made = v1alpha1._as_body(operation, {"status": "ERROR", "sortDesc": "true"})

    assert made == {"status": ["ERROR"], "sortDesc": True}
