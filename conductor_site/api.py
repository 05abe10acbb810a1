"""The HTTP API: mounts each app's routers, and finds what answers a request."""

from __future__ import annotations

from collections import defaultdict

from django.http import HttpResponseNotAllowed
from django.urls import ResolverMatch, URLPattern, register_converter, resolve
from ninja import NinjaAPI

from apps.api import METHODS, SegmentConverter, add_error_handlers
from apps.executors.api import routers as executors
from apps.monitoring.api import routers as monitoring
from apps.registry.api import routers as registry
from apps.workflows.api import routers as workflows

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
operations = api.urls
URLCONF = "conductor_site.api_urls"

# Every operation's pattern, by method and number of segments.
_patterns: dict[tuple[str, int], list[URLPattern]] = defaultdict(list)
for pattern in operations[0]:
    if isinstance(pattern, URLPattern) and pattern.name in METHODS:
        _patterns[METHODS[pattern.name], str(pattern.pattern).count("/")].append(
            pattern
        )


def find(method: str, path: str) -> ResolverMatch:
    """Return what answers a method at a path that `segment_path` wrote. More than one
    path may fit: a workflow may be called `search`. Raises: Resolver404."""
    relative = path.removeprefix("/")
    segments = relative.count("/")

    def found(method: str) -> ResolverMatch | None:
        patterns = _patterns.get((method, segments), ())
        matches = (pattern.resolve(relative) for pattern in patterns)
        return next((match for match in matches if match), None)

    if match := found(method):
        return match
    if others := sorted(other for other in set(METHODS.values()) if found(other)):
        return ResolverMatch(lambda _: HttpResponseNotAllowed(others), (), {})
    return resolve(path, URLCONF)
