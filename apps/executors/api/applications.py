"""Operations of the HTTP API: applications and their executors."""

from __future__ import annotations

from typing import Literal

from django.http import HttpRequest
from ninja import Path, Router

from apps.api import Bool, InApp, InOrg, Input, Int64, Output, operation
from apps.executors.models import Executor
from apps.registry import selectors, services
from apps.registry.callers import actor_in, application_in
from apps.registry.models import Application as ApplicationRow
from apps.registry.models import Permission

router = Router()

APPS = "/v2/orgs/{orgName}/apps"
APP = f"{APPS}/{{appName}}"


class Application(Output):
    """A registered application; AVAILABLE while an executor of it is connected."""

    id: str
    name: str
    org_id: str
    status: Literal["AVAILABLE", "UNAVAILABLE"]
    dbos_cloud: bool
    language: str | None
    private_mode: bool
    executor_timeout_secs: Int64
    gc_rows_threshold: Int64 | None
    gc_time_threshold_ms: Int64 | None
    global_timeout_ms: Int64 | None


class PutAppInputBody(Input):
    private_mode: Bool | None = None


@operation(
    router,
    "GET",
    APPS,
    "listApps",
    permission=Permission.APPLICATION_READ,
    tag="Applications",
    response=list[Application],
)
def list_apps(request: HttpRequest, path: Path[InOrg]) -> list[Application]:
    actor = actor_in(request, path.org_name)
    actor.require(Permission.APPLICATION_READ)
    return [_written(row) for row in selectors.applications_of(actor)]


@operation(
    router,
    "GET",
    APP,
    "getApp",
    permission=Permission.APPLICATION_READ,
    tag="Applications",
    response=Application,
)
def get_app(request: HttpRequest, path: Path[InApp]) -> Application:
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    return _written(application)


@operation(
    router,
    "PUT",
    APP,
    "registerApp",
    permission=Permission.APPLICATION_WRITE,
    tag="Applications",
    status=204,
)
def register_app(
    request: HttpRequest, path: Path[InApp], body: PutAppInputBody | None = None
) -> None:
    services.register_application(
        actor=actor_in(request, path.org_name),
        name=path.app_name,
        private_mode=body.private_mode if body else None,
    )


def _written(row: ApplicationRow) -> Application:
    healthy = Executor.objects.filter(application=row, state=Executor.State.HEALTHY)
    language = healthy.values_list("language", flat=True).first()
    return Application(
        id=str(row.pk),
        name=row.name,
        org_id=str(row.organization_id),
        status="UNAVAILABLE" if language is None else "AVAILABLE",
        dbos_cloud=False,
        language=language or None,
        private_mode=row.private_mode,
        executor_timeout_secs=row.executor_timeout_secs,
        gc_rows_threshold=None,
        gc_time_threshold_ms=None,
        global_timeout_ms=None,
    )
