"""What Conductor adds to django-allauth: who may sign up, and what they then get."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.models import EmailAddress
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from django.conf import settings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone

from apps import errors
from apps.registry import auth, selectors, services
from apps.registry.models import Invitation

INVITATION_SESSION_KEY = "invitation"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """`CONDUCTOR_SIGNUP`: open to all, to the invited, or to nobody."""
        if settings.CONDUCTOR_AUTH == "none" or settings.CONDUCTOR_SIGNUP == "closed":
            return False
        return settings.CONDUCTOR_SIGNUP == "open" or bool(_invitation(request))

    def clean_email(self, email: str) -> str:
        """Where only the invited may sign up, an invitation with an address is for
        that address."""
        email = super().clean_email(email)
        invitation = _invitation(self.request)
        if (
            settings.CONDUCTOR_SIGNUP == "invite"
            and self.request.user.is_anonymous
            and invitation is not None
            and not services.is_invited(invitation, User(email=email))
        ):
            raise ValidationError("This invitation is for another e-mail address.")
        return email

    def save_user(
        self, request: HttpRequest, user: User, form: Any, commit: bool = True
    ) -> User:
        """A new person joins where they were invited, else gets an organization."""
        with transaction.atomic():
            user = super().save_user(request, user, form, commit=commit)
            if commit:
                _find_place(request, user)
        return user

    def generate_unique_username(
        self, txts: list[str | None], regex: str | None = None
    ) -> str:
        """As the HTTP API has them."""
        return services.free_username(next(text for text in txts if text))

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        """Who waited for this joins the organization that claimed the domain."""
        is_confirmed: bool = super().confirm_email(request, email_address)
        user = email_address.user
        if is_confirmed and not user.memberships.exists():
            services.join_by_domain(user=user, traces=auth.traces(request))
        return is_confirmed


class SocialAccountAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    """The same rules for who comes by another OpenID provider."""

    def is_open_for_signup(
        self, request: HttpRequest, sociallogin: SocialLogin
    ) -> bool:
        if settings.CONDUCTOR_SIGNUP != "invite":
            return bool(super().is_open_for_signup(request, sociallogin))
        invitation = _invitation(request)
        return invitation is not None and services.is_invited(
            invitation, sociallogin.user
        )

    def can_authenticate_by_email(self, login: SocialLogin, email: str) -> bool:
        """Whoever registered an address that is not theirs waits for its owner to
        come in."""
        verified = EmailAddress.objects.filter(email__iexact=email, verified=True)
        return bool(verified.exists())

    def save_user(
        self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None
    ) -> User:
        with transaction.atomic():
            user: User = super().save_user(request, sociallogin, form)
            # With a form, the account's adapter did it.
            if form is None:
                _find_place(request, user)
        return user


def _invitation(request: HttpRequest) -> Invitation | None:
    """The open invitation by whose link this browser came, if it did."""
    secret = request.session.get(INVITATION_SESSION_KEY, "")
    return selectors.find_open_invitation(secret, timezone.now()) if secret else None


def _find_place(request: HttpRequest, user: User) -> None:
    traces = auth.traces(request)
    secret = request.session.pop(INVITATION_SESSION_KEY, None)
    if secret:
        try:
            services.accept_invitation(user=user, secret=secret, traces=traces)
        except (errors.NotFound, errors.Forbidden):
            pass
        else:
            return
    if (
        settings.ACCOUNT_EMAIL_VERIFICATION == "mandatory"
        and selectors.find_claim([selectors.domain_of(user.email)])
        and not selectors.find_claim_for(user)
    ):
        return  # They join once the address is known to be theirs: `confirm_email`.
    wanted = user.email.partition("@")[0]
    services.settle(user=user, wanted=wanted, traces=traces)
