"""API keys: made once, never shown again, revoked for good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone

from apps import errors
from apps.registry import keys
from apps.registry.auth import Actor
from apps.registry.models import (
    ApiKey,
    Application,
    Permission,
)
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited
from apps.registry.services.rows import inserted


def create_api_key(
    *,
    actor: Actor,
    name: str,
    permissions: Sequence[str] | None = None,
    applications: Sequence[Application] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; the secret is returned once and never again.

    Without permissions it may only connect executors; without applications it is for
    all of the organization's.
    """
    granted = list(permissions or [Permission.WEBSOCKET_CONNECT])
    with audited(
        actor=actor,
        operation=Operation.TOKEN_CREATE,
        target_type=TargetType.TOKEN,
        target_id=name,
    ) as details:
        actor.require(Permission.TOKEN_WRITE)
        _check_grant(actor, granted)
        if applications is None and actor.application_ids is not None:
            raise errors.Forbidden("A key cannot be for more than its creator is.")
        for application in applications or ():
            actor.require(Permission.TOKEN_WRITE, application)
        if expires_at is not None and expires_at <= timezone.now():
            raise errors.InvalidInput("That time is past.", field="expires_at")
        secret, prefix = keys.new_secret()
        key = inserted(
            ApiKey(
                organization=actor.organization,
                name=name.strip(),
                prefix=prefix,
                secret_hash=keys.hash_secret(secret),
                permissions=granted,
                all_applications=applications is None,
                created_by=actor.user,
                expires_at=expires_at,
            )
        )
        key.applications.set(applications or [])
        details["permissions"] = granted
        details["applications"] = [a.name for a in applications or ()]
    return key, secret


def _check_grant(actor: Actor, permissions: Sequence[str]) -> None:
    unknown = set(permissions) - set(Permission.values)
    if unknown:
        raise errors.InvalidInput(
            f"Unknown permission: {', '.join(sorted(unknown))}.", field="permissions"
        )
    if Permission.TOKEN_WRITE in permissions:
        raise errors.InvalidInput(
            "An API key cannot hold token.write.", field="permissions"
        )
    beyond = set(permissions) - actor.permissions
    if beyond:
        raise errors.Forbidden(
            f"You cannot grant what you do not hold: {', '.join(sorted(beyond))}."
        )


def revoke_api_key(*, actor: Actor, key: ApiKey) -> bool:
    """Revoke; open sockets close within seconds. Return False if it was already."""
    with audited(
        actor=actor,
        operation=Operation.TOKEN_REVOKE,
        target_type=TargetType.TOKEN,
        target_id=key.name,
    ):
        actor.require(Permission.TOKEN_WRITE)
        changed = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(
            revoked_at=timezone.now()
        )
    return changed == 1
