"""Operations of the HTTP API: what an organization imports."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Path, Router

from apps.api import ORG, Bool, InOrg, Input, Output, operation
from apps.registry import selectors, services
from apps.registry.callers import actor_in
from apps.registry.models import Permission

router = Router()

POLICY = f"{ORG}/import-policy"
TAG = "Organizations"


class ImportPolicy(Output):
    """Whether workflows are imported that this Conductor did not export: whoever may
    import then runs any code in the organization's Python executors."""

    allow_unsigned: bool


class ImportPolicyInputBody(Input):
    allow_unsigned: Bool


@operation(
    router,
    "GET",
    POLICY,
    "getImportPolicy",
    permission=Permission.ORGANIZATION_READ,
    tag=TAG,
    response=ImportPolicy,
    is_extension=True,
)
def get_import_policy(request: HttpRequest, path: Path[InOrg]) -> ImportPolicy:
    """Whether workflows that other Conductors exported may be imported."""
    actor = actor_in(request, path.org_name)
    actor.require(Permission.ORGANIZATION_READ)
    allowed = selectors.allows_unsigned_imports(actor.organization)
    return ImportPolicy(allow_unsigned=allowed)


@operation(
    router,
    "PUT",
    POLICY,
    "setImportPolicy",
    permission=Permission.ORGANIZATION_WRITE,
    tag=TAG,
    status=204,
    is_extension=True,
)
def set_import_policy(
    request: HttpRequest, path: Path[InOrg], body: ImportPolicyInputBody
) -> None:
    """Without `allowUnsigned` only what this Conductor exported is imported."""
    services.update_organization(
        actor=actor_in(request, path.org_name),
        allows_unsigned_imports=body.allow_unsigned,
    )
