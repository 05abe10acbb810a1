"""Pages that belong to no app: the landing page, health, and the error pages."""

from __future__ import annotations

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_safe

from apps import errors

HEALTH_TIMEOUT_S = 2


@require_GET
def landing(request: HttpRequest) -> HttpResponse:
    """What Conductor is, for a stranger; the console, for who is signed in."""
    if request.user.is_authenticated:
        return redirect("registry:organization_home")
    scheme = "wss" if request.is_secure() else "ws"
    conductor_url = f"{scheme}://{request.get_host()}"
    return render(request, "landing.html", {"conductor_url": conductor_url})


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """The document of the HTTP API, for people."""
    return render(request, "docs.html")


@require_GET
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the stores answer; else 503 naming the one that does not."""
    failing = [name for name, check in _CHECKS if not check()]
    if failing:
        return JsonResponse({"status": "failing", "failing": failing}, status=503)
    return JsonResponse({"status": "ok"})


def _database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


def _redis_answers() -> bool:
    if settings.CONDUCTOR_EMBEDDED:
        return True
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=HEALTH_TIMEOUT_S,
            socket_connect_timeout=HEALTH_TIMEOUT_S,
        ) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


_CHECKS = (("database", _database_answers), ("redis", _redis_answers))


def error_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Needs nothing of the request: its host or its body may be what is wrong."""
    return HttpResponse(render_to_string("400.html"), status=400)


def error_403(request: HttpRequest, exception: Exception) -> HttpResponse:
    return render(request, "403.html", {"reason": str(exception)}, status=403)


def error_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    # What a view said in words; Django's own reasons are for developers.
    cause = exception.__cause__
    reason = cause.message if isinstance(cause, errors.NotFound) else ""
    return render(request, "404.html", {"reason": reason}, status=404)


def error_500(request: HttpRequest) -> HttpResponse:
    return render(request, "500.html", status=500)
