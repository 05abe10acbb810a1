"""What every template may read besides the context of its own view."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from apps import errors
from apps.registry import auth, selectors


def console(request: HttpRequest) -> dict[str, Any]:
    """Give the shell its organizations and the actor of this page.

    Queries: none until a template reads `organizations` or `actor`, so fragments
    pay nothing.
    """
    return {
        "auth_mode": settings.CONDUCTOR_AUTH,
        "signup_open": settings.CONDUCTOR_SIGNUP == "open"
        and settings.CONDUCTOR_AUTH == "password",
        "oidc_providers": settings.CONDUCTOR_OIDC_PROVIDERS,
        "organizations": SimpleLazyObject(lambda: _organizations(request)),
        "actor": SimpleLazyObject(lambda: _actor(request)),
    }


def _organizations(request: HttpRequest) -> list[Any]:
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return []
    return list(selectors.organizations_of(user))


def _actor(request: HttpRequest) -> auth.Actor | None:
    match = request.resolver_match
    name = match.kwargs.get("org") if match else None
    if not name:
        return None
    try:
        return auth.actor_for(request, name)
    except errors.ConductorError:
        return None
