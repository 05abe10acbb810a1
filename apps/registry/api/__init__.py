"""Operations of the HTTP API on the registry, one module for each kind of thing."""

from apps.registry.api import (
    audit,
    domain_claims,
    imports,
    members,
    organizations,
    roles,
    tokens,
    users,
)

routers = (
    audit.router,
    domain_claims.router,
    imports.router,
    members.router,
    organizations.router,
    roles.router,
    tokens.router,
    users.router,
)
