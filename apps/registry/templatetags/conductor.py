"""Template tags shared by every page: icons, status badges, times and queries."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.http import HttpRequest
from django.template.context import RequestContext
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from apps.htmx import COUNT_LIMIT

register = template.Library()

SPRITE = "vendor/tabler-icons-3.51.0/sprite.svg"


@register.simple_tag
def icon(name: str, css: str = "") -> SafeString:
    """Draw one icon of the vendored sprite. Decorative: say it in text beside it."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true" fill="none" stroke="currentColor" '
        'stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round">'
        '<use href="{}#{}"></use></svg>',
        css,
        static(SPRITE),
        name,
    )


@register.inclusion_tag("components/status_badge.html")
def status_badge(status: str, label: str = "") -> dict[str, str]:
    """A state in its colour, in the protocol's own words unless `label` is given."""
    css = str(status).lower().replace(" ", "-")
    return {"css": css, "label": label or str(status)}


LANGUAGE_ICONS = {
    "python": "brand-python",
    "typescript": "brand-typescript",
    "go": "brand-golang",
    "java": "coffee",
}


@register.simple_tag
def language(name: str) -> SafeString:
    """The language of an SDK with its icon; whatever was reported, as it was."""
    found = LANGUAGE_ICONS.get(name, "code")
    return format_html("{} {}", icon(found, "icon-sm"), name or "not reported")


@register.filter
def in_words(value: object) -> str:
    """A JSON value for reading: `yes` and `no`, lists with commas, `–` for nothing."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value)) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {in_words(item)}" for key, item in value.items())
    return "–" if value in (None, "") else str(value)


@register.inclusion_tag("components/nav_link.html", takes_context=True)
def nav_link(
    context: RequestContext, key: str, icon_name: str, label: str, url: str, *args: str
) -> dict[str, Any]:
    return {
        "href": reverse(url, args=args),
        "current": context.get("active") == key,
        "icon_name": icon_name,
        "label": label,
    }


@register.simple_tag
def since(moment: datetime | None, empty: str = "never") -> str:
    """How long ago, as a time element whose title is the exact moment in UTC."""
    if moment is None:
        return empty
    age = timezone.now() - moment
    text = "just now" if age < timedelta(seconds=1) else f"{_largest_unit(age)} ago"
    return _time_element(moment, text, live=True)


@register.simple_tag
def moment(when: datetime | None, empty: str = "") -> str:
    """The exact time, to the millisecond, in UTC."""
    if when is None:
        return empty
    return _time_element(when, _exact(when), live=False)


@register.filter
def duration(value: timedelta | float | None) -> str:
    """A length of time for reading: `340 ms`, `8.1 s`, `3 min 5 s`, `2 h 4 min`."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, smaller, small_unit in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {small_unit}"
    raise AssertionError(seconds)


@register.filter
def capped(number: int) -> str:
    """A count that went no further than the limit: `312`, `10,000+`."""
    return f"{COUNT_LIMIT:,}+" if number > COUNT_LIMIT else f"{number:,}"


@register.simple_tag
def elapsed(start: datetime | None, end: datetime | None, empty: str = "") -> str:
    """The time from one moment to another, or `empty` where one is not known."""
    return empty if start is None or end is None else duration(end - start)


@register.simple_tag
def query_replace(request: HttpRequest, **changes: object) -> str:
    """The query of this page with some parameters changed; None or "" removes one."""
    query = request.GET.copy()
    for key, value in changes.items():
        if value in (None, ""):
            query.pop(key, None)
        else:
            query[key] = str(value)
    return f"?{query.urlencode()}"


def _largest_unit(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _exact(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d} UTC"


def _time_element(when: datetime, text: str, *, live: bool) -> SafeString:
    return format_html(
        '<time datetime="{}" title="{}"{}>{}</time>',
        when.isoformat(),
        _exact(when),
        mark_safe(" data-since") if live else "",
        text,
    )
