"""Operations of the HTTP API on applications and their executors."""

from apps.executors.api import applications, executors

routers = (applications.router, executors.router)
