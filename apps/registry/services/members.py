"""Members, their roles, and the invitations by which they come."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from apps import errors
from apps.registry import keys, selectors
from apps.registry.auth import (
    NO_TRACES,
    Actor,
    Traces,
    newcomer_actor,
)
from apps.registry.models import Invitation, Membership, Permission, Role
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited, in_order, record_audit
from apps.registry.services.organizations import builtin_role
from apps.registry.services.roles import lock_organization, role_named
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
        details["role_name"] = role.name
        actor.require(Permission.ORGANIZATION_WRITE)
        lock_organization(actor)
        _check_role(actor, role)
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


def accept_invitation(
    *,
    user: User,
    secret: str,
    organization_name: str | None = None,
    traces: Traces = NO_TRACES,
) -> Membership:
    """Join by a link, which is used up. Raises: NotFound where it is unknown, used,
    revoked, old, or not into the organization that is named; Forbidden where it is for
    another address; Conflict for a member."""
    now = timezone.now()
    invitation = selectors.find_open_invitation(secret, now)
    if invitation is None or organization_name not in (
        None,
        invitation.organization.name,
    ):
        raise errors.NotFound("This invitation is not valid any more.")
    organization, role = invitation.organization, invitation.role
    with audited(
        actor=newcomer_actor(user, organization, traces),
        operation=Operation.USER_JOIN,
        target_type=TargetType.USER,
        target_id=user.get_username(),
    ) as details:
        details["role_name"] = role.name
        if not is_invited(invitation, user):
            raise errors.Forbidden("This invitation is for another e-mail address.")
        taken = selectors.open_invitations(
            Invitation.objects.filter(pk=invitation.pk)
        ).update(accepted_at=now, accepted_by=user)
        if taken != 1:
            raise errors.NotFound("This invitation is not valid any more.")
        return inserted(
            Membership(user=user, organization=organization, role=role),
            message=f"You are a member of {organization} already. The invitation stays "
            "open for somebody else.",
        )


def join_by_domain(*, user: User, traces: Traces = NO_TRACES) -> Membership | None:
    """Make a person a member of the organization that claimed the domain of a verified
    address of theirs; None where no organization did."""
    claim = selectors.find_claim_for(user)
    if claim is None:
        return None
    role = builtin_role(Role.MEMBER)
    with audited(
        actor=newcomer_actor(user, claim.organization, traces),
        operation=Operation.USER_JOIN,
        target_type=TargetType.USER,
        target_id=user.get_username(),
    ) as details:
        details.update(role_name=role.name, domain=claim.domain)
        return inserted(
            Membership(user=user, organization=claim.organization, role=role),
            message="You are a member already.",
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
        target_id=user.get_username(),
    ) as details:
        details["role_name"] = role.name
        actor.require(Permission.ORGANIZATION_WRITE)
        lock_organization(actor)
        _check_role(actor, role)
        return inserted(
            Membership(user=user, organization=actor.organization, role=role),
            message="They are a member already.",
        )


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


def change_role(*, actor: Actor, username: str, role_name: str) -> None:
    """Give a member another role in place of the one they have. Raises: NotFound;
    Forbidden for a role that holds more than the actor; Conflict for the last admin."""
    with audited(
        actor=actor,
        operation=Operation.ROLE_GRANT,
        target_type=TargetType.USER,
        target_id=username,
    ) as details:
        details["role_name"] = role_name
        actor.require(Permission.ORGANIZATION_WRITE)
        lock_organization(actor)
        membership = _member(actor, username)
        role = role_named(actor, role_name)
        _check_grant(actor, role)
        if not _is_admin(role):
            _check_not_last_admin(membership)
        membership.role = role
        membership.save(update_fields=["role"])


def remove_member(*, actor: Actor, username: str) -> Membership:
    """Raises: NotFound; Conflict for the last admin."""
    with audited(
        actor=actor,
        operation=Operation.USER_REMOVE,
        target_type=TargetType.USER,
        target_id=username,
    ):
        actor.require(Permission.ORGANIZATION_WRITE)
        lock_organization(actor)
        membership = _member(actor, username)
        _check_not_last_admin(membership)
        Membership.objects.filter(pk=membership.pk).delete()
    return membership


def set_user_active(*, actors: Sequence[Actor], user: User, is_active: bool) -> bool:
    """Let a person sign in, or not; recorded in each of their organizations, as which
    the actors act. Sessions end at once. Return False if it was so already."""
    with transaction.atomic():
        for actor in actors:
            actor.require(Permission.ORGANIZATION_WRITE)
        changed = User.objects.filter(pk=user.pk, is_active=not is_active).update(
            is_active=is_active
        )
        for actor in in_order(actors) if changed else ():
            record_audit(
                actor=actor,
                operation=Operation.USER_REACTIVATE
                if is_active
                else Operation.USER_DEACTIVATE,
                target_type=TargetType.USER,
                target_id=str(user.email or user),
            )
    return changed == 1


def _member(actor: Actor, username: str) -> Membership:
    members = Membership.objects.filter(
        organization=actor.organization, user__username=username
    )
    member = members.select_related("user", "role").first()
    if member is None:
        raise errors.NotFound("No such member.")
    return member


def _check_role(actor: Actor, role: Role) -> None:
    """Also that it was not deleted meanwhile."""
    if not selectors.roles_of(actor.organization).filter(pk=role.pk).exists():
        raise errors.NotFound("No such role.")
    _check_grant(actor, role)


def _check_grant(actor: Actor, role: Role) -> None:
    if set(role.permissions) - actor.permissions:
        raise errors.Forbidden("You cannot grant a role that holds more than you do.")


def _is_admin(role: Role) -> bool:
    return set(role.permissions) >= set(builtin_role(Role.ADMIN).permissions)


def _check_not_last_admin(membership: Membership) -> None:
    """Somebody who can sign in stays able to do everything."""
    others = Membership.objects.filter(
        organization_id=membership.organization_id, user__is_active=True
    ).exclude(pk=membership.pk)
    if _is_admin(membership.role) and not any(
        _is_admin(other.role) for other in others.select_related("role")
    ):
        raise errors.Conflict("An organization keeps at least one admin.")
