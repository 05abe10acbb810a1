"""The HTTP API: mounts each app's routers. Its URLs are no pages: `ApiMiddleware`."""

from __future__ import annotations

from django.urls import path, register_converter
from ninja import NinjaAPI

from apps.api import SegmentConverter, add_error_handlers
from apps.executors.api import routers as executors
from apps.monitoring.api import routers as monitoring
from apps.registry.api import routers as registry
from apps.workflows.api import routers as workflows
from conductor_site import openapi

register_converter(SegmentConverter, "segment")

api = NinjaAPI(
    title="Conductor API",
    version="2.0.0",
    docs_url=None,
    openapi_url=None,
    urls_namespace="api",
)
add_error_handlers(api)
for router in (*registry, *executors, *workflows, *monitoring):
    api.add_router("", router)

urlpatterns = [
    path("", api.urls),
    path("openapi.json", openapi.as_json, name="openapi"),
    path("openapi.yaml", openapi.as_yaml),
    path("openapi-3.0.json", openapi.as_json_3_0),
    path("v2/openapi.json", openapi.as_json),
    path("schemas/<segment:name>.json", openapi.schema),
]
