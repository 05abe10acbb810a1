"""Organizations and the roles in them."""

from __future__ import annotations

import re
import secrets

from django.contrib.auth.models import User
from django.db import transaction

from apps.registry.auth import Actor, system_actor
from apps.registry.models import (
    Membership,
    Organization,
    Permission,
    Role,
)
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited, record_audit
from apps.registry.services.rows import inserted


def create_organization(*, user: User, name: str) -> Organization:
    """Found an organization; the founder is its admin."""
    with transaction.atomic():
        organization = inserted(Organization(name=name))
        membership = Membership.objects.create(
            user=user, organization=organization, role=builtin_role(Role.ADMIN)
        )
        actor = system_actor(organization)
        record_audit(
            actor=actor,
            operation=Operation.ORGANIZATION_CREATE,
            target_type=TargetType.ORGANIZATION,
            target_id=name,
            details={"admin": str(membership.user)},
        )
    return organization


def allow_unsigned_imports(*, actor: Actor, allowed: bool) -> None:
    """Decide whether this organization imports what this Conductor did not export."""
    organization = actor.organization
    with audited(
        actor=actor,
        operation=Operation.ORGANIZATION_UPDATE,
        target_type=TargetType.ORGANIZATION,
        target_id=organization.name,
    ) as details:
        details["allows_unsigned_imports"] = allowed
        actor.require(Permission.ORGANIZATION_WRITE)
        Organization.objects.filter(pk=organization.pk).update(
            allows_unsigned_imports=allowed
        )


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
