"""Operations of the HTTP API: members and how they come in."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from apps.api import ORG, InOrg, Input, Output, Text, operation
from apps.registry import auth, selectors, services
from apps.registry.api.roles import InRole, RoleOutput
from apps.registry.callers import actor_in, person_of
from apps.registry.models import Permission, Profile, Role

router = Router()

MEMBER = f"{ORG}/members/{{username}}"


class InMember(InOrg):
    username: str = Field(pattern=r"^[a-z0-9_]+$", min_length=3, max_length=30)


class InMemberRole(InMember, InRole):
    pass


class OrgMembers(Output):
    """Everybody in an organization, by username, with their role."""

    org_name: str
    users: dict[str, RoleOutput]


class Member(Output):
    id: str
    name: str
    email: str
    given_name: str
    family_name: str
    company: str
    org_id: str


class JoinOrgInputBody(Input):
    secret: Text


class GenerateSecretOutputBody(Output):
    secret: str


@operation(
    router,
    "GET",
    f"{ORG}/members",
    "listMembers",
    permission=Permission.ORGANIZATION_READ,
    tag="Orgs",
    response=OrgMembers,
    needs_accounts=True,
)
def list_members(request: HttpRequest, path: Path[InOrg]) -> OrgMembers:
    """Every member by their name, with their role."""
    members = selectors.memberships_of(actor_in(request, path.org_name))
    return OrgMembers(
        org_name=path.org_name,
        users={one.user.get_username(): RoleOutput.of(one.role) for one in members},
    )


@operation(
    router,
    "DELETE",
    MEMBER,
    "removeMember",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Orgs",
    response=Member,
    needs_accounts=True,
)
def remove_member(request: HttpRequest, path: Path[InMember]) -> Member:
    """Returns who they were. The last admin stays."""
    row = services.remove_member(
        actor=actor_in(request, path.org_name), username=path.username
    )
    user = row.user
    profile = Profile.objects.filter(user=user).first()
    return Member(
        id=str(user.pk),
        name=user.get_username(),
        email=user.email,
        given_name=user.first_name,
        family_name=user.last_name,
        company=profile.company if profile else "",
        org_id=str(row.organization_id),
    )


@operation(
    router,
    "PUT",
    f"{MEMBER}/roles/{{roleName}}",
    "grantRole",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Roles",
    status=204,
    needs_accounts=True,
)
def grant_role(request: HttpRequest, path: Path[InMemberRole]) -> None:
    """The member's one role from now on. The last admin stays one."""
    services.change_role(
        actor=actor_in(request, path.org_name),
        username=path.username,
        role_name=path.role_name,
    )


@operation(
    router,
    "POST",
    f"{ORG}/secrets",
    "generateSecret",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Orgs",
    response=GenerateSecretOutputBody,
    status=201,
    needs_accounts=True,
)
def generate_join_secret(
    request: HttpRequest, path: Path[InOrg]
) -> GenerateSecretOutputBody:
    """An invitation for anybody, once, as a plain member."""
    _, secret = services.invite_member(
        actor=actor_in(request, path.org_name),
        role=services.builtin_role(Role.MEMBER),
    )
    return GenerateSecretOutputBody(secret=secret)


@operation(
    router,
    "POST",
    f"{ORG}/join",
    "joinOrg",
    permission=None,
    tag="Orgs",
    status=204,
    needs_accounts=True,
)
def join_org(request: HttpRequest, path: Path[InOrg], body: JoinOrgInputBody) -> None:
    """Who is a member of other organizations stays that."""
    services.accept_invitation(
        user=person_of(request),
        secret=body.secret,
        organization_name=path.org_name,
        traces=auth.traces(request),
    )
