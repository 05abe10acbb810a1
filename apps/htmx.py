"""Helpers shared by the HTML views of every app."""

from __future__ import annotations

from urllib.parse import quote, unquote

from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails

# Lists are counted no further than this; beyond it a page shows "10,000+".
COUNT_LIMIT = 10_000


class HtmxRequest(HttpRequest):
    """A request that passed `django_htmx.middleware.HtmxMiddleware`."""

    htmx: HtmxDetails


def choose_template(request: HttpRequest, page: str, fragment: str) -> str:
    """Return `fragment` for an htmx swap, `page` for everything that needs a whole
    document: plain, boosted and history-restore requests."""
    htmx = getattr(request, "htmx", None)
    if htmx and not htmx.boosted and not htmx.history_restore_request:
        return fragment
    return page


class OpaqueConverter:
    """Path converter for ids chosen by others, which may hold `/ ? # %`, dots and
    unicode. Servers decode `%2F` before we see the path, so `~` does the escaping."""

    regex = r"[^/]+"

    def to_python(self, value: str) -> str:
        return unquote(value.replace("%", "%25").replace("~", "%"), errors="strict")

    def to_url(self, value: str) -> str:
        quoted = quote(value, safe="").replace("~", "%7E").replace(".", "%2E")
        return quoted.replace("%", "~")
