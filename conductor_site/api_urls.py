"""Every URL of programs: the operations, their document, and the surfaces made of them.
None of them is a page: `api_middleware`."""

from __future__ import annotations

from django.urls import path

from conductor_site import mcp, openapi, v1alpha1
from conductor_site.api import operations

urlpatterns = [
    path("", operations),
    path("mcp", mcp.endpoint, name="mcp"),
    path("openapi.json", openapi.as_json, name="openapi"),
    path("openapi.yaml", openapi.as_yaml),
    path("openapi-3.0.json", openapi.as_json_3_0),
    path("v2/openapi.json", openapi.as_json),
    path("schemas/<segment:name>.json", openapi.schema),
    *v1alpha1.urlpatterns(),
]
