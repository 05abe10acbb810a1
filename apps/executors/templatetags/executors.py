"""What pages say of an application's databases."""

from __future__ import annotations

from typing import Any

from django import template
from django.http import HttpRequest
from django.urls import reverse

from apps.executors import databases
from apps.executors.choice import choose_database
from apps.registry.models import Application
from apps.registry.templatetags.conductor import query_replace

register = template.Library()


@register.inclusion_tag("executors/partials/_database_banner.html", takes_context=True)
def database_banner(context: dict[str, Any]) -> dict[str, Any]:
    """Say that two databases work under one name, and let one choose; else nothing."""
    application: Application = context["application"]
    request: HttpRequest = context["request"]
    if request.method != "POST" and not application.chosen_database:
        # Pages of the apps below, like the settings, know nothing of databases.
        choose_database(request, application)
    present = databases.list_present(application)
    if len(present) < 2:
        return {}
    shown = databases.default_of(present)
    return {
        "number": {2: "Two", 3: "Three"}.get(len(present), str(len(present))),
        "application": application,
        "databases": [
            (one, _link(context, one.label))
            for one in databases.with_executors(application, present)
        ],
        "chosen": application.chosen_database,
        "shown": application.chosen_database or (shown.label if shown else ""),
        "no_choice": _link(context, ""),
    }


def _link(context: dict[str, Any], label: str) -> str:
    """Return the address of this page, seen in a database; of the executors' page where
    this one is the answer to a form."""
    request: HttpRequest = context["request"]
    application: Application = context["application"]
    if request.method == "POST":
        names = (context["organization"].name, application.name)
        query = f"?database={label}"
        return reverse("executors:application_detail", args=names) + query
    # An empty one takes the choice back, a position is of the other database's list.
    link = query_replace(request, database=None, cursor=None)
    return f"{link}{'&' if len(link) > 1 else ''}database={label}"
