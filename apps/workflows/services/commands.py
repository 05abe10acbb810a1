"""Orders to workflows: cancel, resume, fork, delete.

Each is audited and recorded before it is sent; the executor's answer closes the record.
`success` from an executor does not say that a workflow exists, so that is asked first.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from django.db import transaction

from apps import errors
from apps.executors import clock, gateway
from apps.executors.models import Executor
from apps.executors.protocol import messages
from apps.executors.protocol.messages import Request
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.auth import Actor
from apps.registry.models import Application, AuditEntry, Permission
from apps.registry.services import record_audit
from apps.workflows.models import WorkflowCommand
from apps.workflows.services import snapshots

COMMAND_TIMEOUT_S = 20.0
Kind = WorkflowCommand.Kind


@dataclass(frozen=True, slots=True)
class Order:
    """Who orders what, of which workflow."""

    actor: Actor
    application: Application
    kind: WorkflowCommand.Kind
    workflow_id: str


def cancel_workflow(
    *,
    actor: Actor,
    application: Application,
    workflow_id: str,
    cancel_children: bool = False,
) -> None:
    """Cancel; a running step finishes first. Harmless on a finished workflow."""
    order = Order(actor, application, Kind.CANCEL, workflow_id)
    request = messages.Cancel(
        workflow_ids=(workflow_id,), cancel_children=cancel_children
    )
    _give(order, request, {"cancel_children": cancel_children})


def resume_workflow(
    *, actor: Actor, application: Application, workflow_id: str
) -> None:
    """Let a workflow go on that was cancelled or gave up; else no effect."""
    order = Order(actor, application, Kind.RESUME, workflow_id)
    _give(order, messages.Resume(workflow_ids=(workflow_id,)), {})


def fork_workflow(
    *,
    actor: Actor,
    application: Application,
    workflow_id: str,
    start_step: int | None = None,
    application_version: str | None = None,
    new_workflow_id: str | None = None,
) -> str:
    """Start a copy from a step, from the first one where none is given; return its id.

    The version is the original's unless another is named: without one the SDKs differ.
    """
    order = Order(actor, application, Kind.FORK, workflow_id)
    new_id = new_workflow_id or str(uuid.uuid4())
    _require(order)
    original = _existing(order)
    step = first_step(application) if start_step is None else start_step
    request = messages.ForkWorkflow(
        workflow_id=workflow_id,
        start_step=step,
        new_workflow_id=new_id,
        application_version=application_version or original.application_version,
    )
    _send(order, request, {"start_step": step, "new_workflow_id": new_id})
    return new_id


def delete_workflow(
    *,
    actor: Actor,
    application: Application,
    workflow_id: str,
    delete_children: bool = False,
) -> None:
    """Remove a workflow and its history for ever."""
    order = Order(actor, application, Kind.DELETE, workflow_id)
    request = messages.Delete(
        workflow_ids=(workflow_id,), delete_children=delete_children
    )
    _give(order, request, {"delete_children": delete_children})
    snapshots.forget(application=application, workflow_ids=[workflow_id])


def first_step(application: Application) -> int:
    """Python counts steps from 1, the other SDKs from 0."""
    is_python = Executor.objects.filter(
        application=application, state=Executor.State.HEALTHY
    ).exclude(language__in=("typescript", "go", "java"))
    return 1 if is_python.exists() else 0


def _give(order: Order, request: Request, details: dict[str, Any]) -> None:
    _require(order)
    _existing(order)
    _send(order, request, details)


def _require(order: Order) -> None:
    try:
        order.actor.require(Permission.APPLICATION_WRITE, order.application)
    except errors.Forbidden:
        _audit(order, {}, AuditEntry.Outcome.DENIED)
        raise


def _existing(order: Order) -> WorkflowRow:
    request = messages.GetWorkflow(
        workflow_id=order.workflow_id, load_input=False, load_output=False
    )
    row = gateway.ask(order.application, request, timeout_s=COMMAND_TIMEOUT_S).output
    if row is None:
        raise errors.NotFound("No such workflow.")
    found: WorkflowRow = row
    return found


def _send(order: Order, request: Request, details: dict[str, Any]) -> None:
    with transaction.atomic():
        command = WorkflowCommand.objects.create(
            application=order.application,
            kind=order.kind,
            workflow_ids=[order.workflow_id],
            actor_display=order.actor.display[:254],
            detail=details,
        )
        _audit(order, details, AuditEntry.Outcome.SUCCESS)
    try:
        gateway.ask(order.application, request, timeout_s=COMMAND_TIMEOUT_S)
    except errors.ConductorError as exc:
        _close(command, WorkflowCommand.State.FAILED, exc.message)
        _audit(order, {"reason": exc.message}, AuditEntry.Outcome.FAILURE)
        raise
    _close(command, WorkflowCommand.State.DONE, "")
    _refresh(order)


def _refresh(order: Order) -> None:
    """Let the snapshot follow at once, where the executor is quick to say."""
    if order.kind == Kind.DELETE:
        return
    try:
        row = _existing(order)
    except errors.ConductorError:
        return
    snapshots.remember(application=order.application, rows=[row])


def _close(command: WorkflowCommand, state: WorkflowCommand.State, error: str) -> None:
    WorkflowCommand.objects.filter(
        pk=command.pk, state=WorkflowCommand.State.SENT
    ).update(state=state, error=error[:500], finished_at=clock.now())


def _audit(order: Order, details: dict[str, Any], outcome: str) -> None:
    record_audit(
        actor=order.actor,
        operation=f"workflow.{order.kind}",
        target_type="workflow",
        target_id=order.workflow_id,
        details={"application_name": order.application.name, **details},
        outcome=outcome,
    )
