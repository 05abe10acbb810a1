"""The API's document in all its forms, and what they are cached by."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from django.test import Client

from conductor_site import openapi


@pytest.fixture
def client() -> Client:
    return Client(headers={"host": "localhost"})


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/openapi.json", "application/json"),
        ("/v2/openapi.json", "application/json"),
        ("/openapi-3.0.json", "application/json"),
        ("/openapi.yaml", "application/yaml"),
        ("/schemas/Application.json", "application/schema+json"),
    ],
)
def test_whoever_has_it_is_told_so(
    client: Client, path: str, content_type: str
) -> None:
    response = client.get(path)

    assert (response.status_code, response["Content-Type"]) == (200, content_type)
    assert response["Cache-Control"] == "no-cache"
    etag = response["ETag"]
    again = client.get(path, headers={"If-None-Match": f'"other", {etag}'})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", etag)
    other = client.get(path, headers={"If-None-Match": '"other"'})
    assert other.content == response.content
    head = client.head(path)
    assert (head.status_code, head["ETag"], head.content) == (200, etag, b"")
    refused = client.post(path)
    assert (refused.status_code, refused["Allow"]) == (405, "GET, HEAD")


def test_forms_say_the_same(client: Client) -> None:
    document = openapi.document()

    assert json.loads(client.get("/openapi.json").content) == document
    assert yaml.safe_load(client.get("/openapi.yaml").content) == document
    older = json.loads(client.get("/openapi-3.0.json").content)
    assert older["openapi"] == "3.0.3"
    assert older["paths"].keys() == document["paths"].keys()


def test_schema_alone_checks_a_value(client: Client) -> None:
    schema = json.loads(client.get("/schemas/ErrorModel.json").content)
    problem = json.loads(client.get("/schemas/Nothing.json").content)

    jsonschema.validate(problem, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**problem, "unknown": 1}, schema)
