"""Our document against the public contract of the API, operation by operation.

`conductor-v2.json` holds the facts of the specification that dbosctl is made from
(dbos-ctl, MIT License): paths, parameters, schemas and codes, without its texts. What
it says of `rewindWorkflow` and `updateToken` is younger than the published copies of
that specification: their members are those of the executors' message and of the
release notes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from conductor_site import openapi

Json = dict[str, Any]

CONTRACT: Json = json.loads(
    (Path(__file__).parent / "conductor-v2.json").read_text(encoding="utf-8")
)
OURS = openapi.document()

# What our document has and the contract has not, and why.
ADDED_OPERATIONS: dict[str, str] = {
    "getVersionAutoscale": "of release 0.18: one scaler for each version",
    "scrapeMetrics": "outside of the specification; Prometheus needs no document",
    "getImportPolicy": "whether unsigned workflows may be imported",
    "getRecovery": "the ledger of dead executors, and what took their work over",
    "listRecoveries": "the same",
    "listRejectedConnections": "why an executor cannot connect",
    "retryRecovery": "what the console's button does",
    "setImportPolicy": "whether unsigned workflows may be imported",
}
ADDED_PROPERTIES: dict[str, str] = {
    **{
        f"AuditLogEntry.{name}": "who exactly, and the entry's place in the chain"
        for name in (
            "actorKey",
            "hash",
            "previousHash",
            "requestId",
            "sequence",
            "userAgent",
        )
    },
    "CreateTokenInputBody.expiresAt": "a key may expire",
    "query.database": "which of the databases that work under one name is meant",
    "Executor.database": "two databases may work under one name",
    "Token.expiresAt": "a key may expire",
    **{
        f"Queue.{name}": "limits of each partition, since release 0.20"
        for name in (
            "partitionConcurrency",
            "partitionRateLimitMax",
            "partitionRateLimitPeriodSecs",
            "partitionWorkerConcurrency",
        )
    },
}
# What ours has otherwise, and why. Keys as `_differences` reports them.
DIFFERENT: dict[str, str] = {
    **{
        f"PatchAppInputBody.{name} is ['integer', 'null'], not ['integer']": (
            "a threshold is taken away with null"
        )
        for name in ("gcRowsThreshold", "gcTimeThresholdMs", "globalTimeoutMs")
    },
    **{
        f"path.tokenName.{bound}": "a key's name has 1 to 100 characters"
        for bound in ("minLength", "maxLength")
    },
    **{
        f"RegisterUserInputBody.{name}.maxLength": "a name has its end"
        for name in ("company", "familyName", "givenName")
    },
    **{
        f"UpdateTokenInputBody.newName.{bound}": "a key's name has 1 to 100 characters"
        for bound in ("minLength", "maxLength")
    },
    "path.appName.maxLength": "names have up to 256 characters since release 0.19",
}


def operations(document: Json) -> dict[str, tuple[str, str, Json]]:
    return {
        one["operationId"]: (method.upper(), path, one)
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    }


THEIRS = operations(CONTRACT)
SERVED = operations(OURS)


def test_the_document_is_valid_openapi() -> None:
    validate(OURS)
    validate(openapi.document_3_0())


def test_every_operation_is_served() -> None:
    assert THEIRS.keys() - SERVED.keys() == set()


def test_every_operation_of_ours_is_explained_and_marked() -> None:
    added = SERVED.keys() - THEIRS.keys()

    assert added == ADDED_OPERATIONS.keys()
    for name in added:
        assert SERVED[name][2].get("x-conductor-extension") is True, name


def test_every_operation_says_its_permission() -> None:
    for name, (_, _, one) in SERVED.items():
        assert "x-permission" in one, name


def test_every_operation_is_described() -> None:
    for name, (_, _, one) in SERVED.items():
        assert one.get("description"), f"{name}: its function needs a docstring"


@pytest.mark.parametrize("name", sorted(THEIRS.keys() & SERVED.keys()))
def test_operation_is_as_the_contract_has_it(name: str) -> None:
    method, path, wanted = THEIRS[name]
    our_method, our_path, got = SERVED[name]

    assert (our_method, our_path) == (method, path)
    assert got.get("x-dbos-requires-oauth") == wanted.get("x-dbos-requires-oauth")
    unexplained = [d for d in _operation(wanted, got) if d not in DIFFERENT]
    assert unexplained == []


def _operation(wanted: Json, got: Json) -> list[str]:
    found: list[str] = []
    ours = {(p["in"], p["name"]): p for p in got["parameters"]}
    for one in wanted.get("parameters", []):
        place = f"{one['in']}.{one['name']}"
        mine = ours.pop((one["in"], one["name"]), None)
        if mine is None:
            found.append(f"{place} is missing")
            continue
        if mine.get("required", False) != one.get("required", False):
            found.append(f"{place}.required")
        found += _schema(place, one["schema"], mine["schema"])
    found += [
        f"{where}.{name} is added"
        for where, name in ours
        if f"{where}.{name}" not in ADDED_PROPERTIES
    ]
    found += _body(wanted, got)
    codes = wanted["responses"].keys()
    if codes != got["responses"].keys():
        found.append(f"codes {sorted(codes)} are {sorted(got['responses'])}")
        return found
    for code in codes:
        found += _response(code, wanted["responses"][code], got["responses"][code])
    return found


def _body(wanted: Json, got: Json) -> list[str]:
    theirs, ours = wanted.get("requestBody"), got.get("requestBody")
    if theirs is None or ours is None:
        return [] if theirs is ours else ["the body"]
    found = []
    if theirs.get("required", False) != ours.get("required", False):
        found.append("body.required")
    return found + _schema("body", _content(theirs), _content(ours))


def _response(code: str, wanted: Json, got: Json) -> list[str]:
    found = []
    if wanted.get("headers", {}).keys() != got.get("headers", {}).keys():
        found.append(f"{code}.headers")
    if wanted.get("content", {}).keys() != got.get("content", {}).keys():
        return [*found, f"{code}.content"]
    if "content" in wanted:
        found += _schema(code, _content(wanted), _content(got))
    return found


def _content(holder: Json) -> Json:
    (one,) = holder["content"].values()
    schema: Json = one["schema"]
    return schema


COMPARED = ("enum", "format", "pattern", "minLength", "maxLength", "minimum", "maximum")
# What a format says already.
IMPLIED = {
    "int64": {"minimum": -(2**63), "maximum": 2**63 - 1},
    "int32": {"minimum": -(2**31), "maximum": 2**31 - 1},
}


def _schema(place: str, wanted: Json, got: Json) -> list[str]:
    """Say where two schemas differ. Objects are compared by the schema's name first."""
    wanted_name, got_name = _name(wanted), _name(got)
    found = []
    if wanted_name:
        if wanted_name != got_name:
            return [f"{place} is {got_name or got}, not {wanted_name}"]
        place = wanted_name
    wanted, got = _resolved(CONTRACT, wanted), _resolved(OURS, got)
    if not wanted:  # anything
        return []
    if _types(wanted) != _types(got):
        # `[]` is never null here, and a list that may be null is written as one.
        wanted_types = _types(wanted)
        if not (wanted_types == {"array", "null"} and _types(got) == {"array"}):
            found.append(
                f"{place} is {sorted(_types(got))}, not {sorted(wanted_types)}"
            )
    wanted, got = _without_null(wanted), _without_null(got)
    for key in COMPARED:
        theirs, ours = wanted.get(key), got.get(key)
        if theirs is None and key in IMPLIED.get(got.get("format", ""), {}):
            continue
        if theirs != ours:
            found.append(f"{place}.{key}")
    if "items" in wanted:
        found += _schema(f"{place}[]", wanted["items"], got.get("items", {}))
    if "properties" in wanted:
        found += _properties(place, wanted, got)
    return found


