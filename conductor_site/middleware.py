"""Middleware of the whole site: security headers, and domain errors into HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string

from apps import errors

logger = logging.getLogger(__name__)

DATABASE_AWAY = "Conductor cannot reach its database. Trying again helps."
RETRY_AFTER_SECS = 10
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)

_STATUS: tuple[tuple[type[errors.ConductorError], int], ...] = (
    (errors.InvalidInput, 422),
    (errors.Conflict, 409),
    (errors.NoHealthyExecutor, 503),
    (errors.EveryExecutorFailed, 502),
    (errors.ExecutorRefused, 502),
    (errors.ConductorError, 500),
)


class SecurityHeadersMiddleware:
    """Deny by default what a page may load: everything comes from this server."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not request.path.startswith("/admin/"):
            response.headers.setdefault(
                "Content-Security-Policy", CONTENT_SECURITY_POLICY
            )
        return response


class UnstorableTextMiddleware:
    """NUL, which PostgreSQL takes nowhere: no name holds it, so no page is there; and
    no form or link of ours sends it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\0" in request.path:
            raise Http404("No such page.")
        if "%00" in request.META.get("QUERY_STRING", ""):
            raise BadRequest("A NUL in the query.")
        if any("\0" in value for value in request.COOKIES.values()):
            raise BadRequest("A NUL in a cookie.")
        return self.get_response(request)


class ErrorTranslationMiddleware:
    """The one place where a domain error of a page becomes an HTTP answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(
        self, request: HttpRequest, exception: Exception
    ) -> HttpResponse | None:
        if isinstance(exception, errors.NotSignedIn):
            return redirect_to_login(request.get_full_path())
        if isinstance(exception, errors.NotFound):
            raise Http404(exception.message) from exception
        if isinstance(exception, errors.Forbidden):
            raise PermissionDenied(exception.message) from exception
        if isinstance(exception, errors.ConductorError):
            status = next(s for kind, s in _STATUS if isinstance(exception, kind))
            return _explain(request, exception.message, status)
        if isinstance(exception, OperationalError | InterfaceError):
            logger.error("database away", extra={"error": str(exception)})
            return _database_away(request)
        return None


def _database_away(request: HttpRequest) -> HttpResponse:
    """A page that needs no database; a sentence for htmx."""
    headers = {"Retry-After": str(RETRY_AFTER_SECS)}
    if request.headers.get("HX-Request"):
        return HttpResponse(
            DATABASE_AWAY,
            status=503,
            content_type="text/plain; charset=utf-8",
            headers=headers,
        )
    return HttpResponse(render_to_string("503.html"), status=503, headers=headers)


def _explain(request: HttpRequest, message: str, status: int) -> HttpResponse:
    """Say it in words: plain text for htmx (a toast), else back with a note."""
    referer = request.headers.get("Referer", "")
    if (
        request.method == "POST"
        and not request.headers.get("HX-Request")
        and referer.startswith(request.build_absolute_uri("/"))
    ):
        messages.error(request, message)
        return redirect(referer)
    return HttpResponse(
        message, status=status, content_type="text/plain; charset=utf-8"
    )
