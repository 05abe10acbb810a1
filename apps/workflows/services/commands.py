"""Orders to workflows: cancel, resume, fork, delete.

Each is recorded before it is sent; see `records`. `success` from an executor says only
that it took the order. So a workflow's status is read before, which tells what there is
to do, and after, which tells what was done.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from apps import errors
from apps.executors import gateway
from apps.executors.models import Executor
from apps.executors.protocol import codec, messages
from apps.executors.protocol.messages import Request
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.auth import Actor
from apps.registry.models import Application
from apps.registry.operations import Operation, TargetType
from apps.workflows.models import FINISHED
from apps.workflows.services import snapshots
from apps.workflows.services.records import Record, recorded

BULK_LIMIT = 100
READ_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
# Where nobody says what the first step is numbered.
ZERO_BASED = ("typescript", "go", "java")
CANCEL = (Operation.WORKFLOW_CANCEL, Operation.WORKFLOW_BULK_CANCEL)
RESUME = (Operation.WORKFLOW_RESUME, Operation.WORKFLOW_BULK_RESUME)
DELETE = (Operation.WORKFLOW_DELETE, Operation.WORKFLOW_BULK_DELETE)


@dataclass(frozen=True, slots=True)
class Order:
    """Who orders what, of which workflows. `operations`: what one and what many are
    called in the audit log."""

    actor: Actor
    application: Application
    operations: tuple[Operation, Operation]
    workflow_ids: tuple[str, ...]

    def recorded(self, details: dict[str, Any]) -> AbstractContextManager[Record]:
        ids = self.workflow_ids
        one, many = self.operations
        is_one = len(ids) == 1
        some = [workflow_id[:512] for workflow_id in ids[:BULK_LIMIT]]
        return recorded(
            actor=self.actor,
            application=self.application,
            operation=one if is_one else many,
            target_type=TargetType.WORKFLOW if is_one else TargetType.APPLICATION,
            target_id=ids[0] if is_one else self.application.name,
            workflow_ids=some,
            details=details if is_one else details | {"workflow_ids": some},
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order for one workflow, in a word and in a sentence.

    `done` happened; `nothing` was there to do; `missing` is no such workflow; `failed`
    did not happen; `unknown` was sent, and nobody can say.
    """

    workflow_id: str
    result: str
    sentence: str
    status: str = ""


Judge = Callable[[str, WorkflowRow | None], Outcome]


# --- Cancel, resume, delete ----------------------------------------------------------


def cancel_workflows(
    *,
    actor: Actor,
    application: Application,
    workflow_ids: Sequence[str],
    cancel_children: bool = False,
) -> list[Outcome]:
    """Cancel; a running step finishes first. Raises: what `gateway.ask` raises."""
    order = Order(actor, application, CANCEL, tuple(workflow_ids))

    def before(workflow_id: str, row: WorkflowRow | None) -> Outcome | None:
        if row is None:
            return _missing(workflow_id)
        # Its children may still be running.
        if row.status in FINISHED and not cancel_children:
            return _already(row)
        return None

    def after(workflow_id: str, row: WorkflowRow | None) -> Outcome:
        if row is None:
            return Outcome(workflow_id, "done", "Deleted meanwhile.")
        if row.status == "CANCELLED":
            return _done(row, "Cancelled. A step that is running finishes first.")
        if row.status in FINISHED:
            return Outcome(
                row.workflow_id,
                "nothing",
                f"It finished ({row.status}) before it could be cancelled."
                + (" Its children were told." if cancel_children else ""),
                row.status,
            )
        return _unmoved(row)

    return _carry_out(
        order,
        before,
        lambda ids: messages.Cancel(workflow_ids=ids, cancel_children=cancel_children),
        after,
        {"cancel_children": cancel_children},
    )


