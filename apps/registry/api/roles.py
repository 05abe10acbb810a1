"""Operations of the HTTP API: roles and permissions."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Path, Router

from apps.api import InOrg, operation
from apps.registry.callers import actor_in
from apps.registry.models import Permission

router = Router()

ORG = "/v2/orgs/{orgName}"


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
    actor_in(request, path.org_name)
    return sorted(Permission.values)
