"""Conductor's own health in words of Prometheus; no page."""

from __future__ import annotations

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_GET

from apps.monitoring import openmetrics
from apps.monitoring.health import Health


@require_GET
def health_metrics(request: HttpRequest) -> HttpResponse:
    """For who has the token of the settings, and for staff; for others it is not."""
    if not (_has_token(request) or (request.user.is_active and request.user.is_staff)):
        raise Http404("No such page.")
    content_type = openmetrics.content_type(request.headers.get("Accept", ""))
    return HttpResponse(
        openmetrics.write(Health(), content_type),
        content_type=content_type,
        headers={"Cache-Control": "no-store"},
    )


def _has_token(request: HttpRequest) -> bool:
    given = request.headers.get("Authorization", "")
    token: str = settings.CONDUCTOR_METRICS_TOKEN
    return bool(token) and constant_time_compare(given, f"Bearer {token}")
