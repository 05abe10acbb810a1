"""Recovery: handing a dead executor's workflows over, and proving that none is left.

A recovery is a row, never a message. Any number of sweeps may run at once. One pass
over what is due:

1. *plan*: group by application and version, choose healthy executors of that version;
2. *claim*: under row locks, only where the executor is still DEAD, and only under a
   lease during which `presence.register` will not make it HEALTHY again;
3. *order*: one `recovery` message naming the claimed executors;
4. *prove*: ask `exist_pending_workflows` for each; `false` confirms and removes the
   executor's row, anything else tries again later on another executor.

Source: protocol reference 5.2, 5.6; docs/adr/0002.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from django.db import connections, transaction
from django.db.models import F, Q
from django.db.models.functions import Coalesce

from apps import errors
from apps.executors import clock, gateway, live
from apps.executors.gateway import Target
from apps.executors.models import Executor, Recovery, RecoveryAttempt
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.registry.services import audited

logger = logging.getLogger(__name__)

DUE_LIMIT = 2_000
# Executors named in one order. Old SDKs start the work inside the request.
ORDER_LIMIT = 100
ORDER_TIMEOUT_S = 25.0
PROOF_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 5.0
PENDING_SAMPLE = 50
PENDING_LIMIT = 1_000
# Longer than everything that happens under it: look, order, and travel.
LEASE = timedelta(seconds=60)
RECHECK_WAITING = timedelta(seconds=30)
FIRST_RETRY_S = 2.0
MAX_RETRY_S = 60.0
MAX_DOUBLINGS = 10
PARALLEL_ORDERS = 8

State = Recovery.State
A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Order:
    """What one executor is to take over."""

    application: Application
    target: Target
    recovery_ids: tuple[int, ...]


@dataclass(slots=True)
class Left:
    """What the dead executors of one order left behind, by executor id."""

    known: bool = False
    rows: dict[str, list[WorkflowRow]] = field(
        default_factory=lambda: defaultdict(list)
    )


@dataclass(slots=True)
class HandOver:
    """An order that was taken: what it claimed, and what was seen before it."""

    order: Order
    claimed: list[Recovery]
    left: Left
    started_at: datetime
    started: float


def sweep() -> int:
    """One pass over the due recoveries; return how many were confirmed.

    Safe to run at any time, in any number of processes. Orders go out before proofs are
    asked for, and one executor that hangs holds up neither.
    """
    orders, strays = _plan(clock.now())
    if len(orders) + len(strays) <= 1:
        return sum(_prove_all(taken) for taken in map(_give, orders) if taken) + sum(
            _examine_stray(stray) for stray in strays
        )
    with ThreadPoolExecutor(PARALLEL_ORDERS, thread_name_prefix="recovery") as pool:
        given = [pool.submit(_in_thread, _give, order) for order in orders]
        proofs = [pool.submit(_in_thread, _examine_stray, stray) for stray in strays]
        proofs.extend(
            pool.submit(_in_thread, _prove_all, taken)
            for done in as_completed(given)
            if (taken := done.result())
        )
        return sum(done.result() or 0 for done in proofs)


def _in_thread(function: Callable[[A], R], argument: A) -> R | None:
    try:
        return function(argument)
    except errors.ConductorError as exc:
        logger.warning("recovery pass failed", extra={"error": exc.message})
        return None
    finally:
        connections.close_all()


def retry_now(*, actor: Actor, recovery: Recovery) -> None:
    """Make a waiting recovery due at once. Raises: Conflict where it does not wait."""
    with audited(
        actor=actor,
        operation="recovery.retry",
        target_type="recovery",
        target_id=str(recovery.pk),
    ) as details:
        details["application_name"] = recovery.application.name
        details["executor_id"] = recovery.executor_id
        actor.require(Permission.APPLICATION_WRITE, recovery.application)
        changed = Recovery.objects.filter(pk=recovery.pk, state=State.WAITING).update(
            next_try_at=clock.now()
        )
        if changed != 1:
            raise errors.Conflict("It is not waiting, so there is nothing to retry.")


# --- 1. Plan ---------------------------------------------------------------------


def _due(now: datetime) -> Q:
    """WAITING and due, or REQUESTED by a sweep that never finished."""
    return Q(state=State.WAITING, next_try_at__lte=now) | Q(
        state=State.REQUESTED, lease_expires_at__lte=now
    )


def _plan(now: datetime) -> tuple[list[Order], list[Order]]:
    """Return the orders to give, and the strays: those of a version that nobody runs,
    with an executor of another version that can at least be asked about them."""
    groups: dict[tuple[int, str], list[Recovery]] = defaultdict(list)
    due = Recovery.objects.filter(_due(now)).select_related("application")
    for recovery in due.order_by("next_try_at", "pk")[:DUE_LIMIT]:
        groups[recovery.application_id, recovery.application_version].append(recovery)
    orders: list[Order] = []
    strays: list[Order] = []
    for (_, version), recoveries in groups.items():
        application = recoveries[0].application
        if able := gateway.healthy_targets(application, application_version=version):
            orders += _spread(application, recoveries, able)
            continue
        if others := gateway.healthy_targets(application):
            strays += _spread(application, recoveries, others)
        _wait_for_version(recoveries, version, now)
    return orders, strays


def _spread(
    application: Application, recoveries: Sequence[Recovery], able: Sequence[Target]
) -> Iterable[Order]:
    """Deal the recoveries out, avoiding whoever failed them last."""
    targets = list(able)
    random.shuffle(targets)
    buckets: dict[str, list[int]] = defaultdict(list)
    by_id = {target.executor_id: target for target in targets}
    for index, recovery in enumerate(recoveries):
        target = targets[(index // ORDER_LIMIT) % len(targets)]
        if recovery.attempts and target.executor_id == recovery.taken_over_by:
            target = targets[(index // ORDER_LIMIT + 1) % len(targets)]
        buckets[target.executor_id].append(recovery.pk)
    for executor_id, ids in buckets.items():
        for start in range(0, len(ids), ORDER_LIMIT):
            yield Order(
                application,
                by_id[executor_id],
                tuple(ids[start : start + ORDER_LIMIT]),
            )


def _wait_for_version(
    recoveries: Sequence[Recovery], version: str, now: datetime
) -> None:
    Recovery.objects.filter(
        _due(now), pk__in=[recovery.pk for recovery in recoveries]
    ).update(
        state=State.WAITING,
        lease_expires_at=None,
        next_try_at=now + RECHECK_WAITING,
        waiting_reason=f"No healthy executor runs version {version}."[:300],
    )


# --- 2. Claim --------------------------------------------------------------------


def claim(order: Order) -> list[Recovery]:
    """Claim what of an order is still to be done: `WAITING → REQUESTED`, under a lease.

    Concurrency: locks the executor rows first, as `presence.register` does. Returns
    only recoveries whose executor is DEAD; none of these can become HEALTHY before
    the lease is given back or runs out.
    """
    with transaction.atomic():
        wanted = Recovery.objects.filter(pk__in=order.recovery_ids)
        dead = set(
            Executor.objects.select_for_update(skip_locked=True)
            .filter(
                application=order.application,
                executor_id__in=list(wanted.values_list("executor_id", flat=True)),
                state=Executor.State.DEAD,
            )
            .order_by("pk")
            .values_list("executor_id", flat=True)
        )
        now = clock.now()
        claimed = list(
            wanted.select_for_update(skip_locked=True)
            .filter(_due(now), executor_id__in=dead)
            .order_by("pk")
        )
        Recovery.objects.filter(pk__in=[r.pk for r in claimed]).update(
            state=State.REQUESTED,
            lease_expires_at=now + LEASE,
            attempts=F("attempts") + 1,
            requested_at=Coalesce("requested_at", now),
            taken_over_by=order.target.executor_id,
            waiting_reason="",
        )
        for recovery in claimed:
            recovery.attempts += 1
    return claimed


# --- 3. Order, 4. prove ----------------------------------------------------------


def _give(order: Order) -> HandOver | None:
    """Claim, look, and order; None where nothing was handed over."""
    claimed = claim(order)
    if not claimed:
        return None
    live.announce(order.application.pk)
    taken = HandOver(order, claimed, Left(), clock.now(), time.monotonic())
    taken.left = _look(order, claimed)
    request = messages.Recovery(executor_ids=tuple(r.executor_id for r in claimed))
    try:
        gateway.ask(
            order.application,
            request,
            timeout_s=ORDER_TIMEOUT_S,
            executor_id=order.target.executor_id,
        )
    except errors.ConductorError as exc:
        outcome = (
            RecoveryAttempt.Outcome.REFUSED
            if isinstance(exc, errors.ExecutorRefused)
            else RecoveryAttempt.Outcome.FAILED
        )
        for recovery in claimed:
            _try_again(taken, recovery, outcome, exc.message)
        return None
    logger.info(
        "recovery ordered",
        extra={
            "application": order.application.name,
            "executors": len(claimed),
            "target": order.target.executor_id,
        },
    )
    return taken


def _prove_all(taken: HandOver) -> int:
    try:
        return sum(_prove(taken, recovery) for recovery in taken.claimed)
    finally:
        live.announce(taken.order.application.pk)


def _look(order: Order, claimed: Sequence[Recovery]) -> Left:
    """Ask what is pending, for the ledger. The order does not depend on the answer."""
    ids = tuple(recovery.executor_id for recovery in claimed)
    request = messages.ListWorkflows(
        executor_id=ids, status=("PENDING",), limit=PENDING_LIMIT, sort_desc=True
    )
    left = Left()
    try:
        reply = gateway.ask(
            order.application,
            request,
            timeout_s=LOOK_TIMEOUT_S,
            executor_id=order.target.executor_id,
        )
    except errors.ConductorError as exc:
        logger.info("pending workflows unknown", extra={"error": exc.message})
        return left
    left.known = True
    wanted = set(ids)
    for row in codec.refilter(request, order.target.peer, reply.output):
        if row.executor_id in wanted and row.status == "PENDING":
            left.rows[row.executor_id].append(row)
    return left


def _prove(taken: HandOver, recovery: Recovery) -> int:
    try:
        answer = gateway.answer(
            taken.order.application,
            messages.ExistPendingWorkflows(
                executor_id=recovery.executor_id,
                application_version=recovery.application_version,
            ),
            timeout_s=PROOF_TIMEOUT_S,
        )
    except errors.ConductorError as exc:
        outcome = RecoveryAttempt.Outcome.FAILED
        _try_again(taken, recovery, outcome, f"No proof: {exc.message}")
        return 0
    if answer.reply.exist is not False:
        # No clear answer is no proof.
        _try_again(
            taken,
            recovery,
            RecoveryAttempt.Outcome.STILL_PENDING,
            "Workflows are still pending under the dead executor.",
        )
        return 0
    return _confirm(taken, recovery, answer.by)


def _confirm(taken: HandOver, recovery: Recovery, witness: Target) -> int:
    """`REQUESTED → CONFIRMED`, and the executor's row goes. Compare-and-set."""
    with transaction.atomic():
        now = clock.now()
        changed = Recovery.objects.filter(
            pk=recovery.pk, state=State.REQUESTED, attempts=recovery.attempts
        ).update(
            state=State.CONFIRMED,
            confirmed_at=now,
            lease_expires_at=None,
            taken_over_by=taken.order.target.executor_id,
            proved_by=witness.executor_id,
            pending_left=0,
            waiting_reason="",
            last_error="",
            **_pending(recovery, taken.left),
        )
        if changed != 1:
            return 0
        _record_attempt(taken, recovery, RecoveryAttempt.Outcome.CONFIRMED, "")
        Executor.objects.filter(
            application_id=recovery.application_id,
            executor_id=recovery.executor_id,
            state=Executor.State.DEAD,
        ).delete()
    return 1


