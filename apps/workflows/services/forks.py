"""Orders that do a workflow's work again: fork, fork from a failure, rewind.

Each is recorded before it is sent; see `records`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apps import errors
from apps.executors import gateway
from apps.executors.models import Executor
from apps.executors.protocol import codec, messages
from apps.registry.auth import Actor
from apps.registry.models import Application
from apps.registry.operations import Operation, TargetType
from apps.workflows.models import FINISHED
from apps.workflows.services.commands import (
    COMMAND_TIMEOUT_S,
    READ_TIMEOUT_S,
    RECORDED_IDS,
    Budget,
    checked_ids,
    read_rows,
)
from apps.workflows.services.records import recorded

# Where nobody says what the first step is numbered.
ZERO_BASED = ("typescript", "go", "java")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the new run goes; None leaves it to the original, or the SDK."""

    application_version: str | None = None
    queue_name: str | None = None
    queue_partition_key: str | None = None

    def told(self) -> dict[str, Any]:
        """What is given of it, by the names of the messages."""
        given = {
            "application_version": self.application_version,
            "queue_name": self.queue_name,
            "queue_partition_key": self.queue_partition_key,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Selector:
    """From which step on failed workflows are forked: one of the four."""

    from_last_failure: bool = False
    from_last_step: bool = False
    from_step: int | None = None
    from_step_name: str | None = None

    def told(self) -> dict[str, Any]:
        """The one that is chosen. Raises: InvalidInput where that is not one."""
        chosen: dict[str, Any] = {}
        if self.from_last_failure:
            chosen["from_last_failure"] = True
        if self.from_last_step:
            chosen["from_last_step"] = True
        if self.from_step is not None:
            chosen["from_step"] = checked_step(self.from_step, field="from_step")
        if self.from_step_name:
            chosen["from_step_name"] = self.from_step_name
        if len(chosen) != 1:
            raise errors.InvalidInput(
                "Choose exactly one of fromLastFailure, fromLastStep, fromStep and "
                "fromStepName."
            )
        return chosen


# --- Fork ----------------------------------------------------------------------------


def fork_workflow(
    *,
    actor: Actor,
    application: Application,
    workflow_id: str,
    start_step: int | None = None,
    place: Place = Place(),
    new_workflow_id: str | None = None,
) -> str:
    """Start a copy from a step, from the first one where none is given; return its id.

    The version is the original's unless another is named: without one the SDKs differ.
    Safe to repeat with the same new id: there is one fork. Raises: NotFound, Conflict.
    """
    new_id = new_workflow_id or str(uuid.uuid4())
    with recorded(
        actor=actor,
        application=application,
        operation=Operation.WORKFLOW_FORK,
        target_type=TargetType.WORKFLOW,
        target_id=workflow_id,
        workflow_ids=[workflow_id],
        details={"new_workflow_id": new_id, **place.told()},
    ) as record:
        (new_id,) = checked_ids([new_id])
        budget = Budget()
        step = first_step(application) if start_step is None else start_step
        record.details["start_step"] = checked_step(step)
        original = read_rows(application, [workflow_id], budget).get(workflow_id)
        if original is None:
            raise errors.NotFound("There is no such workflow.")
        request = messages.ForkWorkflow(
            workflow_id=workflow_id,
            start_step=step,
            new_workflow_id=new_id,
            **{"application_version": original.application_version, **place.told()},
        )
        if not _is_forked(request, application, budget):
            _fork(request, application, budget)
    return new_id


def _fork(
    request: messages.ForkWorkflow, application: Application, budget: Budget
) -> None:
    timeout_s = budget.of(COMMAND_TIMEOUT_S)
    try:
        gateway.ask(application, request, timeout_s=timeout_s)
    except errors.ConductorError:
        # A lost answer, or a second try that met what the first one made.
        try:
            is_forked = _is_forked(request, application, budget)
        except errors.ConductorError:
            is_forked = False
        if not is_forked:
            raise


def _is_forked(
    request: messages.ForkWorkflow, application: Application, budget: Budget
) -> bool:
    """Whether this fork exists. Raises: Conflict where its id is another workflow's."""
    new_id = request.new_workflow_id
    question = messages.ListWorkflows(workflow_uuids=(new_id,), limit=1)
    timeout_s = budget.of(READ_TIMEOUT_S)
    answer = gateway.answer(application, question, timeout_s=timeout_s)
    row = next((r for r in answer.reply.output if r.workflow_id == new_id), None)
    if row is None:
        return False
    by_origin = messages.ListWorkflows(forked_from=(request.workflow_id,))
    says_origin = not codec.untold(by_origin, answer.by.peer)
    if says_origin and row.forked_from != request.workflow_id:
        raise errors.Conflict(
            "The new workflow's id is taken.", field="new_workflow_id"
        )
    return True


def first_step(application: Application) -> int:
    """Python counts steps from 1, the other SDKs from 0."""
    is_python = Executor.objects.filter(
        application=application, state=Executor.State.HEALTHY
    ).exclude(language__in=ZERO_BASED)
    return 1 if is_python.exists() else 0


def checked_step(step: int, *, field: str = "start_step") -> int:
    """Raises: InvalidInput; some SDKs leave a negative one without an answer."""
    if step < 0:
        raise errors.InvalidInput("Steps are counted from 0 or 1.", field=field)
    return step


# --- Fork from a failure -------------------------------------------------------------


def fork_from_failure(
    *,
    actor: Actor,
    application: Application,
    workflow_ids: Sequence[str],
    selector: Selector,
    place: Place = Place(),
) -> list[str]:
    """Fork workflows, each from where the selector says; return the new ids in order.

    Nothing is forked where one is missing. A part that was sent is never sent again:
    it would fork again. Raises: NotFound, InvalidInput; what `gateway.ask` raises.
    """
    with recorded(
        actor=actor,
        application=application,
        operation=Operation.WORKFLOW_FORK_FROM_FAILURE,
        target_type=TargetType.APPLICATION,
        target_id=application.name,
        workflow_ids=workflow_ids[:RECORDED_IDS],
        details={
            "workflow_ids": [one[:512] for one in workflow_ids[:RECORDED_IDS]],
            **place.told(),
        },
    ) as record:
        told = selector.told()
        record.details.update(told)
        ids = checked_ids(workflow_ids)
        budget = Budget()
        rows = read_rows(application, ids, budget)
        if missing := [one for one in ids if one not in rows]:
            raise errors.NotFound(
                f"{len(missing)} of {len(ids)} workflows do not exist; nothing was "
                f"forked. The first of them: {missing[0][:100]}"
            )
        forked: list[str] = []
        for part in codec.id_parts(ids):
            request = messages.ForkFromFailure(
                workflow_ids=part, **told, **place.told()
            )
            try:
                forked += _send_part(application, request, budget)
            except errors.ConductorError as exc:
                if forked:
                    exc.message += f" Forked before that: {len(forked)} of {len(ids)}."
                raise
            finally:
                record.details["forked"] = len(forked)
    return forked


def _send_part(
    application: Application, request: messages.ForkFromFailure, budget: Budget
) -> list[str]:
    if budget.is_spent:
        raise errors.ExecutorTimeout("The time for one order was over.")
    timeout_s = budget.of(COMMAND_TIMEOUT_S)
    reply = gateway.ask(application, request, timeout_s=timeout_s)
    new_ids: list[str] = reply.forked_workflow_ids
    if len(new_ids) != len(request.workflow_ids):
        raise errors.ProtocolError(
            f"The executor was told to fork {len(request.workflow_ids)} workflows and "
            f"says it forked {len(new_ids)}."
        )
    return new_ids


# --- Rewind --------------------------------------------------------------------------


def rewind_workflow(
    *,
    actor: Actor,
    application: Application,
    workflow_id: str,
    start_step: int | None = None,
    place: Place = Place(),
) -> None:
    """Do a finished workflow again from a step, in place: what it did from there on is
    forgotten. Sent once. Raises: NotFound; Conflict where it is not finished."""
    with recorded(
        actor=actor,
        application=application,
        operation=Operation.WORKFLOW_REWIND,
        target_type=TargetType.WORKFLOW,
        target_id=workflow_id,
        workflow_ids=[workflow_id],
        details=place.told(),
    ) as record:
        budget = Budget()
        if start_step is not None:
            record.details["start_step"] = checked_step(start_step)
        row = read_rows(application, [workflow_id], budget).get(workflow_id)
        if row is None:
            raise errors.NotFound("There is no such workflow.")
        if row.status not in FINISHED:
            raise errors.Conflict(
                f"It is {row.status}. Only a finished workflow is rewound: cancel it "
                "first."
            )
        request = messages.RewindWorkflow(
            workflow_id=workflow_id, start_step=start_step, **place.told()
        )
        gateway.ask(application, request, timeout_s=budget.of(COMMAND_TIMEOUT_S))
