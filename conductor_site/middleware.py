"""Middleware of the whole site: security headers, and domain errors into HTTP."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any, cast
from urllib.parse import quote, urlsplit

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import (
    BadRequest,
    DisallowedHost,
    PermissionDenied,
    SuspiciousOperation,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import Resolver404, ResolverMatch
from django.utils.decorators import sync_and_async_middleware

from apps import errors
from apps.api import as_problem, problem, problem_of, segment_path
from apps.database import PoolExhausted
from apps.executors import gateway
from apps.registry import callers
from apps.registry.callers import ApiRequest, Caller
from conductor_site import api, refusals
from conductor_site.edge import is_api_path

logger = logging.getLogger(__name__)

DATABASE_AWAY = "Conductor cannot reach its database. Trying again helps."
DATABASE_BUSY = "Conductor is busy: too many requests at once. Trying again helps."
RETRY_AFTER_SECS = 10
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'; object-src 'none'"
)
API_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")

_STATUS: tuple[tuple[type[errors.ConductorError], int], ...] = (
    (errors.InvalidInput, 422),
    (errors.Conflict, 409),
    (errors.NoHealthyExecutor, 503),
    (errors.EveryExecutorFailed, 502),
    (errors.ExecutorRefused, 502),
    (errors.ConductorError, 500),
)


def name_request(request: HttpRequest) -> str:
    """Return the id that the audit log has of a request: its own where that is sane."""
    given = request.META.get("HTTP_X_REQUEST_ID", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    request.META["HTTP_X_REQUEST_ID"] = request_id
    return request_id


class RequestIdMiddleware:
    """Tells every page's id back; the API does so itself."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = name_request(request)
        response = self.get_response(request)
        response.headers["X-Request-Id"] = request_id
        return response


@sync_and_async_middleware
def api_middleware(get_response: Any) -> Any:
    """Answers what is of the HTTP API, which has no session, no CSRF token and no page
    for an error; whoever is asked next sees only pages."""
    if iscoroutinefunction(get_response):

        async def on_loop(request: HttpRequest) -> Any:
            if is_api_path(request.path_info):
                return await aanswer(request)
            return await get_response(request)

        return on_loop

    def in_thread(request: HttpRequest) -> Any:
        if is_api_path(request.path_info):
            return answer(request)
        return get_response(request)

    return in_thread


def answer(request: HttpRequest) -> HttpResponseBase:
    """Answer one request of the HTTP API; for threads."""
    name_request(request)
    try:
        match = _route(request)
        _tell_caller(request, callers.authenticate(request))
        view = match.func
        if iscoroutinefunction(view):
            view = async_to_sync(view)
        response = view(request, *match.args, **match.kwargs)
        if failure := _take_failure(request):
            refusals.record(request, failure)
    except Exception as exc:
        response = _explain_api(exc)
    return _finish_api(request, response)


async def aanswer(request: HttpRequest) -> HttpResponseBase:
    """`answer`, for the event loop."""
    name_request(request)
    try:
        match = _route(request)
        _tell_caller(request, await callers.aauthenticate(request))
        view = match.func
        if not iscoroutinefunction(view):
            view = sync_to_async(view)
        response = await view(request, *match.args, **match.kwargs)
        failure = _take_failure(request)
        # Most failures are of reads, and need no thread.
        if failure and refusals.find_operation(request, failure):
            await sync_to_async(refusals.record)(request, failure)
    except Exception as exc:
        response = _explain_api(exc)
    return _finish_api(request, response)


def _take_failure(request: HttpRequest) -> errors.ConductorError | None:
    """Return what an operation failed with. The request keeps it no longer, because its
    traceback holds the request."""
    failure: errors.ConductorError | None = request.__dict__.pop("failure", None)
    return failure


def _route(request: HttpRequest) -> ResolverMatch:
    """Raises: SuspiciousOperation, Forbidden; Resolver404, NotFound."""
    host = request.get_host()
    _refuse_other_sites(request, host)
    scope = getattr(request, "scope", {})
    path = segment_path(scope.get("raw_path") or quote(request.path_info))
    request.path_info = path
    request.resolver_match = api.find(request.method or "", path)
    return request.resolver_match


def _refuse_other_sites(request: HttpRequest, host: str) -> None:
    """A page of another site may make a browser send requests: where nobody signs in,
    or by a name that it points at this machine, they would be obeyed."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise errors.Forbidden("A page of another site may not call this.")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise errors.Forbidden("A page of another site may not call this.")


def _tell_caller(request: HttpRequest, caller: Caller | errors.NotSignedIn) -> None:
    cast("ApiRequest", request).caller = caller


def _explain_api(failure: Exception) -> HttpResponseBase:
    """What an operation let through, or never reached one."""
    match failure:
        case Resolver404():
            return problem(404, "There is no such path. See /docs.")
        case errors.ConductorError():
            return problem_of(failure)
        case DisallowedHost():
            return problem(400, "Conductor does not go by this host: ALLOWED_HOSTS.")
        case SuspiciousOperation() | BadRequest() | UnreadablePostError():
            return problem(400, "The request cannot be read.")
        case OperationalError() | InterfaceError():
            return problem(503, _why_away(failure))
    logger.error("an operation of the API failed", exc_info=failure)
    return problem(500, "Conductor failed. Its log says more.")


def _finish_api(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    response = as_problem(response)
    if isinstance(response, HttpResponse) and response.status_code not in (204, 304):
        response.headers.setdefault("Content-Length", str(len(response.content)))
    response.headers["X-Request-Id"] = request.META["HTTP_X_REQUEST_ID"]
    for name, value in API_HEADERS.items():
        response.headers.setdefault(name, value)
    _name_databases(request, response)
    if settings.SECURE_HSTS_SECONDS and request.is_secure():
        response.headers["Strict-Transport-Security"] = (
            f"max-age={settings.SECURE_HSTS_SECONDS}"
        )
    # What failed is in the log by now, and what a client did wrong is no news: the
    # access log has it.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _name_databases(request: HttpRequest, response: HttpResponseBase) -> None:
    """Where an application works on several databases, say of which the answer is."""
    application = getattr(request, "application", None)
    several = application and gateway.several_databases(application)
    if several:
        label, labels = several
        response.headers["Conductor-Database"] = label
        response.headers["Conductor-Databases"] = ", ".join(labels)


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
        if isinstance(exception, errors.ConductorError):
            refusals.record(request, exception)
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
            return _database_away(request, _why_away(exception))
        return None


def _why_away(failure: Exception) -> str:
    """Log that the database did not serve a request, and say why in a sentence."""
    if isinstance(failure, PoolExhausted):
        logger.warning("no database connection free", extra={"error": str(failure)})
        return DATABASE_BUSY
    logger.error("database away", extra={"error": str(failure)})
    return DATABASE_AWAY


def _database_away(request: HttpRequest, reason: str) -> HttpResponse:
    """A page that needs no database; a sentence for htmx."""
    headers = {"Retry-After": str(RETRY_AFTER_SECS)}
    if request.headers.get("HX-Request"):
        return HttpResponse(
            reason,
            status=503,
            content_type="text/plain; charset=utf-8",
            headers=headers,
        )
    return HttpResponse(
        render_to_string("503.html", {"heading": reason.partition(".")[0]}),
        status=503,
        headers=headers,
    )


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
