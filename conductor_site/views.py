"""Pages that belong to no app: the landing page, health, and the error pages."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import redis
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.views.decorators.http import require_GET, require_safe

from apps import database, errors

HEALTH_TIMEOUT_S = 2
HEALTH_KEPT_S = 1.0


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
    """Asked over a connection of its own, so that visitors cannot make it fail, and at
    most once a second."""
    if settings.CONDUCTOR_EMBEDDED:
        return _query_database()
    try:
        return _health.answers(HEALTH_TIMEOUT_S)
    except TimeoutError:
        return False


def _query_database() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True


class _Health:
    """Asks the database in one thread, whoever wants to know, and however many."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(
            1, thread_name_prefix="health-db", initializer=database.keep_own_connection
        )
        self._lock = threading.Lock()
        self._asked: tuple[float, Future[bool]] | None = None

    def answers(self, timeout_s: float) -> bool:
        """Raises: TimeoutError."""
        with self._lock:
            now = time.monotonic()
            asked = self._asked
            if asked is None or (asked[1].done() and now - asked[0] > HEALTH_KEPT_S):
                asked = self._asked = (now, self._threads.submit(_ask_afresh))
        return asked[1].result(timeout_s)


def _ask_afresh() -> bool:
    close_old_connections()
    return _query_database()


_health = _Health()


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
