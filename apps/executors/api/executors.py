"""Operations of the HTTP API: executors."""

from __future__ import annotations

from typing import Any, Literal, cast

from django.http import HttpRequest
from ninja import Path, Router

from apps.api import APP, InApp, Output, Time, operation
from apps.executors import databases
from apps.executors.models import Executor as ExecutorRow
from apps.registry.callers import application_in
from apps.registry.models import Permission

router = Router()

Status = Literal["HEALTHY", "DISCONNECTED", "DEAD"]


class Executor(Output):
    """One process of an application, by the id that it reports."""

    executor_id: str
    app_id: str
    app_version: str
    status: Status
    created_at: Time
    updated_at: Time
    host_id: str | None
    hostname: str | None
    language: str | None
    dbos_version: str | None
    executor_metadata: dict[str, Any] | None
    # Its label, as the query parameter `database` takes it.
    database: str


@operation(
    router,
    "GET",
    f"{APP}/executors",
    "listExecutors",
    permission=Permission.APPLICATION_READ,
    tag="Executors",
    response=list[Executor],
)
def list_executors(request: HttpRequest, path: Path[InApp]) -> list[Executor]:
    """Those that are connected or may still come back, the oldest first. One whose
    work was taken over is in the list of recoveries."""
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    rows = ExecutorRow.objects.filter(application=application)
    rows = rows.select_related("database")
    return [_written(row) for row in rows.order_by("created_at", "pk")]


def _written(row: ExecutorRow) -> Executor:
    return Executor(
        executor_id=row.executor_id,
        app_id=str(row.application_id),
        app_version=row.application_version,
        status=cast("Status", row.state),
        created_at=row.created_at,
        updated_at=row.updated_at,
        host_id=None,
        hostname=row.hostname or None,
        language=row.language or None,
        dbos_version=row.dbos_version or None,
        executor_metadata=row.metadata or None,
        database=row.database.label if row.database else databases.UNKNOWN_LABEL,
    )
