"""Operations of the HTTP API: the person who calls."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Router
from pydantic import Field

from apps import errors
from apps.api import Input, Output, Text, Time, omitted, operation
from apps.registry import auth, selectors, services
from apps.registry.api.organizations import PLAN, SubscriptionPlan
from apps.registry.api.roles import RoleOutput
from apps.registry.callers import person_of

router = Router()


class RegisterUserInputBody(Input):
    name: str = Field(pattern=r"^[a-z0-9_]+$", min_length=3, max_length=30)
    given_name: Text | None = Field(None, max_length=150)
    family_name: Text | None = Field(None, max_length=150)
    company: Text | None = Field(None, max_length=150)
    secret: Text | None = None


class RegisterUserOutputBody(Output):
    id: str


class UserProfile(Output):
    """Who calls. Of several organizations the one they joined last is named."""

    name: str
    email: str
    org_id: str
    org_name: str
    created_at: Time
    subscription_plan: SubscriptionPlan
    role: RoleOutput | None = omitted()
    # Staff of this Conductor.
    is_dbos_admin: bool | None = omitted()


@operation(
    router,
    "POST",
    "/v2/users",
    "registerUser",
    permission=None,
    tag="Users",
    response=RegisterUserOutputBody,
    status=201,
    needs_accounts=True,
)
def register_user(
    request: HttpRequest, body: RegisterUserInputBody
) -> RegisterUserOutputBody:
    """A person's first call: they join by a secret or by their address's domain, or get
    an organization of their own."""
    user = person_of(request)
    services.register_user(
        user=user,
        name=body.name,
        given_name=body.given_name or "",
        family_name=body.family_name or "",
        company=body.company or "",
        secret=body.secret,
        traces=auth.traces(request),
    )
    return RegisterUserOutputBody(id=str(user.pk))


@operation(
    router,
    "GET",
    "/v2/users/me",
    "getCurrentUser",
    permission=None,
    tag="Users",
    response=UserProfile,
    needs_accounts=True,
)
def get_current_user(request: HttpRequest) -> UserProfile:
    """Who calls, and their organization. A key is nobody."""
    membership = selectors.home_of(person_of(request))
    if membership is None:
        raise errors.NotFound("You belong to no organization yet: register first.")
    user = membership.user
    return UserProfile(
        name=user.get_username(),
        email=user.email,
        org_id=str(membership.organization_id),
        org_name=membership.organization.name,
        created_at=user.date_joined,
        subscription_plan=PLAN,
        role=RoleOutput.of(membership.role),
        is_dbos_admin=user.is_staff or None,
    )
