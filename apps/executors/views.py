"""The executors' pages: applications, executors, connecting, recoveries, refusals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from apps import errors
from apps.executors import pages, recovery
from apps.executors.choice import choose_database
from apps.executors.models import Recovery
from apps.htmx import HtmxRequest, choose_template
from apps.registry import auth, selectors
from apps.registry.models import Application, Permission

LANGUAGES = {
    "python": ("Python", "brand-python"),
    "typescript": ("TypeScript", "brand-typescript"),
    "go": ("Go", "brand-golang"),
    "java": ("Java", "coffee"),
}


def _open(request: HttpRequest, org: str, app: str) -> tuple[auth.Actor, Application]:
    actor = auth.actor_for(request, org)
    application = selectors.get_application_for(
        actor=actor, name=app, permission=Permission.APPLICATION_READ
    )
    choose_database(request, application)
    return actor, application


def _render(
    request: HttpRequest,
    page: str,
    fragment: str,
    actor: auth.Actor,
    context: dict[str, Any],
) -> HttpResponse:
    template = choose_template(cast("HtmxRequest", request), page, fragment)
    base = {"actor": actor, "organization": actor.organization}
    return render(request, template, base | context)


@require_safe
@vary_on_headers("HX-Request")
def application_list(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    actor.require(Permission.APPLICATION_READ)
    search = request.GET.get("q", "").strip()
    cursor = request.GET.get("cursor", "")
    page = pages.list_applications(actor, search=search, cursor=cursor)
    return _render(
        request,
        "executors/application_list.html",
        "executors/partials/_application_table.html",
        actor,
        {
            "active": "applications",
            "page": page,
            "search": search,
            "cursor": cursor,
            "next_cursor": page.next_cursor,
        },
    )


@require_safe
def application_detail(request: HttpRequest, org: str, app: str) -> HttpResponse:
    return _executors(request, org, app, "executors/application_detail.html")


@require_safe
def executor_table_fragment(request: HttpRequest, org: str, app: str) -> HttpResponse:
    return _executors(request, org, app, "executors/partials/_executor_table.html")


def _executors(request: HttpRequest, org: str, app: str, template: str) -> HttpResponse:
    actor, application = _open(request, org, app)
    page = pages.executors_by_version(application, request.GET.get("version"))
    context = {
        "actor": actor,
        "organization": actor.organization,
        "application": application,
        "active": "executors",
        "page": page,
    }
    return render(request, template, context)


@require_safe
def application_connect(request: HttpRequest, org: str, app: str) -> HttpResponse:
    language = request.GET.get("language", "python")
    if language not in LANGUAGES:
        raise errors.NotFound("There is no snippet for that language.")
    scheme = "wss" if request.is_secure() else "ws"
    context = {
        "languages": LANGUAGES,
        "language": language,
        "snippet": f"executors/snippets/{language}.txt",
        "conductor_url": f"{scheme}://{request.get_host()}",
    }
    return _connection(request, org, app, "executors/application_connect.html", context)


@require_safe
def connection_fragment(request: HttpRequest, org: str, app: str) -> HttpResponse:
    return _connection(request, org, app, "executors/partials/_connection.html", {})


def _connection(
    request: HttpRequest, org: str, app: str, template: str, extra: dict[str, Any]
) -> HttpResponse:
    actor, application = _open(request, org, app)
    healthy = application.executors.filter(state="HEALTHY").order_by("connected_at")
    context = {
        "actor": actor,
        "organization": actor.organization,
        "application": application,
        "active": "connect",
        "first_executor": healthy.first(),
        "rejections": pages.list_rejections(
            actor.organization, application_name=application.name, limit=3
        ).rows,
    }
    return render(request, template, context | extra)


@require_safe
@vary_on_headers("HX-Request")
def recovery_list(request: HttpRequest, org: str, app: str) -> HttpResponse:
    actor, application = _open(request, org, app)
    state = request.GET.get("state", "")
    if state not in ("", *Recovery.State.values):
        state = ""
    cursor = request.GET.get("cursor", "")
    page = pages.list_recoveries(
        application,
        state=state,
        cursor=int(cursor) if cursor.isdecimal() and len(cursor) < 19 else None,
    )
    counts = pages.recoveries_by_state(application)
    return _render(
        request,
        "executors/recovery_list.html",
        "executors/partials/_recovery_table.html",
        actor,
        {
            "application": application,
            "active": "recoveries",
            "page": page,
            "state": state,
            "states": list(counts.items()),
            "all_count": sum(counts.values()),
            "cursor": cursor,
            "next_cursor": page.next_cursor,
        },
    )


@require_safe
@vary_on_headers("HX-Request")
def recovery_detail(request: HttpRequest, org: str, app: str, pk: int) -> HttpResponse:
    actor, application = _open(request, org, app)
    entry = _get_recovery(application, pk)
    return _render(
        request,
        "executors/recovery_detail.html",
        "executors/partials/_recovery.html",
        actor,
        {
            "application": application,
            "active": "recoveries",
            "recovery": entry,
            "story": pages.tell_recovery(entry),
            "attempts": entry.attempt_set.order_by("-id")[: pages.PAGE_SIZE],
        },
    )


@require_POST
def recovery_retry(request: HttpRequest, org: str, app: str, pk: int) -> HttpResponse:
    actor, application = _open(request, org, app)
    recovery.retry_now(actor=actor, recovery=_get_recovery(application, pk))
    messages.success(request, "It is due now. The next sweep tries it.")
    return redirect("executors:recovery_detail", org=org, app=app, pk=pk)


def _get_recovery(application: Application, pk: int) -> Recovery:
    rows = application.recoveries.select_related("application", "database")
    entry = rows.filter(pk=pk).first()
    if entry is None:
        raise errors.NotFound("There is no such recovery.")
    return entry


@require_safe
def rejected_list(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    actor.require(Permission.APPLICATION_READ)
    cursor = request.GET.get("cursor", "")
    page = pages.list_rejections(actor.organization, cursor=_seen_cursor(cursor))
    context = {
        "actor": actor,
        "organization": actor.organization,
        "active": "rejected",
        "page": page,
        "cursor": cursor,
        "next_cursor": page.next_cursor,
    }
    return render(request, "executors/rejected_list.html", context)


def _seen_cursor(text: str) -> tuple[datetime, int] | None:
    """The cursor of an URL; anything odd means the first page."""
    moment, _, pk = text.partition(",")
    try:
        parsed = parse_datetime(moment)
        seen_at = parsed.astimezone(UTC) if parsed and parsed.tzinfo else None
    except (ValueError, OverflowError):
        return None
    if seen_at is None or not pk.isdecimal() or len(pk) > 18:
        return None
    return seen_at, int(pk)