def resume_workflows(
    *, actor: Actor, application: Application, workflow_ids: Sequence[str]
) -> list[Outcome]:
    """Let workflows go on that were cancelled or gave up, or start those that wait in a
    queue. Never one that runs: older SDKs would run it twice at once."""
    order = Order(actor, application, RESUME, tuple(workflow_ids))

    def before(workflow_id: str, row: WorkflowRow | None) -> Outcome | None:
        if row is None:
            return _missing(workflow_id)
        if row.status in ("SUCCESS", "ERROR"):
            return _already(row)
        if row.status == "PENDING":
            return Outcome(workflow_id, "nothing", "It is running already.", row.status)
        return None

    def after(workflow_id: str, row: WorkflowRow | None) -> Outcome:
        if row is None:
            return Outcome(workflow_id, "failed", "It was deleted meanwhile.")
        if row.status in ("CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
            return _unmoved(row)
        return _done(row, "Resumed. An executor of its version takes it up.")

    return _carry_out(
        order, before, lambda ids: messages.Resume(workflow_ids=ids), after, {}
    )


def delete_workflows(
    *,
    actor: Actor,
    application: Application,
    workflow_ids: Sequence[str],
    delete_children: bool = False,
) -> list[Outcome]:
    """Remove workflows and their history for ever."""
    order = Order(actor, application, DELETE, tuple(workflow_ids))

    def before(workflow_id: str, row: WorkflowRow | None) -> Outcome | None:
        return _missing(workflow_id) if row is None else None

    def after(workflow_id: str, row: WorkflowRow | None) -> Outcome:
        if row is None:
            return Outcome(workflow_id, "done", "Deleted, with its history.")
        return Outcome(workflow_id, "failed", "It is still there.", row.status)

    return _carry_out(
        order,
        before,
        lambda ids: messages.Delete(workflow_ids=ids, delete_children=delete_children),
        after,
        {"delete_children": delete_children},
    )


def _missing(workflow_id: str) -> Outcome:
    return Outcome(workflow_id, "missing", "There is no such workflow.")


def _already(row: WorkflowRow) -> Outcome:
    sentence = f"It was already finished ({row.status}); nothing happened."
    return Outcome(row.workflow_id, "nothing", sentence, row.status)


def _done(row: WorkflowRow, sentence: str) -> Outcome:
    return Outcome(row.workflow_id, "done", sentence, row.status)


def _unmoved(row: WorkflowRow) -> Outcome:
    sentence = f"The executor took the order, but the workflow is still {row.status}."
    return Outcome(row.workflow_id, "failed", sentence, row.status)


# --- Fork ----------------------------------------------------------------------------


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
        details={"new_workflow_id": new_id},
    ) as record:
        step = first_step(application) if start_step is None else start_step
        record.details["start_step"] = step
        original = _read(application, [workflow_id]).get(workflow_id)
        if original is None:
            raise errors.NotFound("There is no such workflow.")
        request = messages.ForkWorkflow(
            workflow_id=workflow_id,
            start_step=step,
            new_workflow_id=new_id,
            application_version=application_version or original.application_version,
        )
        if not _is_forked(request, application):
            _fork(request, application)
    return new_id


def _fork(request: messages.ForkWorkflow, application: Application) -> None:
    try:
        gateway.ask(application, request, timeout_s=COMMAND_TIMEOUT_S)
    except errors.ConductorError:
        # A lost answer, or a second try that met what the first one made.
        try:
            is_forked = _is_forked(request, application)
        except errors.ConductorError:
            is_forked = False
        if not is_forked:
            raise


def _is_forked(request: messages.ForkWorkflow, application: Application) -> bool:
    """Whether this fork exists. Raises: Conflict where its id is another workflow's."""
    new_id = request.new_workflow_id
    question = messages.ListWorkflows(workflow_uuids=(new_id,), limit=1)
    answer = gateway.answer(application, question, timeout_s=READ_TIMEOUT_S)
    row = next((r for r in answer.reply.output if r.workflow_id == new_id), None)
    if row is None:
        return False
    by_origin = messages.ListWorkflows(forked_from=(request.workflow_id,))
    says_origin = not codec.untold(by_origin, answer.by.peer)
    if says_origin and row.forked_from != request.workflow_id:
        raise errors.Conflict("The new workflow's id is taken.")
    return True


