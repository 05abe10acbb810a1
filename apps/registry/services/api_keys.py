"""API keys: made once, never shown again, revoked for good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone

from apps import errors
from apps.registry import keys, selectors
from apps.registry.auth import Actor
from apps.registry.models import ApiKey, Application, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited
from apps.registry.services.roles import check_holds, known_permissions
from apps.registry.services.rows import inserted, unique, validate


def create_api_key(
    *,
    actor: Actor,
    name: str,
    permissions: Sequence[str] | None = None,
    application_names: Sequence[str] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; the secret is returned once and never again.

    Without permissions it may only connect executors; without applications it is for
    all of the organization's.
    """
    if permissions is None:
        permissions = [Permission.WEBSOCKET_CONNECT]
    with audited(
        actor=actor,
        operation=Operation.TOKEN_CREATE,
        target_type=TargetType.TOKEN,
        target_id=name,
    ) as details:
        actor.require(Permission.TOKEN_WRITE)
        details["permissions"] = granted = known_permissions(permissions)
        _check_grant(actor, granted)
        applications = _scope(actor, application_names)
        details["applications"] = list(application_names or ())
        if expires_at is not None:
            details["expires_at"] = expires_at.isoformat()
        if expires_at is not None and expires_at <= timezone.now():
            raise errors.InvalidInput("That time is past.", field="expires_at")
        secret, prefix = keys.new_secret()
        key = inserted(
            ApiKey(
                organization=actor.organization,
                name=name,
                prefix=prefix,
                secret_hash=keys.hash_secret(secret),
                permissions=granted,
                all_applications=applications is None,
                created_by=actor.user,
                expires_at=expires_at,
            )
        )
        key.applications.set(applications or [])
    return key, secret


def _check_grant(actor: Actor, permissions: Sequence[str]) -> None:
    if not permissions:
        raise errors.InvalidInput(
            "A key needs a permission. Left out, it is websocket.connect.",
            field="permissions",
        )
    if Permission.TOKEN_WRITE in permissions:
        raise errors.InvalidInput(
            "An API key cannot hold token.write.", field="permissions"
        )
    check_holds(actor, permissions)


def _scope(actor: Actor, names: Sequence[str] | None) -> list[Application] | None:
    """The applications of these names; None where the key is for all."""
    if names is None:
        if actor.application_ids is not None:
            raise errors.Forbidden("A key cannot be for more than its creator is.")
        return None
    if not names:
        raise errors.InvalidInput(
            "Name an application. Left out, the key is for all.", field="app_names"
        )
    found = list(selectors.applications_of(actor).filter(name__in=names))
    missing = set(names) - {application.name for application in found}
    if missing:
        raise errors.NotFound(
            f"No such application: {min(missing)[:256]}.", field="app_names"
        )
    return found


def rename_api_key(*, actor: Actor, name: str, new_name: str) -> None:
    """Raises: NotFound; Conflict where another key has the name."""
    with audited(
        actor=actor,
        operation=Operation.TOKEN_RENAME,
        target_type=TargetType.TOKEN,
        target_id=name,
    ) as details:
        details["new_name"] = new_name
        key = selectors.get_api_key_named(
            actor=actor, name=name, permission=Permission.TOKEN_WRITE
        )
        key.name = new_name
        validate(key)
        with unique(field="new_name"):
            key.save(update_fields=["name"])


def delete_api_key(*, actor: Actor, name: str) -> None:
    """Revoke the key of this name, which is free again then. Raises: NotFound."""
    with audited(
        actor=actor,
        operation=Operation.TOKEN_REVOKE,
        target_type=TargetType.TOKEN,
        target_id=name,
    ):
        key = selectors.get_api_key_named(
            actor=actor, name=name, permission=Permission.TOKEN_WRITE
        )
        if not _revoke(key):
            raise errors.NotFound("No such API key.")


def revoke_api_key(*, actor: Actor, key: ApiKey) -> bool:
    """Revoke; open sockets close within seconds. Return False if it was already."""
    with audited(
        actor=actor,
        operation=Operation.TOKEN_REVOKE,
        target_type=TargetType.TOKEN,
        target_id=key.name,
    ):
        actor.require(Permission.TOKEN_WRITE)
        return _revoke(key)


def _revoke(key: ApiKey) -> bool:
    changed = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(
        revoked_at=timezone.now()
    )
    return changed == 1