def _try_again(
    taken: HandOver,
    recovery: Recovery,
    outcome: RecoveryAttempt.Outcome,
    detail: str,
) -> None:
    """Back to WAITING, to try later on another executor. Gives the lease back."""
    doublings = min(recovery.attempts - 1, MAX_DOUBLINGS)
    delay_s = min(FIRST_RETRY_S * 2**doublings, MAX_RETRY_S)
    with transaction.atomic():
        changed = Recovery.objects.filter(
            pk=recovery.pk, state=State.REQUESTED, attempts=recovery.attempts
        ).update(
            state=State.WAITING,
            lease_expires_at=None,
            next_try_at=clock.now() + timedelta(seconds=delay_s),
            last_error=detail[:500],
            waiting_reason=f"The last attempt did not succeed: {detail}"[:300],
            **_pending(recovery, taken.left),
        )
        if changed:
            _record_attempt(taken, recovery, outcome, detail)


def _record_attempt(
    taken: HandOver,
    recovery: Recovery,
    outcome: RecoveryAttempt.Outcome,
    detail: str,
) -> None:
    RecoveryAttempt.objects.create(
        recovery=recovery,
        executor_id=taken.order.target.executor_id,
        started_at=taken.started_at,
        duration_ms=int((time.monotonic() - taken.started) * 1000),
        outcome=outcome,
        detail=detail[:500],
    )


