"""What Conductor adds to django-allauth: who may sign up, and what they then get."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpRequest

from apps import errors
from apps.registry import selectors, services

INVITATION_SESSION_KEY = "invitation"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """`CONDUCTOR_SIGNUP`: open to all, to the invited, or to nobody."""
        if settings.CONDUCTOR_SIGNUP == "open":
            return True
        if settings.CONDUCTOR_SIGNUP == "closed":
            return False
        secret = request.session.get(INVITATION_SESSION_KEY, "")
        return bool(secret) and selectors.find_invitation(secret) is not None

    def save_user(
        self, request: HttpRequest, user: User, form: Any, commit: bool = True
    ) -> User:
        """A new person joins where they were invited, else gets an organization."""
        with transaction.atomic():
            user = super().save_user(request, user, form, commit=commit)
            if commit:
                _find_place(request, user)
        return user


def _find_place(request: HttpRequest, user: User) -> None:
    secret = request.session.pop(INVITATION_SESSION_KEY, None)
    if secret:
        try:
            services.accept_invitation(user=user, secret=secret)
        except errors.NotFound:
            pass
        else:
            return
    wanted = user.email.partition("@")[0]
    services.create_organization(
        user=user, name=services.free_organization_name(wanted)
    )
