"""Who acts, and what they may do. Permissions are decided here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from django.contrib.auth.models import User
from django.http import HttpRequest

from apps import errors
from apps.registry.models import (
    ApiKey,
    Application,
    Membership,
    Organization,
    Permission,
)

ALL_PERMISSIONS = frozenset(Permission.values)


class Traces(TypedDict, total=False):
    """Where a request came from."""

    source_ip: str
    request_id: str
    user_agent: str


NO_TRACES: Traces = {}


class Identity(TypedDict):
    """What remains of an actor when only its name is needed. Fit for JSON."""

    kind: str
    id: str
    display: str
    source_ip: str
    request_id: str
    user_agent: str
    key_prefix: str


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody in one organization: a member, a key, or Conductor itself."""

    kind: str
    id: str
    display: str
    organization: Organization
    permissions: frozenset[str]
    # None: every application of the organization.
    application_ids: frozenset[int] | None = None
    user: User | None = None
    source_ip: str = ""
    request_id: str = ""
    user_agent: str = ""
    # Where the actor is an API key: dbos_<prefix>_….
    key_prefix: str = ""

    def identity(self) -> Identity:
        """Who it is and where the request came from; of this the audit log is made."""
        return {
            "kind": self.kind,
            "id": self.id,
            "display": self.display,
            "source_ip": self.source_ip,
            "request_id": self.request_id,
            "user_agent": self.user_agent,
            "key_prefix": self.key_prefix,
        }

    def sees(self, application: Application) -> bool:
        return application.organization_id == self.organization.pk and (
            self.application_ids is None or application.pk in self.application_ids
        )

    def may(self, permission: str, application: Application | None = None) -> bool:
        if application is not None and not self.sees(application):
            return False
        return permission in self.permissions

    def require_staff(self) -> None:
        """Raises: Forbidden."""
        if self.kind != "staff":
            raise errors.Forbidden("This is for staff only.")

    def require(self, permission: str, application: Application | None = None) -> None:
        """Raises: NotFound for what the actor cannot see, Forbidden for what it may
        not do."""
        if application is not None and not self.sees(application):
            raise errors.NotFound("No such application.")
        if permission not in self.permissions:
            raise errors.Forbidden(f"This needs the permission {permission}.")


def actor_for(request: HttpRequest, organization_name: str) -> Actor:
    """Return the signed-in person as a member of the organization.

    Raises: NotSignedIn; NotFound, also where the organization exists but is not theirs.
    """
    user = signed_in_user(request)
    membership = membership_of(user, organization_name)
    return member_actor(membership, user, traces(request))


def membership_of(user: User, organization_name: str) -> Membership:
    """Raises: NotFound, also where the organization exists but is not theirs."""
    membership = (
        Membership.objects.select_related("organization", "role")
        .filter(user=user, user__is_active=True, organization__name=organization_name)
        .first()
    )
    if membership is None:
        raise errors.NotFound("No such organization.")
    return membership


def signed_in_user(request: HttpRequest) -> User:
    """Raises: NotSignedIn."""
    if not isinstance(request.user, User):
        raise errors.NotSignedIn("Sign in first.")
    return request.user


def member_actor(
    membership: Membership, user: User, traces: Traces = NO_TRACES
) -> Actor:
    """Return a member as an actor, with the traces of a request for the audit log."""
    return Actor(
        kind="user",
        id=str(user.pk),
        display=user.email or user.get_username(),
        organization=membership.organization,
        permissions=frozenset(membership.role.permissions) & ALL_PERMISSIONS,
        user=user,
        **traces,
    )


def newcomer_actor(
    user: User, organization: Organization, traces: Traces = NO_TRACES
) -> Actor:
    """Return a person on the way into an organization. They may do nothing there yet:
    whoever lets them in checks what lets them in."""
    return Actor(
        kind="user",
        id=str(user.pk),
        display=user.email or user.get_username(),
        organization=organization,
        permissions=frozenset(),
        user=user,
        **traces,
    )


def member_actors(user: User, request: HttpRequest) -> list[Actor]:
    """Return a person as an actor in each of their organizations: what they do with
    their own account is recorded there."""
    memberships = user.memberships.select_related("organization", "role")
    return [
        member_actor(membership, user, traces(request)) for membership in memberships
    ]


def key_actor(key: ApiKey) -> Actor:
    """Return what a usable API key stands for. Queries: one, unless it is for all."""
    applications = None
    if not key.all_applications:
        applications = frozenset(key.applications.values_list("pk", flat=True))
    return Actor(
        kind="api_key",
        id=str(key.pk),
        display=key.name,
        organization=key.organization,
        permissions=frozenset(key.permissions) & ALL_PERMISSIONS,
        application_ids=applications,
        key_prefix=key.prefix,
    )


def staff_actor(request: HttpRequest, organization: Organization) -> Actor:
    """Return a member of staff, who acts on an organization from the Django admin."""
    user = signed_in_user(request)
    if not (user.is_staff and user.is_active):
        raise errors.Forbidden("This is for staff only.")
    return Actor(
        kind="staff",
        id=str(user.pk),
        display=user.email or user.get_username(),
        organization=organization,
        permissions=ALL_PERMISSIONS,
        user=user,
        **traces(request),
    )


def traces(request: HttpRequest) -> Traces:
    """Where a request came from, for the audit log."""

    def read(name: str, limit: int) -> str:
        # PostgreSQL stores no NUL, and a header may hold one.
        return str(request.META.get(name, "")).replace("\0", "")[:limit]

    return {
        "source_ip": read("REMOTE_ADDR", 45),
        "request_id": read("HTTP_X_REQUEST_ID", 64),
        "user_agent": read("HTTP_USER_AGENT", 256),
    }


def past_actor(organization: Organization, identity: Identity) -> Actor:
    """Who did something then; may do nothing now."""
    return Actor(organization=organization, permissions=frozenset(), **identity)


def system_actor(organization: Organization) -> Actor:
    """Conductor itself, or whoever has a shell on its machine."""
    return Actor("system", "system", "system", organization, ALL_PERMISSIONS)
