"""Members, their roles, and the invitations by which they come."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps import errors
from apps.registry import keys, selectors
from apps.registry.auth import Actor, system_actor
from apps.registry.models import (
    Invitation,
    Membership,
    Organization,
    Permission,
    Role,
)
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited, record_audit
from apps.registry.services.rows import inserted

INVITATION_LIFETIME = timedelta(days=7)


def invite_member(
    *, actor: Actor, role: Role, email: str = ""
) -> tuple[Invitation, str]:
    """Make a one-time link; its secret is returned once."""
    with audited(
        actor=actor,
        operation=Operation.USER_INVITE,
        target_type=TargetType.USER,
        target_id=email,
    ) as details:
        actor.require(Permission.ORGANIZATION_WRITE)
        _check_role(actor, role)
        details["role_name"] = role.name
        secret = secrets.token_urlsafe(32)
        invitation = inserted(
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
        operation=Operation.USER_JOIN,
        target_type=TargetType.USER,
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
        operation=Operation.USER_UNINVITE,
        target_type=TargetType.USER,
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
        operation=Operation.ROLE_GRANT,
        target_type=TargetType.USER,
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
        operation=Operation.USER_REMOVE,
        target_type=TargetType.USER,
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
                operation=Operation.USER_REACTIVATE
                if is_active
                else Operation.USER_DEACTIVATE,
                target_type=TargetType.USER,
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
