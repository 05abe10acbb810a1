"""Registered applications."""

from __future__ import annotations

from typing import TypedDict, Unpack

from apps import errors
from apps.registry import selectors
from apps.registry.auth import Actor
from apps.registry.models import (
    Application,
    Permission,
)
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import audited
from apps.registry.services.rows import inserted, validate


def create_application(
    *, actor: Actor, name: str, private_mode: bool = False
) -> Application:
    with audited(
        actor=actor,
        operation=Operation.APPLICATION_CREATE,
        target_type=TargetType.APPLICATION,
        target_id=name,
    ) as details:
        actor.require(Permission.APPLICATION_WRITE)
        if actor.application_ids is not None:
            raise errors.Forbidden("This key is for certain applications only.")
        details["private_mode"] = private_mode
        return inserted(
            Application(
                organization=actor.organization, name=name, private_mode=private_mode
            )
        )


def register_application(
    *, actor: Actor, name: str, private_mode: bool | None = None
) -> Application:
    """Create an application, or set what is given of the one that is there. Safe to
    call twice at once."""
    named = selectors.applications_of(actor).filter(name=name)
    found = named.first()
    if found is None:
        try:
            return create_application(
                actor=actor, name=name, private_mode=bool(private_mode)
            )
        except errors.Conflict:
            found = named.first()
            if found is None:
                raise
    changes: ApplicationChanges = {}
    if private_mode is not None:
        changes["private_mode"] = private_mode
    return update_application(actor=actor, application=found, **changes)


class ApplicationChanges(TypedDict, total=False):
    """What may be changed; a threshold that is None is none."""

    executor_timeout_secs: int
    private_mode: bool
    gc_rows_threshold: int | None
    gc_time_threshold_ms: int | None
    global_timeout_ms: int | None


def update_application(
    *, actor: Actor, application: Application, **changes: Unpack[ApplicationChanges]
) -> Application:
    """Change what is given. Raises: InvalidInput, NotFound where it is gone."""
    with audited(
        actor=actor,
        operation=Operation.APPLICATION_UPDATE,
        target_type=TargetType.APPLICATION,
        target_id=application.name,
    ) as details:
        details.update(changes)
        actor.require(Permission.APPLICATION_WRITE, application)
        for name, value in changes.items():
            setattr(application, name, value)
        validate(application)
        found = Application.objects.filter(pk=application.pk)
        if changes and found.update(**changes) != 1:
            raise errors.NotFound("No such application.")
    return application


def delete_application(*, actor: Actor, application: Application) -> None:
    """Remove an application and everything kept about it. Its sockets are closed by
    the instances within seconds."""
    with audited(
        actor=actor,
        operation=Operation.APPLICATION_DELETE,
        target_type=TargetType.APPLICATION,
        target_id=application.name,
    ):
        actor.require(Permission.APPLICATION_WRITE, application)
        application.delete()
