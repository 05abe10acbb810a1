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

# The list of what a page is about, by the name of its entry in the navigation.
_LISTS = {
    "workflows": "workflows:workflow_list",
    "recoveries": "executors:recovery_list",
}


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
    default = databases.default_of(present)
    by_default = default.label if default else ""
    shown = application.chosen_database or by_default
    return {
        "number": {2: "Two", 3: "Three"}.get(len(present), str(len(present))),
        "application": application,
        "databases": [
            (one, _link(context, one.label, stays=one.label == shown))
            for one in databases.with_executors(application, present)
        ],
        "chosen": application.chosen_database,
        "shown": shown,
        "no_choice": _link(context, "", stays=shown == by_default),
    }


def _link(context: dict[str, Any], label: str, *, stays: bool) -> str:
    """Return the address that chooses a database, or none: of this page, or of a list
    where this one is the answer to a form or about a workflow that only the other
    database has. `stays`: whether the same database is shown then."""
    request: HttpRequest = context["request"]
    match = request.resolver_match
    is_of_one = match is not None and "workflow_id" in match.kwargs
    if request.method == "POST" or (is_of_one and not stays):
        active = context.get("active")
        page = _LISTS.get(str(active), "executors:application_detail")
        names = (context["organization"].name, context["application"].name)
        return reverse(page, args=names) + f"?database={label}"
    # A position is of the other database's list.
    link = query_replace(request, database=None, cursor=None)
    return f"{link}{'&' if len(link) > 1 else ''}database={label}"