def _properties(place: str, wanted: Json, got: Json) -> list[str]:
    found = []
    theirs, ours = wanted["properties"], dict(got.get("properties", {}))
    for name, one in theirs.items():
        if name not in ours:
            found.append(f"{place}.{name} is missing")
        else:
            found += _schema(f"{place}.{name}", one, ours[name])
    added = ours.keys() - theirs.keys() - {"$schema"}
    found += [
        f"{place}.{name} is added"
        for name in sorted(added)
        if f"{place}.{name}" not in ADDED_PROPERTIES
    ]
    added_by_us = {name for name in added if f"{place}.{name}" in ADDED_PROPERTIES}
    required = set(got.get("required", [])) - added_by_us
    if set(wanted.get("required", [])) != required:
        found.append(f"{place}.required")
    if wanted.get("additionalProperties") != got.get("additionalProperties"):
        found.append(f"{place}.additionalProperties")
    return found


def _name(schema: Json) -> str:
    ref = _without_null(schema).get("$ref", "")
    return str(ref).rpartition("/")[2]


def _resolved(document: Json, schema: Json) -> Json:
    name = _name(schema)
    return document["components"]["schemas"][name] if name else schema


def _types(schema: Json) -> set[str]:
    if "anyOf" in schema:
        return set().union(*(_types(one) for one in schema["anyOf"]))
    kind = schema.get("type", [])
    return {kind} if isinstance(kind, str) else set(kind)


def _without_null(schema: Json) -> Json:
    for one in schema.get("anyOf", []):
        if one != {"type": "null"}:
            return {**schema, **one}
    return schema
