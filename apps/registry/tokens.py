"""User tokens: what Conductor's own OpenID provider issued to a person, or another
provider that is configured."""

from __future__ import annotations

from datetime import timedelta

from allauth.idp.oidc.adapter import get_adapter
from allauth.idp.oidc.models import Token
from django.contrib.auth.models import User
from django.utils import timezone

from apps.registry import issuers, services
from apps.registry.models import Device

TOUCH_EVERY = timedelta(minutes=1)


def find_user_by_token(token: str) -> User | None:
    """Return whose access token this is; None where it is nobody's or has expired.

    Never an inactive person. A person whom another provider vouches for, and whom
    nobody here knows, is given a user without any membership. One query, as a rule.

    Raises: NotSignedIn, where it can be said what is wrong with the token.
    """
    if token.count(".") == 2:
        identity = issuers.verify(token)
        return services.find_or_welcome(identity) if identity else None
    device = (
        Device.objects.select_related("user")
        .filter(
            access_token__type=Token.Type.ACCESS_TOKEN,
            access_token__hash=get_adapter().hash_token(token),
            access_token__expires_at__gt=timezone.now(),
            refresh_token__isnull=False,
            user__is_active=True,
        )
        .first()
    )
    if device is None:
        return None
    _touch(device)
    return device.user


def find_device_to_renew(refresh_token: str) -> Device | None:
    """Return the device that this refresh token belongs to."""
    return (
        Device.objects.select_related("access_token")
        .filter(
            refresh_token__type=Token.Type.REFRESH_TOKEN,
            refresh_token__hash=get_adapter().hash_token(refresh_token),
        )
        .first()
    )


def _touch(device: Device) -> None:
    """Note that it is in use; once a minute is enough."""
    now = timezone.now()
    if device.last_used_at < now - TOUCH_EVERY:
        Device.objects.filter(pk=device.pk).update(last_used_at=now)
