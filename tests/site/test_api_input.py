"""What the HTTP API takes: the contract's names and times, and nothing that is near."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from apps.api import Time
from apps.registry.models import Application, Organization
from conductor_site import openapi
from tests.api import Api, make_key

PATH = {"orgName": "acme", "appName": "orders", "tokenName": "k1"}
READ, WRITE, METRICS = "application.read", "application.write", "metric.read"


@pytest.fixture
def api(db: None) -> Api:
    acme = Organization.objects.create(name="acme")
    Application.objects.create(organization=acme, name="orders")
    granted = (READ, WRITE, METRICS, "organization.read")
    return Api(make_key(*granted), base="")


def concrete(path: str) -> str:
    for name, value in PATH.items():
        path = path.replace(f"{{{name}}}", value)
    return path.replace("{", "").replace("}", "")


OPTIONAL_BODIES = [
    (method, concrete(path))
    for method, path, one in openapi.operations().values()
    if "requestBody" in one and not one["requestBody"]["required"]
]
TIMES_IN_QUERIES = [
    (concrete(path), parameter["name"])
    for method, path, one in openapi.operations().values()
    if method == "GET"
    for parameter in one["parameters"]
    if parameter["in"] == "query" and parameter["schema"].get("format") == "date-time"
]
SNAKE_CASE = [
    (method, concrete(path), name)
    for method, path, one in openapi.operations().values()
    if "requestBody" in one
    for name in openapi.body_schema(one).get("properties", {})
    if name.lower() != name
]


def snake_case(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name)


def first_error(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 422, answer.content
    found: dict[str, Any] = answer.json()["errors"][0]
    return found


@pytest.mark.parametrize(("method", "path"), OPTIONAL_BODIES)
def test_body_that_may_be_left_out_is_never_null(
    api: Api, method: str, path: str
) -> None:
    error = first_error(api.client.generic(method, path, "null", "application/json"))

    assert error["location"] == "body"
    assert "no body at all" in error["message"]


@pytest.mark.parametrize(("method", "path", "name"), SNAKE_CASE)
def test_member_is_known_by_its_name_on_the_wire_alone(
    api: Api, method: str, path: str, name: str
) -> None:
    answer = api.send(method, path, {snake_case(name): None})

    assert answer.status_code == 422
    locations = [one["location"] for one in answer.json()["errors"]]
    assert f"body.{snake_case(name)}" in locations


@pytest.mark.parametrize(("path", "name"), TIMES_IN_QUERIES)
def test_time_in_a_query_is_no_number(api: Api, path: str, name: str) -> None:
    for value in ("0.5", "1", "2026-01-31", "2026-01-31T09:30:00"):
        answer = api.client.get(f"{path}?{name}={value}")
        assert answer.status_code == 422
        assert f"query.{name}" in [one["location"] for one in answer.json()["errors"]]


def test_time_in_a_body_is_no_number(api: Api) -> None:
    path = "/v2/orgs/acme/apps/orders/workflows/search"
    for value in (0.5, 0, True, "0.5", "2026-01-31T09:30Z", "2026-01-31 09:30:00Z"):
        error = first_error(api.send("POST", path, {"startTime": value}))
        assert error["location"] == "body.startTime"
        assert "RFC 3339" in error["message"]


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T09:30:00Z",
        "2026-01-31T09:30:00.123456789Z",
        "2026-01-31t09:30:00z",
        "2026-01-31T09:30:00.5+05:30",
    ],
)
def test_time_of_rfc_3339(text: str) -> None:
    assert TypeAdapter(Time).validate_python(text).utcoffset() is not None


@pytest.mark.parametrize(
    "text",
    ["2026-02-30T00:00:00Z", "2026-01-31T24:30:00Z", "٢٠٢٦-01-31T09:30:00Z", ""],
)
def test_time_that_is_none(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Time).validate_python(text)


def test_number_in_a_query_has_its_place_there(api: Api) -> None:
    path = "/v2/orgs/acme/apps/orders/workflows?limit=x"

    assert first_error(api.client.get(path))["location"] == "query.limit"


def test_what_a_query_asks_of_the_domain_has_its_place_there(api: Api) -> None:
    path = "/v2/orgs/acme/apps/orders/workflows?limit=-1"

    answer = api.client.get(path)

    assert answer.status_code in (400, 422)
    assert answer.json()["errors"][0]["location"] == "query.limit"
