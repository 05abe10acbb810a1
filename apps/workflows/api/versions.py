"""Operations of the HTTP API: versions of an application."""

from __future__ import annotations

from django.http import HttpRequest
from ninja import Path, Router

from apps.api import APP, InApp, Input, Output, Text, Time, operation
from apps.executors import gateway
from apps.executors.protocol import messages
from apps.registry.callers import aapplication_in, application_in
from apps.registry.models import Permission
from apps.workflows.services import schedules

router = Router()

TAG = "Applications"


class ApplicationVersion(Output):
    """A version that ran at least once. The newest timestamp makes the latest."""

    version_id: str
    version_name: str
    version_timestamp: Time
    created_at: Time


class PatchLatestVersionInputBody(Input):
    version_name: Text


@operation(
    router,
    "GET",
    f"{APP}/versions",
    "listAppVersions",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[ApplicationVersion],
)
async def list_app_versions(
    request: HttpRequest, path: Path[InApp]
) -> list[ApplicationVersion]:
    """As a connected executor knows them, the latest first."""
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    reply = await gateway.aask(application, messages.ListApplicationVersions())
    return [
        ApplicationVersion(
            version_id=row.version_id,
            version_name=row.version_name,
            version_timestamp=row.version_timestamp,
            created_at=row.created_at or row.version_timestamp,
        )
        for row in reply.output
        if row.version_timestamp is not None
    ]


@operation(
    router,
    "PATCH",
    f"{APP}/versions/latest",
    "setLatestAppVersion",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def set_latest_app_version(
    request: HttpRequest, path: Path[InApp], body: PatchLatestVersionInputBody
) -> None:
    """The latest version gets the work that names none: what schedules begin, and forks
    to no version."""
    actor, application = application_in(request, path, None)
    schedules.set_latest_version(
        actor=actor, application=application, name=body.version_name
    )
