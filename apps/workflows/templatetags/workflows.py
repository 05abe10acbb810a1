"""Template tags of the workflow pages: text of strangers, and when a step ran."""

from __future__ import annotations

from datetime import datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.executors.protocol.rows import StepRow
from apps.workflows.live.order import EPOCH
from apps.workflows.selectors import WorkflowDetail

register = template.Library()

PAYLOAD_CHARS = 20_000

# Shown as what they are: characters that a terminal or a browser would obey, such as
# those that turn the direction of the text around.
_OBEYED = (
    {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
    | {0x7F: "\u2421"}
    | {
        code: f"\\u{code:04x}"
        for code in (
            *range(0x80, 0xA0),
            0x061C,
            *range(0x200B, 0x2010),
            *range(0x2028, 0x202F),
            *range(0x2060, 0x2070),
            0xFEFF,
        )
    }
)


@register.filter
def visible(text: object) -> str:
    """Text on one line, with what cannot be seen made visible."""
    return str(text or "").translate({**_OBEYED, 0x09: "\u2409", 0x0A: "\u240a"})


@register.simple_tag
def payload(
    text: str | None,
    empty: str = "none",
    label: str = "Value",
    limit: int = PAYLOAD_CHARS,
) -> SafeString:
    """An input, output or error as it came, up to a length that a page can show."""
    if not text:
        return format_html('<span class="text-secondary">{}</span>', empty)
    shown = format_html(
        '<pre class="payload mb-0" tabindex="0" aria-label="{}">{}</pre>',
        label,
        text[:limit].replace("\r\n", "\n").translate(_OBEYED),
    )
    if len(text) <= limit:
        return shown
    return format_html(
        '{}<p class="form-hint" data-cut>The first {} of {} characters.</p>',
        shown,
        f"{limit:,}",
        f"{len(text):,}",
    )


@register.simple_tag
def step_bar(detail: WorkflowDetail, step: StepRow) -> SafeString | str:
    """When a step ran, drawn on the time that all the shown steps took."""
    moments = [
        moment
        for row in detail.steps or ()
        for moment in (row.started_at, row.completed_at)
        if moment is not None
    ]
    if step.started_at is None or step.completed_at is None or not moments:
        return ""
    begin, whole = min(moments), _seconds(min(moments), max(moments)) or 1.0
    left = min(_seconds(begin, step.started_at) / whole * 100, 99.0)
    width = max(_seconds(step.started_at, step.completed_at) / whole * 100, 1.0)
    return format_html(
        '<svg class="step-bar" width="100" height="6" viewBox="0 0 100 6" '
        'aria-hidden="true"><rect x="{}" width="{}" height="6" fill="currentColor">'
        "</rect></svg>",
        f"{left:.1f}",
        f"{min(width, 100 - left):.1f}",
    )


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start).total_seconds(), 0.0)


@register.filter
def known_moment(moment: datetime | None) -> datetime | None:
    """Make nothing of the moment that stands for an unknown creation time."""
    return None if moment == EPOCH else moment
