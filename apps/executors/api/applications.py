"""Operations of the HTTP API: applications."""

from __future__ import annotations

from typing import Literal, cast

from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from ninja import Path, Router

from apps.api import APP, ORG, Bool, InApp, InOrg, Input, Int64, Output, operation
from apps.executors.models import Executor
from apps.registry import selectors, services
from apps.registry.callers import actor_in, application_in
from apps.registry.models import Application as ApplicationRow
from apps.registry.models import Permission

router = Router()

APPS = f"{ORG}/apps"
TAG = "Applications"


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


class PatchAppInputBody(Input):
    nullable = frozenset(
        {"gc_rows_threshold", "gc_time_threshold_ms", "global_timeout_ms"}
    )

    executor_timeout_secs: Int64 | None = None
    private_mode: Bool | None = None
    gc_rows_threshold: Int64 | None = None
    gc_time_threshold_ms: Int64 | None = None
    global_timeout_ms: Int64 | None = None

    def changes(self) -> services.ApplicationChanges:
        """What is given. A threshold that is null or 0 is taken away."""
        given = {
            name: (value or None) if name in self.nullable else value
            for name, value in self.model_dump(exclude_unset=True).items()
            if name in self.nullable or value is not None
        }
        given.pop("schema_url", None)
        return cast("services.ApplicationChanges", given)


@operation(
    router,
    "GET",
    APPS,
    "listApps",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[Application],
)
def list_apps(request: HttpRequest, path: Path[InOrg]) -> list[Application]:
    """All that the caller may see; of a key for some applications, those."""
    actor = actor_in(request, path.org_name)
    actor.require(Permission.APPLICATION_READ)
    found = selectors.applications_of(actor)
    healthy = _healthy(OuterRef("pk")).values("language")[:1]
    rows = found.annotate(connected_language=Subquery(healthy))
    return [_written(row, row.connected_language) for row in rows]


@operation(
    router,
    "GET",
    APP,
    "getApp",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=Application,
)
def get_app(request: HttpRequest, path: Path[InApp]) -> Application:
    """One application, with whether an executor of it is connected."""
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    languages = _healthy(application.pk).values_list("language", flat=True)
    return _written(application, languages.first())


@operation(
    router,
    "PUT",
    APP,
    "registerApp",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def register_app(
    request: HttpRequest, path: Path[InApp], body: PutAppInputBody | None = None
) -> None:
    """Create it, or set what is given of the one that is there."""
    services.register_application(
        actor=actor_in(request, path.org_name),
        name=path.app_name,
        private_mode=body.private_mode if body else None,
    )


@operation(
    router,
    "PATCH",
    APP,
    "updateApp",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def update_app(
    request: HttpRequest, path: Path[InApp], body: PatchAppInputBody
) -> None:
    """Change what is given; a threshold that is null or 0 is taken away."""
    actor, application = application_in(request, path, None)
    services.update_application(actor=actor, application=application, **body.changes())


@operation(
    router,
    "DELETE",
    APP,
    "deleteApp",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def delete_app(request: HttpRequest, path: Path[InApp]) -> None:
    """Remove it with everything kept about it. Its executors are disconnected."""
    actor, application = application_in(request, path, None)
    services.delete_application(actor=actor, application=application)


def _healthy(application: int | OuterRef) -> QuerySet[Executor]:
    return Executor.objects.filter(
        application=application, state=Executor.State.HEALTHY
    ).order_by()


def _written(row: ApplicationRow, language: str | None) -> Application:
    """`language` is a healthy executor's, empty where it does not say; None where there
    is no such executor."""
    return Application(
        id=str(row.pk),
        name=row.name,
        org_id=str(row.organization_id),
        status="UNAVAILABLE" if language is None else "AVAILABLE",
        dbos_cloud=False,
        language=language or None,
        private_mode=row.private_mode,
        executor_timeout_secs=row.executor_timeout_secs,
        gc_rows_threshold=row.gc_rows_threshold,
        gc_time_threshold_ms=row.gc_time_threshold_ms,
        global_timeout_ms=row.global_timeout_ms,
    )
