"""Operations of the HTTP API: roles and permissions."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from ninja import Path, Router
from pydantic import Field

from apps.api import ORG, InOrg, Input, Output, Text, created, operation
from apps.registry import selectors, services
from apps.registry.callers import actor_in
from apps.registry.models import Permission, Role

router = Router()

ROLES = f"{ORG}/roles"


class RoleOutput(Output):
    """A role; global is one that every organization has."""

    name: str
    is_global: bool
    permissions: list[str]

    @classmethod
    def of(cls, row: Role) -> RoleOutput:
        return cls(name=row.name, is_global=row.is_builtin, permissions=row.permissions)


class InRole(InOrg):
    role_name: str = Field(pattern=r"^[a-zA-Z0-9_]+$", min_length=3, max_length=30)


class CreateRoleInputBody(Input):
    name: str = Field(pattern=r"^[a-zA-Z0-9_]+$", min_length=3, max_length=30)
    permissions: list[Text] | None = None


class CreateRoleOutputBody(Output):
    name: str
    permissions: list[str]


@operation(
    router,
    "GET",
    f"{ORG}/permissions",
    "listPermissions",
    permission=None,
    tag="Roles",
    response=list[str],
)
def list_permissions(request: HttpRequest, path: Path[InOrg]) -> list[str]:
    """Every permission there is, for roles and keys."""
    actor_in(request, path.org_name)
    return sorted(Permission.values)


@operation(
    router,
    "GET",
    ROLES,
    "listRoles",
    permission=Permission.ORGANIZATION_READ,
    tag="Roles",
    response=list[RoleOutput],
    needs_accounts=True,
)
def list_roles(request: HttpRequest, path: Path[InOrg]) -> list[RoleOutput]:
    """The built-in roles and the organization's own."""
    actor = actor_in(request, path.org_name)
    actor.require(Permission.ORGANIZATION_READ)
    return [RoleOutput.of(row) for row in selectors.roles_of(actor.organization)]


@operation(
    router,
    "POST",
    ROLES,
    "createRole",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Roles",
    response=CreateRoleOutputBody,
    status=201,
    location=True,
    needs_accounts=True,
)
def create_role(
    request: HttpRequest, path: Path[InOrg], body: CreateRoleInputBody
) -> HttpResponse:
    """A set of permissions under a name. Nobody puts into it what they do not hold."""
    row = services.create_role(
        actor=actor_in(request, path.org_name),
        name=body.name,
        permissions=body.permissions or [],
    )
    made = CreateRoleOutputBody(name=row.name, permissions=row.permissions)
    return created(made, f"/v2/orgs/{path.org_name}/roles/{row.name}")


@operation(
    router,
    "DELETE",
    f"{ROLES}/{{roleName}}",
    "deleteRole",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Roles",
    status=204,
    needs_accounts=True,
)
def delete_role(request: HttpRequest, path: Path[InRole]) -> None:
    """One of the organization's own that no member has."""
    services.delete_role(actor=actor_in(request, path.org_name), name=path.role_name)
