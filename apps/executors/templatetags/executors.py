"""What pages say of an application's databases."""

from __future__ import annotations

from typing import Any

from django import template

from apps.executors import databases

register = template.Library()


@register.inclusion_tag("executors/partials/_database_banner.html", takes_context=True)
def database_banner(context: dict[str, Any]) -> dict[str, Any]:
    """Say that two databases work under one name, and let one choose; else nothing."""
    application = context["application"]
    present = databases.list_present(application)
    if len(present) < 2:
        return {}
    shown = databases.default_of(present)
    return {
        "number": {2: "Two", 3: "Three"}.get(len(present), str(len(present))),
        "application": application,
        "databases": databases.with_executors(application, present),
        "chosen": application.chosen_database,
        "shown": application.chosen_database or (shown.label if shown else ""),
    }
