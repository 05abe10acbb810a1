"""Operations of the HTTP API on what executors know and do."""

from apps.workflows.api import aggregates, queues, reads, schedules, versions

# Aggregates first: their paths would be workflows' ids.
routers = (
    aggregates.router,
    reads.router,
    queues.router,
    schedules.router,
    versions.router,
)
