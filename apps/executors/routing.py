"""Websocket routes.

Of an executor's, the last three path segments count: any prefix may stand before them.
"""

from __future__ import annotations

from channels.auth import AuthMiddlewareStack
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import re_path

from apps.executors.consumers import (
    ExecutorConsumer,
    LiveConsumer,
    UnknownPathConsumer,
)

websocket_urlpatterns = [
    re_path(
        r"^(?:.*/)?websocket/(?P<application_name>[^/]+)/(?P<secret>[^/]+)/?$",
        ExecutorConsumer.as_asgi(),
    ),
    re_path(
        r"^orgs/(?P<org>[^/]+)/apps/(?P<app>[^/]+)/live/$",
        AllowedHostsOriginValidator(AuthMiddlewareStack(LiveConsumer.as_asgi())),
    ),
    re_path(r"^", UnknownPathConsumer.as_asgi()),
]
