"""Pages that belong to no app: the landing page, health, and the error pages."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

logger = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 2


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    return render(request, "landing.html")


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the stores answer; 503 with the name of the part that does not."""
    checks: dict[str, Callable[[], object]] = {"database": _ask_database}
    if not settings.CONDUCTOR_EMBEDDED:
        checks["redis"] = _ask_redis
    for part, check in checks.items():
        try:
            check()
        except (DatabaseError, redis.RedisError) as exc:
            logger.warning(
                "health check failed",
                extra={"part": part, "error": type(exc).__name__},
            )
            return JsonResponse({"status": "error", "failing": part}, status=503)
    return JsonResponse({"status": "ok"})


def error_403(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, "403.html", 403, exception)


def error_404(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _error(request, "404.html", 404, exception)


def error_500(request: HttpRequest) -> HttpResponse:
    # No context processor may run here: the database may be what failed.
    return HttpResponse(render_to_string("500.html"), status=500)


def _error(
    request: HttpRequest, template: str, status: int, exception: Exception | None
) -> HttpResponse:
    """A page for a browser, one plain sentence for an htmx fragment."""
    first = exception.args[0] if exception and exception.args else ""
    text = first if isinstance(first, str) else ""  # the URL resolver passes a dict
    if request.headers.get("HX-Request"):
        sentence = text or "That does not exist, or you may not do it."
        return HttpResponse(
            sentence, status=status, content_type="text/plain; charset=utf-8"
        )
    return render(request, template, {"reason": text}, status=status)


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_redis() -> None:
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=HEALTH_TIMEOUT_S,
        socket_connect_timeout=HEALTH_TIMEOUT_S,
    )
    try:
        client.ping()
    finally:
        client.close()
