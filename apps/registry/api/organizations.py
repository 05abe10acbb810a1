"""Operations of the HTTP API: organizations."""

from __future__ import annotations

from typing import Literal

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from apps.api import ORG, InOrg, Input, Int32, Output, Time, operation
from apps.registry import services
from apps.registry.callers import actor_in
from apps.registry.models import Permission

router = Router()


SubscriptionPlan = Literal["free", "pro", "past_limit", "team"]
# There is nothing to buy: everybody has everything, as much as they like.
PLAN: SubscriptionPlan = "team"
UNLIMITED = 2**31 - 1


class Organization(Output):
    """A tenant. The limits are those of hosted plans; here there are none."""

    id: str
    name: str
    created_at: Time
    subscription_plan: SubscriptionPlan
    audit_log_retention_days: Int32
    max_apps: Int32
    max_conductor_apps: Int32
    max_team_members: Int32
    max_vms: Int32
    max_database_instances: Int32
    default_rds_instance_class_type: str


class UpdateOrgInputBody(Input):
    new_name: str | None = Field(
        None, pattern=r"^[a-z0-9_]+$", min_length=3, max_length=30
    )
    audit_log_retention_days: Int32 | None = Field(None, ge=7, le=3650)


@operation(
    router,
    "GET",
    ORG,
    "getOrg",
    permission=Permission.ORGANIZATION_READ,
    tag="Orgs",
    response=Organization,
    needs_accounts=True,
)
def get_org(request: HttpRequest, path: Path[InOrg]) -> Organization:
    """The organization. Its limits are those of a plan that has none."""
    actor = actor_in(request, path.org_name)
    actor.require(Permission.ORGANIZATION_READ)
    row = actor.organization
    return Organization(
        id=str(row.pk),
        name=row.name,
        created_at=row.created_at,
        subscription_plan=PLAN,
        audit_log_retention_days=row.audit_log_retention_days,
        max_apps=UNLIMITED,
        max_conductor_apps=UNLIMITED,
        max_team_members=UNLIMITED,
        max_vms=UNLIMITED,
        max_database_instances=UNLIMITED,
        default_rds_instance_class_type="",
    )


@operation(
    router,
    "PATCH",
    ORG,
    "updateOrg",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Orgs",
    status=204,
    needs_accounts=True,
)
def update_org(
    request: HttpRequest, path: Path[InOrg], body: UpdateOrgInputBody
) -> None:
    """What is left out stays as it is."""
    changes: services.OrganizationChanges = {}
    if body.new_name is not None:
        changes["name"] = body.new_name
    if body.audit_log_retention_days is not None:
        changes["audit_log_retention_days"] = body.audit_log_retention_days
    services.update_organization(actor=actor_in(request, path.org_name), **changes)
