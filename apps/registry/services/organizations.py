"""Organizations and the roles in them."""

from __future__ import annotations

from typing import TypedDict, Unpack

from django.contrib.auth.models import User
from django.db import transaction

from apps.registry.auth import NO_TRACES, Actor, Traces, member_actor
from apps.registry.models import Membership, Organization, Permission, Role
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited, record_audit
from apps.registry.services.rows import free_name, inserted, unique, validate


def create_organization(
    *, user: User, name: str, traces: Traces = NO_TRACES
) -> Organization:
    """Found an organization; the founder is its admin."""
    with transaction.atomic():
        organization = inserted(Organization(name=name))
        membership = Membership.objects.create(
            user=user, organization=organization, role=builtin_role(Role.ADMIN)
        )
        record_audit(
            actor=member_actor(membership, user, traces),
            operation=Operation.ORGANIZATION_CREATE,
            target_type=TargetType.ORGANIZATION,
            target_id=name,
            details={"admin": user.get_username()},
        )
    return organization


class OrganizationChanges(TypedDict, total=False):
    """What may be changed. A new name changes every address of the organization's."""

    name: str
    audit_log_retention_days: int
    # Whether it imports workflows that this Conductor did not export.
    allows_unsigned_imports: bool


def update_organization(
    *, actor: Actor, **changes: Unpack[OrganizationChanges]
) -> None:
    """Change what is given. Raises: Conflict for a name that another has."""
    with audited(
        actor=actor,
        operation=Operation.ORGANIZATION_UPDATE,
        target_type=TargetType.ORGANIZATION,
        target_id=actor.organization.name,
    ) as details:
        for name, value in changes.items():
            details["new_name" if name == "name" else name] = value
        actor.require(Permission.ORGANIZATION_WRITE)
        organization = Organization.objects.get(pk=actor.organization.pk)
        for name, value in changes.items():
            setattr(organization, name, value)
        validate(organization)
        with unique(field="new_name"):
            organization.save(update_fields=list(changes))


def free_organization_name(wanted: str) -> str:
    """Return a valid name near `wanted` that no organization has."""
    return free_name(
        wanted, "org", lambda name: Organization.objects.filter(name=name).exists()
    )


def builtin_role(name: str) -> Role:
    return Role.objects.get(organization=None, name=name)
