"""Operations of the HTTP API: claims on e-mail domains."""

from __future__ import annotations

from typing import Literal, cast

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from apps.api import ORG, InOrg, Input, Output, Text, Time, omitted, operation
from apps.registry import selectors, services
from apps.registry.callers import actor_in
from apps.registry.models import DomainClaim as DomainClaimRow
from apps.registry.models import Permission

router = Router()

CLAIMS = f"{ORG}/domain-claims"

Status = Literal["pending", "approved", "denied"]


class InDomainClaim(InOrg):
    domain: Text = Field(min_length=4, max_length=253)


class DomainClaim(Output):
    """A domain whose newcomers join the organization, once it is approved."""

    id: str
    domain: str
    org_name: str
    status: Status
    requested_by: str
    requested_at: Time
    decided_by: str | None = omitted()
    decided_at: Time | None = omitted()
    decision_note: str | None = omitted()

    @classmethod
    def of(cls, row: DomainClaimRow) -> DomainClaim:
        return cls(
            id=str(row.pk),
            domain=row.domain,
            org_name=row.organization.name,
            status=cast("Status", row.status),
            requested_by=row.requested_by,
            requested_at=row.requested_at,
            decided_by=row.decided_by or None,
            decided_at=row.decided_at,
            decision_note=row.decision_note or None,
        )


class ListDomainClaimsOutputBody(Output):
    claims: list[DomainClaim]


class RequestDomainClaimInputBody(Input):
    domain: Text = Field(min_length=4, max_length=253)


@operation(
    router,
    "GET",
    CLAIMS,
    "listDomainClaims",
    permission=Permission.ORGANIZATION_READ,
    tag="Orgs",
    response=ListDomainClaimsOutputBody,
    needs_accounts=True,
)
def list_domain_claims(
    request: HttpRequest, path: Path[InOrg]
) -> ListDomainClaimsOutputBody:
    """The domains whose people join this organization, and those it has asked for."""
    rows = selectors.domain_claims_of(actor_in(request, path.org_name))
    return ListDomainClaimsOutputBody(claims=[DomainClaim.of(row) for row in rows])


@operation(
    router,
    "POST",
    CLAIMS,
    "requestDomainClaim",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Orgs",
    response=DomainClaim,
    status=201,
    needs_accounts=True,
)
def request_domain_claim(
    request: HttpRequest, path: Path[InOrg], body: RequestDomainClaimInputBody
) -> DomainClaim:
    """Approved at once if the caller proves it, else by staff. People with a verified
    address of an approved domain join by themselves."""
    row = services.request_domain_claim(
        actor=actor_in(request, path.org_name), domain=body.domain
    )
    return DomainClaim.of(row)


@operation(
    router,
    "DELETE",
    f"{CLAIMS}/{{domain}}",
    "releaseDomainClaim",
    permission=Permission.ORGANIZATION_WRITE,
    tag="Orgs",
    status=204,
    needs_accounts=True,
)
def release_domain_claim(request: HttpRequest, path: Path[InDomainClaim]) -> None:
    """Its people join no more by themselves. Who has joined stays."""
    services.release_domain_claim(
        actor=actor_in(request, path.org_name), domain=path.domain
    )
