"""The OpenAPI document, made from the operations as they run."""

from __future__ import annotations

import functools
import hashlib
import json
from copy import deepcopy
from typing import Any

import yaml
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import quote_etag
from django.views.decorators.http import require_safe
from ninja import NinjaAPI
from pydantic.json_schema import models_json_schema

from apps import errors
from apps.api import APP, JSON_TYPE, ErrorModel

Document = dict[str, Any]

SECURITY_SCHEMES = {
    "ApiKeyAuth": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `dbos_…`, made in the console or with createToken.",
    },
    "BearerAuth": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A person's token, from the device grant of this Conductor.",
    },
}
_SCHEMA_URL = {
    "description": "A URL to the JSON Schema for this object.",
    "type": "string",
    "format": "uri",
    "readOnly": True,
}
# Paths of the operations that ask an application's executors.
ASKS_EXECUTORS = tuple(
    f"{APP}/{thing}" for thing in ("workflows", "queues", "schedules", "versions")
)
_DATABASE = {
    "name": "database",
    "in": "query",
    "required": False,
    "description": "The label of the database that is meant, where executors of the"
    " application work on several: see listExecutors.",
    "schema": {"type": "string"},
}
_REF = "#/components/schemas/{model}"


@functools.cache
def document() -> Document:
    """The document in OpenAPI 3.1. Shared: copy it before changing it."""
    from conductor_site.api import api

    return build(api)


@functools.cache
def operations() -> dict[str, tuple[str, str, Document]]:
    """Every operation's method, path and description, by its id."""
    return {
        one["operationId"]: (method.upper(), path, one)
        for path, methods in document()["paths"].items()
        for method, one in methods.items()
    }


def body_schema(operation: Document) -> Document:
    """Return the schema of the object that an operation's body is; {} without one."""
    if "requestBody" not in operation:
        return {}
    (content,) = operation["requestBody"]["content"].values()
    name = content["schema"]["$ref"].rpartition("/")[2]
    schema: Document = document()["components"]["schemas"][name]
    return schema


def build(api: NinjaAPI) -> Document:
    made = json.loads(json.dumps(api.get_openapi_schema(path_prefix="")))
    schemas: Document = made["components"]["schemas"]
    _, problems = models_json_schema(
        [(ErrorModel, "serialization")], by_alias=True, ref_template=_REF
    )
    schemas.update(problems["$defs"])
    for schema in schemas.values():
        _finish_schema(schema)
    for path, operations in made["paths"].items():
        for operation in operations.values():
            _finish_operation(operation)
            if path.startswith(ASKS_EXECUTORS):
                operation["parameters"].append(dict(_DATABASE))
    made = _without_titles(made)
    return {
        "openapi": "3.1.0",
        "info": {"title": api.title, "version": api.version},
        "servers": [{"url": "/"}],
        "security": [{name: []} for name in SECURITY_SCHEMES],
        "paths": dict(sorted(made["paths"].items())),
        "components": {
            "schemas": dict(sorted(made["components"]["schemas"].items())),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _finish_schema(schema: Document) -> None:
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
        schema["properties"].setdefault("$schema", dict(_SCHEMA_URL))


def _without_titles(value: Any, *, is_names: bool = False) -> Any:
    """Drop the titles that pydantic makes of names; a property may be called so."""
    if isinstance(value, list):
        return [_without_titles(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_titles(one, is_names=key in ("properties", "schemas"))
        for key, one in value.items()
        if is_names or key != "title"
    }


def _finish_operation(operation: Document) -> None:
    body = operation.get("requestBody")
    if body is not None and not body["required"]:
        # It may be left out; null is nothing that anybody is to send.
        (content,) = body["content"].values()
        others = content["schema"].get("anyOf", [])
        content["schema"] = others[0] if others else content["schema"]
    operation["responses"]["default"] = {
        "description": "A problem",
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/ErrorModel"}
            }
        },
    }
    operation.pop("security", None)


def document_3_0() -> Document:
    """The same in OpenAPI 3.0.3, which knows no list of types and no null."""
    found: Document = _without_3_1(deepcopy(document()))
    found["openapi"] = "3.0.3"
    return found


def _without_3_1(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_3_1(one) for one in value]
    if not isinstance(value, dict):
        return value
    value = {key: _without_3_1(one) for key, one in value.items()}
    if "anyOf" in value and {"type": "null"} in value["anyOf"]:
        others = [one for one in value["anyOf"] if one != {"type": "null"}]
        del value["anyOf"]
        if len(others) == 1 and "$ref" not in others[0]:
            value = {**others[0], **value}
        else:
            # Generators of clients know one reference as `allOf`.
            value["allOf" if len(others) == 1 else "anyOf"] = others
        value["nullable"] = True
    if any("if" in one for one in value.get("allOf", ())):
        del value["allOf"]
    if "const" in value:
        value["enum"] = [value.pop("const")]
    if isinstance(value.get("examples"), list):
        value["example"] = value.pop("examples")[0]
    return value


# --- Serving it ---------------------------------------------------------------------


@require_safe
def as_json(request: HttpRequest) -> HttpResponseBase:
    return _serve(request, _json(), JSON_TYPE)


@require_safe
def as_json_3_0(request: HttpRequest) -> HttpResponseBase:
    return _serve(request, _json_3_0(), JSON_TYPE)


@require_safe
def as_yaml(request: HttpRequest) -> HttpResponseBase:
    return _serve(request, _yaml(), "application/yaml")


@require_safe
def schema(request: HttpRequest, name: str) -> HttpResponseBase:
    """One schema alone, as JSON Schema with what it refers to."""
    schemas = document()["components"]["schemas"]
    if name not in schemas:
        raise errors.NotFound("No such schema.")
    text = json.dumps({**schemas[name], "$defs": schemas})
    text = text.replace("#/components/schemas/", "#/$defs/")
    return _serve(request, text.encode(), "application/schema+json")


@functools.cache
def _json() -> bytes:
    return json.dumps(document()).encode()


@functools.cache
def _json_3_0() -> bytes:
    return json.dumps(document_3_0()).encode()


@functools.cache
def _yaml() -> bytes:
    text = yaml.safe_dump(document(), sort_keys=False, allow_unicode=True)
    return text.encode()


def _serve(request: HttpRequest, body: bytes, content_type: str) -> HttpResponseBase:
    """Answer with what changes with a release only: 304 to who has it already."""
    etag = quote_etag(hashlib.sha256(body).hexdigest())
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    response = HttpResponse(body, content_type=content_type, headers=headers)
    found = get_conditional_response(request, etag=etag, response=response)
    return found or response
