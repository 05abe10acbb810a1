"""People whom another OpenID provider vouches for."""

from __future__ import annotations

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from apps import errors
from apps.registry.issuers import Identity
from apps.registry.services.people import free_username


def find_or_welcome(identity: Identity) -> User | None:
    """Return the person of an identity; never an inactive one.

    Nobody here knows them: they are the person whose verified address they have, or a
    new one without any membership, if people may sign up (`CONDUCTOR_SIGNUP`).

    Raises: NotSignedIn with the reason why they are neither.
    """
    user = _find(identity)
    if user is None:
        try:
            with transaction.atomic():
                user = _link(identity)
        except IntegrityError:
            # Another call of theirs came first.
            user = _find(identity)
    return user if user is not None and user.is_active else None


def _find(identity: Identity) -> User | None:
    account = (
        SocialAccount.objects.select_related("user")
        .filter(provider=identity.issuer.id, uid=identity.subject)
        .first()
    )
    return None if account is None else account.user


def _link(identity: Identity) -> User | None:
    name, email = identity.issuer.name, identity.email
    if not email:
        raise errors.NotSignedIn(
            f"Conductor does not know you, and this token of {name} holds no verified "
            "e-mail address."
        )
    user = _owner_of(email)
    if user is None:
        if settings.CONDUCTOR_SIGNUP == "closed":
            raise errors.NotSignedIn("Conductor does not know you; sign-up is closed.")
        if User.objects.filter(email__iexact=email).exists():
            raise errors.NotSignedIn(
                f"There is an account for {email}, whose owner has not shown that the "
                f"address is theirs. Sign in to it and connect it with {name}."
            )
        user = _make_user(email)
    SocialAccount.objects.create(
        user=user, provider=identity.issuer.id, uid=identity.subject
    )
    return user


def _owner_of(email: str) -> User | None:
    """The person who has shown that this address is theirs."""
    found = EmailAddress.objects.select_related("user")
    address = found.filter(email__iexact=email, verified=True).first()
    return None if address is None else address.user


def _make_user(email: str) -> User:
    user = User.objects.create_user(free_username(email), email)
    EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
    return user
