"""Websocket routes: the last three path segments count, any prefix may stand before."""

from __future__ import annotations

from django.urls import re_path

from apps.executors.consumers import ExecutorConsumer, UnknownPathConsumer

websocket_urlpatterns = [
    re_path(
        r"^(?:.*/)?websocket/(?P<application_name>[^/]+)/(?P<secret>[^/]+)/?$",
        ExecutorConsumer.as_asgi(),
    ),
    re_path(r"^", UnknownPathConsumer.as_asgi()),
]
