"""Alerting rules: written by people; their evaluation reads the collected metrics."""

from __future__ import annotations

import uuid
from typing import Any

from apps import errors
from apps.monitoring.models import AlertingRule
from apps.registry import selectors as registry
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.services import audited

MAX_RULES = 100


def create_rule(
    *,
    actor: Actor,
    application: Application,
    rule_type: str,
    rule_metadata: dict[str, Any],
    min_interval_secs: int | None = None,
    receiving_application_name: str | None = None,
) -> AlertingRule:
    """Store a rule whose metadata is valid for its type. Raises: Forbidden,
    InvalidInput, Conflict."""
    rule_id = uuid.uuid4()
    with audited(
        actor=actor,
        operation=Operation.ALERTING_RULE_CREATE,
        target_type=TargetType.ALERTING_RULE,
        target_id=str(rule_id),
    ) as details:
        details.update(
            application_name=application.name,
            rule_type=rule_type,
            rule_metadata=rule_metadata,
            min_interval_secs=min_interval_secs,
            receiving_application_name=receiving_application_name or application.name,
        )
        actor.require(Permission.APPLICATION_WRITE, application)
        receiver = _receiver(actor, application, receiving_application_name)
        if receiver == application and rule_type == (
            AlertingRule.Type.UNRESPONSIVE_APPLICATION
        ):
            raise errors.InvalidInput(
                "An application that does not respond hears of nothing: name another "
                "one that is to.",
                field="receiving_app_name",
            )
        if min_interval_secs is not None and min_interval_secs < 0:
            raise errors.InvalidInput("No time is negative.", field="min_interval_secs")
        # Of two at once, both may pass; the bound need not be exact.
        if AlertingRule.objects.filter(application=application).count() >= MAX_RULES:
            raise errors.Conflict(f"An application has {MAX_RULES} rules at most.")
        return AlertingRule.objects.create(
            id=rule_id,
            application=application,
            receiving_application=receiver,
            rule_type=rule_type,
            rule_metadata=rule_metadata,
            min_interval_secs=min_interval_secs,
        )


def delete_rule(*, actor: Actor, application: Application, rule_id: str) -> None:
    """Raises: Forbidden, NotFound."""
    with audited(
        actor=actor,
        operation=Operation.ALERTING_RULE_DELETE,
        target_type=TargetType.ALERTING_RULE,
        target_id=rule_id,
    ) as details:
        details["application_name"] = application.name
        actor.require(Permission.APPLICATION_WRITE, application)
        try:
            pk = uuid.UUID(rule_id)
        except ValueError:
            raise errors.NotFound("No such alerting rule.") from None
        rules = AlertingRule.objects.filter(application=application, pk=pk)
        if not rules.delete()[0]:
            raise errors.NotFound("No such alerting rule.")


def _receiver(actor: Actor, application: Application, name: str | None) -> Application:
    if name is None or name == application.name:
        return application
    found = registry.applications_of(actor).filter(name=name).first()
    if found is None:
        raise errors.InvalidInput(
            "There is no such application, or not for you.", field="receiving_app_name"
        )
    return found
