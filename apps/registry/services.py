"""Every change of the registry: permission, row and audit entry in one transaction."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from apps import errors
from apps.registry import keys, selectors
from apps.registry.auth import Actor, system_actor
from apps.registry.models import (
    ApiKey,
    Application,
    AuditEntry,
    Invitation,
    Membership,
    Organization,
    Permission,
    Role,
)

INVITATION_LIFETIME = timedelta(days=7)
M = TypeVar("M", bound=models.Model)


# --- Audit -----------------------------------------------------------------------


def record_audit(
    *,
    actor: Actor,
    operation: str,
    target_type: str = "",
    target_id: str = "",
    details: dict[str, Any] | None = None,
    outcome: str = AuditEntry.Outcome.SUCCESS,
) -> AuditEntry:
    """Write one entry. Call it inside the transaction of the change it records."""
    return AuditEntry.objects.create(
        organization=actor.organization,
        operation=operation,
        outcome=outcome,
        subject_type=actor.kind,
        subject_id=actor.id[:64],
        subject_display=actor.display[:254],
        target_type=target_type,
        target_id=target_id[:512],
        source_ip=actor.source_ip,
        request_id=actor.request_id,
        user_agent=actor.user_agent,
        details=details or {},
    )


@contextmanager
def audited(
    *, actor: Actor, operation: str, target_type: str, target_id: str
) -> Iterator[dict[str, Any]]:
    """One audited change: its rows and its entry are written together, and a denied or
    failed attempt leaves an entry of its own. Yields the details to fill in."""
    details: dict[str, Any] = {}
    try:
        with transaction.atomic():
            yield details
            record_audit(
                actor=actor,
                operation=operation,
                target_type=target_type,
                target_id=target_id,
                details=details,
            )
    except errors.ConductorError as exc:
        denied = isinstance(exc, errors.Forbidden)
        outcomes = AuditEntry.Outcome
        record_audit(
            actor=actor,
            operation=operation,
            target_type=target_type,
            target_id=target_id,
            details={**details, "reason": exc.message},
            outcome=outcomes.DENIED if denied else outcomes.FAILURE,
        )
        raise


def _inserted(row: M) -> M:
    """Insert a row whose fields pass their rules. Raises: InvalidInput, Conflict."""
    _validate(row)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as exc:
        raise errors.Conflict("That name is taken.", field="name") from exc
    return row


def _validate(row: models.Model) -> None:
    """Raises: InvalidInput, with the first field that breaks a rule."""
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as exc:
        field, messages = next(iter(exc.message_dict.items()))
        raise errors.InvalidInput(" ".join(messages), field=field) from exc


# --- Organizations ---------------------------------------------------------------


def create_organization(*, user: User, name: str) -> Organization:
    """Found an organization; the founder is its admin."""
    with transaction.atomic():
        organization = _inserted(Organization(name=name))
        membership = Membership.objects.create(
            user=user, organization=organization, role=builtin_role(Role.ADMIN)
        )
        actor = system_actor(organization)
        record_audit(
            actor=actor,
            operation="organization.create",
            target_type="organization",
            target_id=name,
            details={"admin": str(membership.user)},
        )
    return organization


def free_organization_name(wanted: str) -> str:
    """Return a valid name near `wanted` that no organization has."""
    stem = re.sub(r"[^a-z0-9_]+", "_", wanted.lower()).strip("_")[:24]
    stem = stem if len(stem) >= 3 else f"{stem}_org".lstrip("_")
    name = stem
    while Organization.objects.filter(name=name).exists():
        name = f"{stem}_{secrets.token_hex(2)}"
    return name


def builtin_role(name: str) -> Role:
    return Role.objects.get(organization=None, name=name)


# --- Applications ----------------------------------------------------------------


def create_application(
    *, actor: Actor, name: str, private_mode: bool = False
) -> Application:
    with audited(
        actor=actor,
        operation="application.create",
        target_type="application",
        target_id=name,
    ) as details:
        actor.require(Permission.APPLICATION_WRITE)
        if actor.application_ids is not None:
            raise errors.Forbidden("This key is for certain applications only.")
        details["private_mode"] = private_mode
        return _inserted(
            Application(
                organization=actor.organization, name=name, private_mode=private_mode
            )
        )


def update_application(
    *,
    actor: Actor,
    application: Application,
    executor_timeout_secs: int | None = None,
    private_mode: bool | None = None,
) -> Application:
    """Change what is given; None leaves a value as it is."""
    changes: dict[str, Any] = {}
    if executor_timeout_secs is not None:
        changes["executor_timeout_secs"] = executor_timeout_secs
    if private_mode is not None:
        changes["private_mode"] = private_mode
    with audited(
        actor=actor,
        operation="application.update",
        target_type="application",
        target_id=application.name,
    ) as details:
        actor.require(Permission.APPLICATION_WRITE, application)
        for name, value in changes.items():
            setattr(application, name, value)
        details.update(changes)
        _validate(application)
        found = Application.objects.filter(pk=application.pk)
        if changes and found.update(**changes) != 1:
            raise errors.NotFound("No such application.")
    return application


def delete_application(*, actor: Actor, application: Application) -> None:
    """Remove an application and everything kept about it. Its sockets are closed by
    the instances within seconds."""
    with audited(
        actor=actor,
        operation="application.delete",
        target_type="application",
        target_id=application.name,
    ):
        actor.require(Permission.APPLICATION_WRITE, application)
        application.delete()


# --- API keys --------------------------------------------------------------------


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
        actor=actor, operation="token.create", target_type="token", target_id=name
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
        key = _inserted(
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
        actor=actor, operation="token.revoke", target_type="token", target_id=key.name
    ):
        actor.require(Permission.TOKEN_WRITE)
        changed = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(
            revoked_at=timezone.now()
        )
    return changed == 1


# --- Members ---------------------------------------------------------------------


def invite_member(
    *, actor: Actor, role: Role, email: str = ""
) -> tuple[Invitation, str]:
    """Make a one-time link; its secret is returned once."""
    with audited(
        actor=actor,
        operation="user.invite",
        target_type="invitation",
        target_id=email,
    ) as details:
        actor.require(Permission.ORGANIZATION_WRITE)
        _check_role(actor, role)
        details["role_name"] = role.name
        secret = secrets.token_urlsafe(32)
        invitation = _inserted(
            Invitation(
                organization=actor.organization,
                role=role,
                email=email,
                secret_hash=keys.hash_secret(secret),
                created_by=actor.user,
                expires_at=timezone.now() + INVITATION_LIFETIME,
            )
        )
    return invitation, secret


def accept_invitation(*, user: User, secret: str) -> Membership:
    """Join by a link, which is used up. Raises: NotFound where it is unknown, used,
    revoked or old; Forbidden where it is for another address; Conflict for a member."""
    with transaction.atomic():
        now = timezone.now()
        invitation = selectors.find_open_invitation(secret, now)
        if invitation is None:
            raise errors.NotFound("This invitation is not valid any more.")
        if not is_invited(invitation, user):
            raise errors.Forbidden("This invitation is for another e-mail address.")
        organization = invitation.organization
        if organization.memberships.filter(user=user).exists():
            raise errors.Conflict(
                f"You are a member of {organization} already. The invitation stays "
                "open for somebody else."
            )
        taken = Invitation.objects.filter(
            pk=invitation.pk, accepted_at=None, revoked_at=None
        ).update(accepted_at=now, accepted_by=user)
        if taken != 1:
            raise errors.NotFound("This invitation is not valid any more.")
        return add_member(
            actor=system_actor(organization), user=user, role=invitation.role
        )


def is_invited(invitation: Invitation, user: User) -> bool:
    """Whether an invitation is for this person: one without address is for anybody."""
    return invitation.email.lower() in ("", user.email.lower())


def add_member(*, actor: Actor, user: User, role: Role) -> Membership:
    """Make a person a member. Raises: Conflict where they are one already."""
    with audited(
        actor=actor,
        operation="user.join",
        target_type="user",
        target_id=str(user.email or user),
    ) as details:
        actor.require(Permission.ORGANIZATION_WRITE)
        _check_role(actor, role)
        details["role_name"] = role.name
        try:
            with transaction.atomic():
                return Membership.objects.create(
                    user=user, organization=actor.organization, role=role
                )
        except IntegrityError as exc:
            raise errors.Conflict("They are a member already.") from exc


def revoke_invitation(*, actor: Actor, invitation: Invitation) -> bool:
    with audited(
        actor=actor,
        operation="user.uninvite",
        target_type="invitation",
        target_id=invitation.email,
    ):
        actor.require(Permission.ORGANIZATION_WRITE)
        changed = Invitation.objects.filter(
            pk=invitation.pk, accepted_at=None, revoked_at=None
        ).update(revoked_at=timezone.now())
    return changed == 1


def change_role(*, actor: Actor, membership: Membership, role: Role) -> None:
    with audited(
        actor=actor,
        operation="role.grant",
        target_type="user",
        target_id=str(membership.user),
    ) as details:
        actor.require(Permission.ORGANIZATION_WRITE)
        _check_role(actor, role)
        _lock_organization(actor)
        if Permission.ORGANIZATION_WRITE not in role.permissions:
            _check_not_last_admin(membership)
        details["role_name"] = role.name
        found = Membership.objects.filter(pk=membership.pk)
        if found.update(role=role) != 1:
            raise errors.NotFound("No such member.")


def remove_member(*, actor: Actor, membership: Membership) -> None:
    with audited(
        actor=actor,
        operation="user.remove",
        target_type="user",
        target_id=str(membership.user),
    ):
        actor.require(Permission.ORGANIZATION_WRITE)
        _lock_organization(actor)
        _check_not_last_admin(membership)
        membership.delete()


def set_user_active(*, actors: Sequence[Actor], user: User, is_active: bool) -> bool:
    """Let a person sign in, or not; recorded in each of their organizations, as which
    the actors act. Sessions end at once. Return False if it was so already."""
    with transaction.atomic():
        for actor in actors:
            actor.require(Permission.ORGANIZATION_WRITE)
        changed = User.objects.filter(pk=user.pk, is_active=not is_active).update(
            is_active=is_active
        )
        for actor in actors if changed else ():
            record_audit(
                actor=actor,
                operation="user.reactivate" if is_active else "user.deactivate",
                target_type="user",
                target_id=str(user.email or user),
            )
    return changed == 1


def _lock_organization(actor: Actor) -> None:
    """Two admins demoting each other must meet."""
    Organization.objects.select_for_update().get(pk=actor.organization.pk)


def _check_role(actor: Actor, role: Role) -> None:
    if role.organization_id not in (None, actor.organization.pk):
        raise errors.NotFound("No such role.")
    if set(role.permissions) - actor.permissions:
        raise errors.Forbidden("You cannot grant a role that holds more than you do.")


def _check_not_last_admin(membership: Membership) -> None:
    def may(m: Membership) -> bool:
        return Permission.ORGANIZATION_WRITE in m.role.permissions

    others = Membership.objects.filter(
        organization_id=membership.organization_id
    ).exclude(pk=membership.pk)
    if may(membership) and not any(may(m) for m in others.select_related("role")):
        raise errors.Conflict("An organization keeps at least one admin.")
