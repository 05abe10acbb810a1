"""Operations of the HTTP API on the registry, one module for each kind of thing."""

from apps.registry.api import imports, roles

routers = (imports.router, roles.router)
