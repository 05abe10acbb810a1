"""Operations of the HTTP API on what executors know and do."""

from apps.workflows.api import (
    aggregates,
    commands,
    queues,
    reads,
    schedules,
    versions,
)

routers = (
    aggregates.router,
    commands.router,
    queues.router,
    reads.router,
    schedules.router,
    versions.router,
)