def first_step(application: Application) -> int:
    """Python counts steps from 1, the other SDKs from 0."""
    is_python = Executor.objects.filter(
        application=application, state=Executor.State.HEALTHY
    ).exclude(language__in=ZERO_BASED)
    return 1 if is_python.exists() else 0


# --- Carrying out --------------------------------------------------------------------


def _carry_out(
    order: Order,
    before: Callable[[str, WorkflowRow | None], Outcome | None],
    request: Callable[[tuple[str, ...]], Request],
    after: Judge,
    details: dict[str, Any],
) -> list[Outcome]:
    """Look, send, look again; return one outcome for each workflow."""
    with order.recorded(details) as record:
        ids = _checked(order.workflow_ids)
        outcomes, failure = _look_and_send(order, ids, before, request, after)
        _tell(record, outcomes.values(), failure)
    if order.operations is DELETE:
        gone = [
            o.workflow_id for o in outcomes.values() if o.result in ("done", "missing")
        ]
        snapshots.forget(application=order.application, workflow_ids=gone)
    return [outcomes[one] for one in ids]


def _look_and_send(
    order: Order,
    ids: tuple[str, ...],
    before: Callable[[str, WorkflowRow | None], Outcome | None],
    request: Callable[[tuple[str, ...]], Request],
    after: Judge,
) -> tuple[dict[str, Outcome], str]:
    rows = _read(order.application, ids)
    settled = {one: before(one, rows.get(one)) for one in ids}
    outcomes = {one: outcome for one, outcome in settled.items() if outcome is not None}
    todo = tuple(one for one in ids if one not in outcomes)
    try:
        for part in codec.id_parts(todo):
            gateway.ask(order.application, request(part), timeout_s=COMMAND_TIMEOUT_S)
        failure = ""
    except errors.EveryExecutorFailed as exc:
        failure = f"{exc.message} It may still be carried out."
    except errors.ConductorError as exc:
        failure = exc.message
    return outcomes | _look_again(order, todo, after, failure), failure


def _look_again(
    order: Order, ids: tuple[str, ...], judge: Judge, failure: str
) -> dict[str, Outcome]:
    """Judge by what the workflows are now. Where that cannot be read, or the order met
    a failure and nothing moved, the failure is the answer."""
    if not ids:
        return {}
    try:
        rows = _read(order.application, ids)
    except errors.ConductorError:
        sentence = failure or "Sent; what came of it could not be read."
        return {one: Outcome(one, "unknown", sentence) for one in ids}
    snapshots.remember(application=order.application, rows=rows.values())
    outcomes = {one: judge(one, rows.get(one)) for one in ids}
    if failure:
        for one, outcome in outcomes.items():
            if outcome.result == "failed":
                outcomes[one] = Outcome(one, "failed", failure, outcome.status)
    return outcomes


def _tell(record: Record, outcomes: Iterable[Outcome], failure: str) -> None:
    """Say in the record of how many workflows came what."""
    record.details["results"] = Counter(outcome.result for outcome in outcomes)
    bad = [o for o in outcomes if o.result in ("failed", "unknown")]
    if bad:
        record.failure = failure or bad[0].sentence


def _checked(workflow_ids: Sequence[str]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(workflow_ids))
    if not ids or not all(ids):
        raise errors.InvalidInput("Name at least one workflow.")
    if len(ids) > BULK_LIMIT:
        raise errors.InvalidInput(f"Name at most {BULK_LIMIT} workflows at a time.")
    return ids


def _read(application: Application, ids: Sequence[str]) -> dict[str, WorkflowRow]:
    rows: dict[str, WorkflowRow] = {}
    for part in codec.id_parts(ids):
        request = messages.ListWorkflows(workflow_uuids=part, limit=len(part))
        reply = gateway.ask(application, request, timeout_s=READ_TIMEOUT_S)
        rows |= {row.workflow_id: row for row in reply.output}
    return rows