def _pending(recovery: Recovery, left: Left) -> dict[str, object]:
    """The first look counts: later attempts find fewer."""
    if not left.known or recovery.pending_count is not None:
        return {}
    rows = left.rows.get(recovery.executor_id, [])
    return {
        "pending_count": len(rows),
        "pending_sample": [
            {
                "workflow_id": row.workflow_id,
                "name": row.name or "",
                "queue_name": row.queue_name or "",
            }
            for row in rows[:PENDING_SAMPLE]
        ],
    }


# --- Strays ----------------------------------------------------------------------


def _examine_stray(stray: Order) -> int:
    """Nobody runs the version. Whoever is there can still say that nothing is pending;
    then there is nothing to recover, and that is the proof."""
    confirmed = 0
    recoveries = Recovery.objects.filter(pk__in=stray.recovery_ids, state=State.WAITING)
    for recovery in recoveries:
        try:
            answer = gateway.answer(
                stray.application,
                messages.ExistPendingWorkflows(
                    executor_id=recovery.executor_id,
                    application_version=recovery.application_version,
                ),
                timeout_s=PROOF_TIMEOUT_S,
            )
        except errors.ConductorError:
            continue
        if answer.reply.exist is False:
            confirmed += _confirm_nothing_left(recovery, answer.by.executor_id)
    return confirmed


def _confirm_nothing_left(recovery: Recovery, proved_by: str) -> int:
    with transaction.atomic():
        changed = Recovery.objects.filter(pk=recovery.pk, state=State.WAITING).update(
            state=State.CONFIRMED,
            confirmed_at=clock.now(),
            proved_by=proved_by,
            pending_count=0,
            pending_left=0,
            waiting_reason="",
        )
        if changed:
            Executor.objects.filter(
                application_id=recovery.application_id,
                executor_id=recovery.executor_id,
                state=Executor.State.DEAD,
            ).delete()
    return changed
