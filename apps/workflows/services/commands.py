"""Orders to any number of workflows: cancel, resume, delete.

Each is recorded before it is sent; see `records`. `success` from an executor says only
that it took the order. So a workflow's status is read before, which tells what there is
to do, and after, which tells what was done. Many workflows are ordered about some at a
time, for as long as one order may take.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import codec, messages
from apps.executors.protocol.messages import Request
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.auth import Actor
from apps.registry.models import Application
from apps.registry.operations import Operation, TargetType
from apps.workflows.models import FINISHED
from apps.workflows.services import snapshots
from apps.workflows.services.records import Record, recorded

IDS_LIMIT = 10_000
ID_CHARS_LIMIT = 10_000
# So many of them are named in the record of an order.
RECORDED_IDS = 100
READ_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 15.0
# An order's time, all in all. Clients wait for 30 s.
ORDER_SECS = 22.0
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
        some = [workflow_id[:512] for workflow_id in ids[:RECORDED_IDS]]
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


@dataclass(frozen=True, slots=True)
class Budget:
    """The time that is left of an order's."""

    ends_at: float = field(default_factory=lambda: time.monotonic() + ORDER_SECS)

    def of(self, limit_s: float) -> float:
        return max(min(limit_s, self.ends_at - time.monotonic()), 0.5)

    @property
    def is_spent(self) -> bool:
        return time.monotonic() >= self.ends_at


Judge = Callable[[str, WorkflowRow | None], Outcome]


def failure_of(outcome: Outcome) -> errors.ConductorError | None:
    """What an order to one workflow failed with; its record says so already."""
    failure: errors.ConductorError
    match outcome.result:
        case "missing":
            failure = errors.NotFound(outcome.sentence)
        case "failed" | "unknown":
            failure = errors.ExecutorRefused(outcome.sentence)
        case _:
            return None
    failure.is_audited = True
    return failure


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
    *,
    actor: Actor,
    application: Application,
    workflow_ids: Sequence[str],
    queue_name: str | None = None,
) -> list[Outcome]:
    """Let workflows go on that were cancelled or gave up, or start those that wait in a
    queue: at once, or by way of the queue named here. Never one that runs: older SDKs
    would run it twice at once."""
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
        order,
        before,
        lambda ids: messages.Resume(workflow_ids=ids, queue_name=queue_name),
        after,
        {} if queue_name is None else {"queue_name": queue_name},
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
        ids = checked_ids(order.workflow_ids)
        outcomes, failure = _carry_out_parts(order, ids, before, request, after)
        _tell(record, outcomes.values(), failure)
    if order.operations is DELETE:
        gone = [
            o.workflow_id for o in outcomes.values() if o.result in ("done", "missing")
        ]
        snapshots.forget(
            application=order.application, workflow_ids=gone, is_deleted=True
        )
    return [outcomes[one] for one in ids]


def _carry_out_parts(
    order: Order,
    ids: tuple[str, ...],
    before: Callable[[str, WorkflowRow | None], Outcome | None],
    request: Callable[[tuple[str, ...]], Request],
    after: Judge,
) -> tuple[dict[str, Outcome], str]:
    """Go on until it fails or takes too long; return what came of each, and why it
    ended early."""
    budget = Budget()
    outcomes: dict[str, Outcome] = {}
    failure = ""
    for part in codec.id_parts(ids):
        if failure:
            break
        if budget.is_spent:
            failure = f"{ORDER_SECS:g} s were too short for all of them."
            break
        try:
            some, failure = _look_and_send(order, part, before, request, after, budget)
        except errors.ConductorError as exc:
            if not outcomes:
                raise
            some, failure = {}, exc.message
        outcomes |= some
    for one in ids:
        if one not in outcomes:
            outcomes[one] = Outcome(one, "failed", f"Not sent. {failure}")
    return outcomes, failure


def _look_and_send(
    order: Order,
    ids: tuple[str, ...],
    before: Callable[[str, WorkflowRow | None], Outcome | None],
    request: Callable[[tuple[str, ...]], Request],
    after: Judge,
    budget: Budget,
) -> tuple[dict[str, Outcome], str]:
    rows = read_rows(order.application, ids, budget)
    settled = {one: before(one, rows.get(one)) for one in ids}
    outcomes = {one: outcome for one, outcome in settled.items() if outcome is not None}
    todo = tuple(one for one in ids if one not in outcomes)
    if not todo:
        return outcomes, ""
    timeout_s = budget.of(COMMAND_TIMEOUT_S)
    failure = ""
    try:
        gateway.ask(order.application, request(todo), timeout_s=timeout_s)
    except errors.DatabaseNotChosen:
        raise
    except errors.EveryExecutorFailed as exc:
        failure = f"{exc.message} It may still be carried out."
    except errors.ConductorError as exc:
        failure = exc.message
    return outcomes | _look_again(order, todo, after, failure, budget), failure


def _look_again(
    order: Order, ids: tuple[str, ...], judge: Judge, failure: str, budget: Budget
) -> dict[str, Outcome]:
    """Judge by what the workflows are now. Where that cannot be read, or the order met
    a failure and nothing moved, the failure is the answer."""
    try:
        # An executor that was just given much to do may take its time.
        rows = read_rows(order.application, ids, budget, limit_s=COMMAND_TIMEOUT_S)
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
    told = list(outcomes)
    record.details["results"] = Counter(outcome.result for outcome in told)
    bad = [o for o in told if o.result in ("failed", "unknown")]
    if not bad and all(o.result == "missing" for o in told):
        bad = told
    if bad:
        record.failure = failure or bad[0].sentence


def checked_ids(workflow_ids: Sequence[str]) -> tuple[str, ...]:
    """Return each once. Raises: InvalidInput for none, too many, or no ids."""
    ids = tuple(dict.fromkeys(workflow_ids))
    if not ids or not all(ids):
        raise errors.InvalidInput("Name at least one workflow.", field="workflow_ids")
    if len(ids) > IDS_LIMIT:
        raise errors.InvalidInput(
            f"Name at most {IDS_LIMIT:,} workflows at a time.", field="workflow_ids"
        )
    if any(len(one) > ID_CHARS_LIMIT for one in ids):
        raise errors.InvalidInput(
            f"An id has at most {ID_CHARS_LIMIT:,} characters.", field="workflow_ids"
        )
    return ids


def read_rows(
    application: Application,
    ids: Sequence[str],
    budget: Budget,
    *,
    limit_s: float = READ_TIMEOUT_S,
) -> dict[str, WorkflowRow]:
    """Return those of these workflows that there are, by id. Raises: what `gateway.ask`
    raises; ExecutorTimeout where the budget is spent on the way."""
    rows: dict[str, WorkflowRow] = {}
    for number, part in enumerate(codec.id_parts(ids)):
        if number and budget.is_spent:
            raise errors.ExecutorTimeout(f"{ORDER_SECS:g} s were too short to look.")
        request = messages.ListWorkflows(workflow_uuids=part, limit=len(part))
        timeout_s = budget.of(limit_s)
        reply = gateway.ask(application, request, timeout_s=timeout_s)
        rows |= {row.workflow_id: row for row in reply.output}
    return rows
