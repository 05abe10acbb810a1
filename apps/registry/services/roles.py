"""An organization's own roles."""

from __future__ import annotations

from collections.abc import Collection

from apps import errors
from apps.registry import selectors
from apps.registry.auth import Actor
from apps.registry.models import Organization, Permission, Role
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited
from apps.registry.services.rows import inserted


def create_role(*, actor: Actor, name: str, permissions: Collection[str]) -> Role:
    """Raises: InvalidInput for an unknown permission; Forbidden for one that the actor
    does not hold; Conflict for a name that is taken, also by a built-in role."""
    with audited(
        actor=actor,
        operation=Operation.ROLE_CREATE,
        target_type=TargetType.ROLE,
        target_id=name,
    ) as details:
        actor.require(Permission.ORGANIZATION_WRITE)
        details["permissions"] = granted = known_permissions(permissions)
        check_holds(actor, granted)
        if Role.objects.filter(organization=None, name=name).exists():
            raise errors.Conflict("That name is taken.", field="name")
        return inserted(
            Role(organization=actor.organization, name=name, permissions=granted)
        )


def delete_role(*, actor: Actor, name: str) -> None:
    """Raises: NotFound; Forbidden for a built-in role; Conflict where a member has it
    or an open invitation gives it."""
    with audited(
        actor=actor,
        operation=Operation.ROLE_DELETE,
        target_type=TargetType.ROLE,
        target_id=name,
    ):
        actor.require(Permission.ORGANIZATION_WRITE)
        lock_organization(actor)
        role = role_named(actor, name)
        if role.is_builtin:
            raise errors.Forbidden("The built-in roles stay.")
        if role.memberships.exists():
            raise errors.Conflict("Members have this role. Give them another first.")
        if selectors.open_invitations(role.invitations.all()).exists():
            raise errors.Conflict(
                "An open invitation gives this role. Revoke it first."
            )
        # What they did is in the audit log.
        role.invitations.all().delete()
        role.delete()


def role_named(actor: Actor, name: str) -> Role:
    """Raises: NotFound."""
    role = selectors.roles_of(actor.organization).filter(name=name).first()
    if role is None:
        raise errors.NotFound("No such role.")
    return role


def known_permissions(names: Collection[str]) -> list[str]:
    """Return each once. Raises: InvalidInput for what is no permission."""
    for name in names:
        if name not in Permission.values:
            raise errors.InvalidInput(
                f"Unknown permission: {name[:64]}.", field="permissions"
            )
    return list(dict.fromkeys(names))


def check_holds(actor: Actor, permissions: Collection[str]) -> None:
    """Raises: Forbidden for what the actor does not hold and so cannot hand on."""
    beyond = set(permissions) - actor.permissions
    if beyond:
        raise errors.Forbidden(
            f"You cannot grant what you do not hold: {', '.join(sorted(beyond))}."
        )


def lock_organization(actor: Actor) -> None:
    """Two admins demoting each other must meet; so must who deletes a role and who
    grants it."""
    Organization.objects.select_for_update().get(pk=actor.organization.pk)
