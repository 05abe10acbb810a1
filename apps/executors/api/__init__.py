"""Operations of the HTTP API on applications and their executors."""

from apps.executors.api import applications, executors, recoveries

routers = (applications.router, executors.router, recoveries.router)
