"""Taking a workflow with its history out of an application, and into one.

An import runs code: a Python executor unpickles what it is sent. So an export is signed
for its organization, and nothing else is imported unless the organization allows it.
What is exported is never opened here.
"""

from __future__ import annotations

import hashlib

from django.core.signing import BadSignature, TimestampSigner

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import messages
from apps.registry.auth import Actor
from apps.registry.models import Application, Organization, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.selectors import allows_unsigned_imports
from apps.workflows.services.commands import COMMAND_TIMEOUT_S, Budget, read_rows
from apps.workflows.services.records import recorded

# Base64, in which executors write an export, has no such character.
SEPARATOR = ":"


def export_workflow(
    *,
    actor: Actor,
    application: Application,
    workflow_id: str,
    export_children: bool = False,
) -> str:
    """Return what `import_workflow` takes: opaque, with all inputs and outputs.

    Raises: NotFound; Conflict in private mode; what `gateway.ask` raises.
    """
    with recorded(
        actor=actor,
        application=application,
        operation=Operation.WORKFLOW_EXPORT,
        target_type=TargetType.WORKFLOW,
        target_id=workflow_id,
        workflow_ids=[workflow_id],
        details={"export_children": export_children},
        permission=Permission.APPLICATION_READ,
    ) as record:
        _refuse_in_private_mode(application)
        budget = Budget()
        if workflow_id not in read_rows(application, [workflow_id], budget):
            raise errors.NotFound("There is no such workflow.")
        request = messages.ExportWorkflow(
            workflow_id=workflow_id, export_children=export_children
        )
        reply = gateway.ask(
            application, request, timeout_s=budget.of(COMMAND_TIMEOUT_S)
        )
        if not reply.serialized_workflow:
            raise errors.ExecutorRefused("The executor exported nothing.")
        blob: str = reply.serialized_workflow
        record.details.update(_traits(blob))
    return signer_of(actor.organization).sign(blob)


def import_workflow(
    *, actor: Actor, application: Application, serialized_workflow: str
) -> None:
    """Add an exported workflow to an application. Sent once.

    Raises: Forbidden for what this Conductor did not export for the organization;
    Conflict in private mode; ExecutorRefused where there is such a workflow.
    """
    with recorded(
        actor=actor,
        application=application,
        operation=Operation.WORKFLOW_IMPORT,
        target_type=TargetType.APPLICATION,
        target_id=application.name,
        permission=Permission.WORKFLOW_IMPORT,
    ) as record:
        _refuse_in_private_mode(application)
        blob, is_signed = _unsigned(actor.organization, serialized_workflow)
        record.details.update(_traits(blob), signed=is_signed)
        if not is_signed and not allows_unsigned_imports(actor.organization):
            raise errors.Forbidden(
                "This Conductor did not export that for this organization, and an "
                "import may run code in Python executors. An admin may allow imports "
                "from elsewhere: setImportPolicy."
            )
        request = messages.ImportWorkflow(serialized_workflow=blob)
        gateway.ask(application, request, timeout_s=COMMAND_TIMEOUT_S)


def signer_of(organization: Organization) -> TimestampSigner:
    """Signs what this Conductor exports for an organization; the time is told too."""
    return TimestampSigner(
        sep=SEPARATOR, salt=f"conductor.workflow-export.{organization.pk}"
    )


def _unsigned(organization: Organization, text: str) -> tuple[str, bool]:
    """Return the blob, and whether it is just as we exported it."""
    try:
        return signer_of(organization).unsign(text), True
    except BadSignature:
        # Another Conductor's signature is none of the blob's.
        return text.partition(SEPARATOR)[0], False


def _traits(blob: str) -> dict[str, object]:
    """What the audit log keeps of it."""
    data = blob.encode()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _refuse_in_private_mode(application: Application) -> None:
    if application.private_mode:
        raise errors.Conflict(
            f"{application.name} is in private mode: Conductor carries no data of it."
        )
