"""The workflow pages: the list, one workflow, and orders to them.

Each order has one URL: a GET asks once more what is meant, a POST gives it.
"""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)
from django.views.decorators.vary import vary_on_headers

from apps import errors
from apps.executors.choice import choose_database
from apps.htmx import choose_template
from apps.registry import auth
from apps.registry import selectors as registry_selectors
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.workflows import selectors
from apps.workflows.forms import (
    BulkForm,
    CancelForm,
    DeleteForm,
    FilterForm,
    ForkForm,
    ResumeForm,
)
from apps.workflows.models import FINISHED
from apps.workflows.services import commands, forks
from apps.workflows.services.commands import Outcome
from apps.workflows.services.forks import Place

_order_page = require_http_methods(["GET", "HEAD", "POST"])
_LEVELS = {
    "done": messages.SUCCESS,
    "nothing": messages.WARNING,
    "failed": messages.ERROR,
    "unknown": messages.ERROR,
}


def _open(request: HttpRequest, org: str, app: str) -> tuple[Actor, Application]:
    actor = auth.actor_for(request, org)
    application = registry_selectors.get_application_for(
        actor=actor, name=app, permission=Permission.APPLICATION_READ
    )
    choose_database(request, application)
    return actor, application


def _base(actor: Actor, application: Application) -> dict[str, Any]:
    return {
        "actor": actor,
        "organization": actor.organization,
        "application": application,
        "active": "workflows",
        "may_write": actor.may(Permission.APPLICATION_WRITE, application),
    }


# --- Reading -------------------------------------------------------------------------


@require_safe
@vary_on_headers("HX-Request")
def workflow_list(request: HttpRequest, org: str, app: str) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = FilterForm(request.GET)
    page = None
    if form.is_valid():
        page = selectors.list_workflows(
            application=application,
            filters=form.filters(),
            cursor=form.cleaned_data["cursor"],
        )
    context = _base(actor, application) | {
        "form": form,
        "is_filtered": form.is_filtered,
        "page": page,
        "cursor": form.cleaned_data.get("cursor") or "",
        "next_cursor": (page and page.next) or "",
    }
    template = choose_template(
        request,
        "workflows/workflow_list.html",
        "workflows/partials/_workflow_table.html",
    )
    return render(request, template, context, status=422 if page is None else 200)


@require_safe
@vary_on_headers("HX-Request")
def workflow_detail(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    offset = request.GET.get("steps", "")
    detail = selectors.get_workflow(
        application=application,
        workflow_id=workflow_id,
        steps_offset=int(offset) if offset.isdecimal() and len(offset) < 7 else 0,
    )
    context = _base(actor, application) | {
        "detail": detail,
        "workflow": detail.row,
        "workflow_id": workflow_id,
        "is_finished": detail.row.status in FINISHED,
    }
    template = choose_template(
        request,
        "workflows/workflow_detail.html",
        "workflows/partials/_workflow.html",
    )
    return render(request, template, context)


# --- Orders to one workflow ----------------------------------------------------------


def _ask_first(
    request: HttpRequest,
    actor: Actor,
    application: Application,
    workflow_id: str,
    verb: str,
    form: forms.Form,
) -> HttpResponse:
    """The page that asks once more."""
    actor.require(Permission.APPLICATION_WRITE, application)
    context = _base(actor, application) | {
        "verb": verb,
        "form": form,
        "workflow_id": workflow_id,
        "ids": [workflow_id],
    }
    status = 422 if form.is_bound else 200
    return render(request, "workflows/workflow_command.html", context, status=status)


def _tell(request: HttpRequest, outcome: Outcome) -> None:
    """Raises: NotFound where there is no such workflow."""
    failure = commands.failure_of(outcome)
    if isinstance(failure, errors.NotFound):
        raise failure
    messages.add_message(request, _LEVELS[outcome.result], outcome.sentence)


@_order_page
def workflow_cancel(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = CancelForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _ask_first(request, actor, application, workflow_id, "cancel", form)
    outcomes = commands.cancel_workflows(
        actor=actor,
        application=application,
        workflow_ids=[workflow_id],
        cancel_children=form.cleaned_data["children"],
    )
    _tell(request, outcomes[0])
    return redirect(
        "workflows:workflow_detail", org=org, app=app, workflow_id=workflow_id
    )


@_order_page
def workflow_resume(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = ResumeForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _ask_first(request, actor, application, workflow_id, "resume", form)
    outcomes = commands.resume_workflows(
        actor=actor, application=application, workflow_ids=[workflow_id]
    )
    _tell(request, outcomes[0])
    return redirect(
        "workflows:workflow_detail", org=org, app=app, workflow_id=workflow_id
    )


@_order_page
def workflow_fork(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = ForkForm(
        request.POST if request.method == "POST" else None,
        initial={"start_step": request.GET.get("start_step", "")[:7]},
    )
    if not form.is_valid():
        return _ask_first(request, actor, application, workflow_id, "fork", form)
    data = form.cleaned_data
    new_id = forks.fork_workflow(
        actor=actor,
        application=application,
        workflow_id=workflow_id,
        start_step=data["start_step"],
        place=Place(application_version=data["application_version"] or None),
        new_workflow_id=str(data["new_workflow_id"] or "") or None,
    )
    messages.success(request, "Forked. This is the new workflow.")
    return redirect("workflows:workflow_detail", org=org, app=app, workflow_id=new_id)


@_order_page
def workflow_delete(
    request: HttpRequest, org: str, app: str, workflow_id: str
) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = DeleteForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _ask_first(request, actor, application, workflow_id, "delete", form)
    outcomes = commands.delete_workflows(
        actor=actor,
        application=application,
        workflow_ids=[workflow_id],
        delete_children=form.cleaned_data["children"],
    )
    _tell(request, outcomes[0])
    if outcomes[0].result != "done":
        return redirect(
            "workflows:workflow_detail", org=org, app=app, workflow_id=workflow_id
        )
    return redirect("workflows:workflow_list", org=org, app=app)


# --- Orders to ticked workflows ------------------------------------------------------


@require_POST
def workflow_bulk(request: HttpRequest, org: str, app: str, verb: str) -> HttpResponse:
    """Asks once more which are meant; then gives the order and says what came of each.
    Repeating it is harmless."""
    actor, application = _open(request, org, app)
    form = BulkForm(request.POST, ids=request.POST.getlist("id"))
    if not form.is_valid():
        raise errors.InvalidInput(form.problem)
    context = _base(actor, application) | {"verb": verb, "form": form, "ids": form.ids}
    if not form.cleaned_data["confirmed"]:
        actor.require(Permission.APPLICATION_WRITE, application)
        return render(request, "workflows/workflow_command.html", context)
    outcomes = _give_bulk(
        verb, actor, application, form.ids, children=form.cleaned_data["children"]
    )
    context["outcomes"] = outcomes
    context["done"] = sum(outcome.result == "done" for outcome in outcomes)
    return render(request, "workflows/workflow_bulk.html", context)


def _give_bulk(
    verb: str, actor: Actor, application: Application, ids: list[str], *, children: bool
) -> list[Outcome]:
    common: dict[str, Any] = {
        "actor": actor,
        "application": application,
        "workflow_ids": ids,
    }
    match verb:
        case "cancel":
            return commands.cancel_workflows(**common, cancel_children=children)
        case "resume":
            return commands.resume_workflows(**common)
        case _:
            return commands.delete_workflows(**common, delete_children=children)
