"""Operations of the HTTP API on applications and their executors."""

from apps.executors.api import applications

routers = (applications.router,)
