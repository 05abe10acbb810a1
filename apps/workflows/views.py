"""The workflow pages: the list, one workflow, and orders to it."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe
from django.views.decorators.vary import vary_on_headers

from apps import errors
from apps.htmx import choose_template
from apps.registry import auth
from apps.registry import selectors as registry_selectors
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.workflows import selectors
from apps.workflows.forms import FilterForm, ForkForm
from apps.workflows.services import commands

FINISHED = frozenset(
    {"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}
)


def _open(request: HttpRequest, org: str, app: str) -> tuple[Actor, Application]:
    actor = auth.actor_for(request, org)
    return actor, registry_selectors.get_application_for(
        actor=actor, name=app, permission=Permission.APPLICATION_READ
    )


@require_safe
@vary_on_headers("HX-Request")
def workflow_list(request: HttpRequest, org: str, app: str) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = FilterForm(request.GET)
    offset = request.GET.get("offset", "0")
    page = selectors.list_workflows(
        application=application,
        filters=form.filters(),
        offset=int(offset) if offset.isdecimal() and len(offset) < 10 else 0,
    )
    context = {
        "actor": actor,
        "organization": actor.organization,
        "application": application,
        "active": "workflows",
        "form": form,
        "is_filtered": any(request.GET.get(name) for name in form.fields),
        "page": page,
        "previous": max(page.offset - selectors.PAGE, 0) if page.offset else None,
        "next": page.offset + selectors.PAGE if page.has_more else None,
    }
    template = choose_template(
        request,
        "workflows/workflow_list.html",
        "workflows/partials/_workflow_table.html",
    )
    return render(request, template, context)


@require_safe
@vary_on_headers("HX-Request")
def workflow_detail(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    detail = selectors.get_workflow(application=application, workflow_id=workflow_id)
    context = {
        "actor": actor,
        "organization": actor.organization,
        "application": application,
        "active": "workflows",
        "detail": detail,
        "workflow": detail.row,
        "is_finished": detail.row.status in FINISHED,
        "may_write": actor.may(Permission.APPLICATION_WRITE, application),
    }
    template = choose_template(
        request,
        "workflows/workflow_detail.html",
        "workflows/partials/_workflow.html",
    )
    return render(request, template, context)


@require_POST
def workflow_cancel(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    commands.cancel_workflow(
        actor=actor,
        application=application,
        workflow_id=workflow_id,
        cancel_children=request.POST.get("children") == "on",
    )
    messages.success(request, "Cancelled. A step that is running finishes first.")
    return redirect(
        "workflows:workflow_detail", org=org, app=app, workflow_id=workflow_id
    )


@require_POST
def workflow_resume(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    commands.resume_workflow(
        actor=actor, application=application, workflow_id=workflow_id
    )
    messages.success(request, "Resumed. An executor of its version takes it up.")
    return redirect(
        "workflows:workflow_detail", org=org, app=app, workflow_id=workflow_id
    )


@require_POST
def workflow_fork(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = ForkForm(request.POST)
    if not form.is_valid():
        raise errors.InvalidInput("Give a step number, or none for the first step.")
    new_id = commands.fork_workflow(
        actor=actor,
        application=application,
        workflow_id=workflow_id,
        start_step=form.cleaned_data["start_step"],
        application_version=form.cleaned_data["application_version"] or None,
    )
    messages.success(request, "Forked. This is the new workflow.")
    return redirect("workflows:workflow_detail", org=org, app=app, workflow_id=new_id)


@require_POST
def workflow_delete(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    commands.delete_workflow(
        actor=actor,
        application=application,
        workflow_id=workflow_id,
        delete_children=request.POST.get("children") == "on",
    )
    messages.success(request, "The workflow and its history were deleted.")
    return redirect("workflows:workflow_list", org=org, app=app)
