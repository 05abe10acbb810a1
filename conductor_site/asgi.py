"""The ASGI application: HTTP to Django, websockets to the executors' consumer."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conductor_site.settings")
django.setup(set_prefix=False)

from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings

from apps.executors.lifespan import Lifespan
from apps.executors.routing import websocket_urlpatterns
from conductor_site.api_handler import ApiBeside
from conductor_site.edge import BodyLimit, TrustedProxies
from conductor_site.gate import Gate
from conductor_site.request_threads import PagesHandler

site = ApiBeside(PagesHandler())
application = Lifespan(
    TrustedProxies(
        ProtocolTypeRouter(
            {
                "http": BodyLimit(
                    # Where nobody signs in, everybody is the same caller.
                    site if settings.CONDUCTOR_AUTH == "none" else Gate(site),
                    settings.CONDUCTOR_MAX_BODY_BYTES,
                ),
                "websocket": URLRouter(websocket_urlpatterns),
            }
        ),
        settings.CONDUCTOR_TRUSTED_PROXIES,
    )
)
