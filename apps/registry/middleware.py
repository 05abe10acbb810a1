"""`CONDUCTOR_AUTH=none`: everyone who can connect is the user `local`."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.models import User
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse

from apps.registry import services
from apps.registry.models import Organization

LOCAL = "local"
# What needs accounts: their pages, and Conductor as an OpenID provider.
ACCOUNT_PREFIXES = (
    "/accounts/",
    "/device/",
    "/devices/",
    "/identity/",
    "/.well-known/",
)


def ensure_local_user() -> User:
    """Return the user `local` of the organization `local`, making both at first."""
    user = User.objects.filter(username=LOCAL).first()
    if user is not None:
        return user
    with transaction.atomic():
        user, made = User.objects.get_or_create(
            username=LOCAL, defaults={"email": "local@localhost"}
        )
        if made:
            user.set_unusable_password()
            user.save(update_fields=["password"])
        if not Organization.objects.filter(name=LOCAL).exists():
            services.create_organization(user=user, name=LOCAL)
    return user


class LocalUserMiddleware:
    """Nobody signs in or up, so the pages for that are not there: a password given to
    `local` would open the account once authentication is switched on."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.user = ensure_local_user()
        if request.path_info.startswith(ACCOUNT_PREFIXES):
            raise Http404("There are no accounts.")
        return self.get_response(request)
