"""Websocket routes.

Of an executor's, the last three path segments count: any prefix may stand before them.
No segment holds NUL, which PostgreSQL takes nowhere.
"""

from __future__ import annotations

from typing import Any

from channels.auth import AuthMiddleware
from channels.middleware import BaseMiddleware
from channels.security.websocket import AllowedHostsOriginValidator, OriginValidator
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.urls import re_path

from apps.executors.consumers import (
    ExecutorConsumer,
    LiveConsumer,
    UnknownPathConsumer,
)


class ForeignPageRefusal(OriginValidator):  # type: ignore[misc]
    """Where no key is needed, any page of the web could have its visitor's browser pose
    as an executor. Executors send no origin; browsers always do."""

    def valid_origin(self, parsed_origin: Any) -> bool:
        return parsed_origin is None or bool(super().valid_origin(parsed_origin))


class StorableCookies(BaseMiddleware):  # type: ignore[misc]
    """Drops cookies that hold NUL: no session has such a key, and to look one up is an
    error of PostgreSQL's."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        cookies = scope["cookies"]
        kept = {name: text for name, text in cookies.items() if "\0" not in text}
        return await super().__call__({**scope, "cookies": kept}, receive, send)


def _page(consumer: Any) -> Any:
    """A socket of our own pages: same site, signed in as they are."""
    signed_in = SessionMiddleware(AuthMiddleware(consumer))
    return AllowedHostsOriginValidator(CookieMiddleware(StorableCookies(signed_in)))


def _executor() -> Any:
    consumer = ExecutorConsumer.as_asgi()
    if settings.CONDUCTOR_AUTH == "none":
        return ForeignPageRefusal(consumer, settings.ALLOWED_HOSTS)
    return consumer


websocket_urlpatterns = [
    re_path(
        r"^(?:.*/)?websocket/(?P<application_name>[^/\0]+)/(?P<secret>[^/\0]+)/?$",
        _executor(),
    ),
    # Without its key the path is an executor's all the same: it hears what is missing.
    re_path(r"^(?:.*/)?websocket/(?P<application_name>[^/\0]+)/?$", _executor()),
    re_path(
        r"^orgs/(?P<org>[^/\0]+)/apps/(?P<app>[^/\0]+)/live/$",
        _page(LiveConsumer.as_asgi()),
    ),
    re_path(r"^", UnknownPathConsumer.as_asgi()),
]
