"""Operations of the HTTP API on what executors know and do."""

from apps.workflows.api import queues, schedules, versions

routers = (queues.router, schedules.router, versions.router)
