"""Autoscaling policies: written by people, checked with an executor."""

from __future__ import annotations

from typing import Any

from apps import errors
from apps.executors import clock, gateway
from apps.executors.protocol.messages import GetQueue
from apps.monitoring import scaling
from apps.monitoring.models import AutoscalingPolicy
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.services import audited
from apps.registry.services.audit import failure_audited


def set_policy(
    *,
    actor: Actor,
    application: Application,
    queue: str,
    has_rollout: bool = False,
    max_old_versions: int | None = None,
    max_executors_per_old_version: int | None = None,
) -> AutoscalingPolicy:
    """Store a policy in place of the one before. Its queue must exist, and say how much
    one executor takes. Raises: Forbidden; InvalidInput; ConductorError where no
    executor can tell."""
    values: dict[str, Any] = {
        "queue": queue,
        "has_rollout": has_rollout,
        "max_old_versions": max_old_versions,
        "max_executors_per_old_version": max_executors_per_old_version,
    }
    entry: dict[str, Any] = {
        "actor": actor,
        "operation": Operation.AUTOSCALING_POLICY_SET,
        "target_type": TargetType.APPLICATION,
        "target_id": application.name,
    }
    with failure_audited(**entry, details=values):
        actor.require(Permission.APPLICATION_WRITE, application)
        _check_queue(application, queue)
    with audited(**entry) as details:
        details.update(values)
        policy, _ = AutoscalingPolicy.objects.update_or_create(
            application=application, defaults={**values, "updated_at": clock.now()}
        )
    return policy


def delete_policy(*, actor: Actor, application: Application) -> None:
    """Deleting what is not there succeeds, too."""
    with audited(
        actor=actor,
        operation=Operation.AUTOSCALING_POLICY_DELETE,
        target_type=TargetType.APPLICATION,
        target_id=application.name,
    ):
        actor.require(Permission.APPLICATION_WRITE, application)
        AutoscalingPolicy.objects.filter(application=application).delete()


def _check_queue(application: Application, name: str) -> None:
    if not name or len(name) > 255:
        raise errors.InvalidInput("A queue has a name of up to 255 characters.")
    reply = gateway.ask(
        application, GetQueue(name=name), timeout_s=scaling.ASK_TIMEOUT_S
    )
    problem = "It is not registered in the application's database."
    if reply.output is not None:
        problem = scaling.unusable(reply.output)
    if problem:
        raise errors.InvalidInput(
            f"Queue {name} cannot size a fleet. {problem}", field="queue"
        )
