"""Every operation of a running server, called as the documents allow and forbid.

Both documents are played, ours and the official contract; each call is made to an
application with a real executor, to one without, and to whatever the document's schema
made up. `SCHEMATHESIS_EXAMPLES` is how many calls of each kind are made up (default 2).

No answer may be 5xx, but for the two that are documented and not Conductor's own: 503,
which says that no executor is connected, where none is; and 502, which says what the
executor answered, where one is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi import checks

from conductor_site import openapi
from tests.contract.test_openapi import ADDED_PROPERTIES
from tests.e2e.world import Application, Embedded, needs

pytestmark = [pytest.mark.e2e, needs("python")]

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "2"))
CONTRACT = json.loads((Path(__file__).parent / "conductor-v2.json").read_text())
for place in ADDED_PROPERTIES:
    # Ours too, for a reason that stands there.
    name, _, added = place.partition(".")
    if name in CONTRACT["components"]["schemas"]:
        CONTRACT["components"]["schemas"][name]["properties"][added] = {}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "ours": openapi.document(),
    "official": {
        "openapi": "3.1.0",
        "info": {"title": "The official contract", "version": "2.0.0"},
        **CONTRACT,
    },
}
CONNECTED, ALONE = "orders", "lonely"
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
SETTINGS = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def operations() -> list[tuple[str, str]]:
    return [
        (name, operation["operationId"])
        for name, document in DOCUMENTS.items()
        for methods in document["paths"].values()
        for operation in methods.values()
    ]


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    home = tmp_path_factory.mktemp("schemathesis")
    running = Embedded(home)
    application = Application(running, CONNECTED, "python", "3.2.0", home)
    try:
        running.provision(CONNECTED, ALONE)
        executor = application.start_connected()
        executor.begin("w1", steps=2, secs=0)
        executor.begin_failing("w2")
        yield running
    finally:
        application.stop()
        running.stop()


@pytest.fixture(scope="module")
def key(conductor: Embedded) -> str:
    """A key that may all that a key may."""
    printed = conductor.manage(
        *("provision", "--org=acme", "--email=admin@example.com", "--password=x"),
        *("--key-name=everything", "--json"),
        *(part for one in PERMISSIONS for part in ("--permission", one)),
    )
    found: str = json.loads(printed)["key"]
    return found


PERMISSIONS = (
    *("organization.read", "organization.write", "application.read"),
    *("application.write", "metric.read", "token.read", "workflow.import"),
)


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    return {
        name: schemathesis.openapi.from_dict(document)
        for name, document in DOCUMENTS.items()
    }


@pytest.mark.parametrize(("document", "name"), operations())
def test_operation(
    conductor: Embedded, key: str, schemas: dict[str, Any], document: str, name: str
) -> None:
    operation = schemas[document].find_operation_by_id(name)
    headers = {"Authorization": f"Bearer {key}"}

    def call(case: Case, app: str) -> None:
        _aim(case, name, app)
        response = case.call(base_url=conductor.urls[0], headers=headers, timeout=40)
        said = f"{case.method} {response.request.url} {response.status_code}"
        said += f" {response.content[:500]!r} for {case.body!r}"
        assert response.status_code < 500 or _is_excused(response, app), said
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"], (
                said
            )
        if not _is_excused(response, app):
            case.validate_response(response, checks=CHECKS, headers=headers)

    for mode in GenerationMode:
        if mode is GenerationMode.NEGATIVE and not _takes_anything(document, name):
            continue

        @SETTINGS
        @given(case=operation.as_strategy(generation_mode=mode))
        def play(case: Case) -> None:
            for app in ("", ALONE, CONNECTED):
                call(case, app)

        play()


def _takes_anything(document: str, name: str) -> bool:
    """Whether anything of a call of this operation can be wrong."""
    (operation,) = (
        one
        for methods in DOCUMENTS[document]["paths"].values()
        for one in methods.values()
        if one["operationId"] == name
    )
    return bool(operation.get("parameters") or operation.get("requestBody"))


def _aim(case: Case, name: str, app: str) -> None:
    """Call this application of ours, and leave what the other calls need."""
    if app and name != "deleteApp" and "orgName" in case.path_parameters:
        case.path_parameters["orgName"] = "acme"
        if "appName" in case.path_parameters:
            case.path_parameters["appName"] = app
    if isinstance(case.body, dict):
        for kept in ("newName", "privateMode"):
            case.body.pop(kept, None)


def _is_excused(response: Any, app: str) -> bool:
    if response.status_code == 503:
        return app == ALONE and b"executor" in response.content
    return response.status_code == 502 and app == CONNECTED
