"""Recovery: handing a dead executor's workflows over, and proving that none is left.

A recovery is a row, never a message. Any number of sweeps may run at once. One pass
over what is due:

1. *plan*: group by application, version and system database, choose healthy executors
   of that version on that database;
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
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from django.db import transaction
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from apps import errors
from apps.executors import (
    clock,
    databases,
    evidence,
    fairness,
    gateway,
    live,
    presence,
    rollcall,
)
from apps.executors.gateway import Target
from apps.executors.lanes import Lanes, Work
from apps.executors.models import Executor, Recovery, RecoveryAttempt
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.registry.operations import Operation, TargetType
from apps.registry.services import audited

logger = logging.getLogger(__name__)

# Orders of one application that are under way or wait for a thread of this process.
# What is more stays a row, and costs a pass nothing.
ORDERS_PER_APPLICATION = 20
# A pass plans for so long; who had no turn has one in the next.
PLAN_SECS = 1.5
# Executors named in one order. Old SDKs start the work inside the request.
ORDER_LIMIT = 100
ORDER_TIMEOUT_S = 25.0
PROOF_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 5.0
PENDING_SAMPLE = 50
PENDING_LIMIT = 1_000
# After an order, proofs are asked for this long; with the order itself, and the last
# proof, that is shorter than the lease.
PROVE_SECS = 15.0
RECHECK_WAITING = timedelta(seconds=30)
FIRST_RETRY_S = 2.0
MAX_RETRY_S = 60.0
MAX_DOUBLINGS = 10
# Of a recovery's attempts, so many of the first and of the last stay in the ledger.
ATTEMPTS_KEPT = 50

State = Recovery.State
# Threads that wait for an executor hold no database connection (loops.run), so there
# may be many. A group is an organization.
_lanes = Lanes("recovery", per_owner=4, per_group=12, total=48, reserve=200)
_in_hand_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Order:
    """What one executor is to take over."""

    application: Application
    target: Target
    recovery_ids: tuple[int, ...]


# By application, what this process has planned and not finished.
_in_hand: dict[int, list[Order]] = {}


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
    asked for.
    """
    orders, strays = _plan(clock.now(), in_hand={})
    given = [taken for order in orders if (taken := _give(order))]
    return sum(map(_prove_all, given)) + sum(map(_examine_stray, strays))


def sweep_in_background() -> None:
    """`sweep`, without waiting for any executor: one that hangs holds up nobody."""
    with _in_hand_lock:
        in_hand = {pk: tuple(orders) for pk, orders in _in_hand.items()}
    orders, strays = _plan(clock.now(), in_hand=in_hand)
    for function, order in [(_give_then_prove, order) for order in orders] + [
        (_examine_then_let_go, stray) for stray in strays
    ]:
        with _in_hand_lock:
            _in_hand.setdefault(order.application.pk, []).append(order)
        _submit(order, partial(function, order))


def _submit(order: Order, work: Work) -> None:
    application = order.application
    _lanes.submit(application.pk, work, group=application.organization_id)


def _give_then_prove(order: Order) -> None:
    taken = None
    try:
        taken = _give(order)
    finally:
        if taken is None:
            _let_go(order)
    if taken is not None:
        # Behind the orders that still wait: those matter more than proofs.
        _submit(order, partial(_prove_then_let_go, taken))


def _prove_then_let_go(taken: HandOver) -> None:
    try:
        _prove_all(taken)
    finally:
        _let_go(taken.order)


def _examine_then_let_go(stray: Order) -> None:
    try:
        _examine_stray(stray)
    finally:
        _let_go(stray)


def _let_go(order: Order) -> None:
    pk = order.application.pk
    with _in_hand_lock:
        _in_hand[pk].remove(order)
        if not _in_hand[pk]:
            del _in_hand[pk]


def retry_now(*, actor: Actor, recovery: Recovery) -> None:
    """Make a waiting recovery due at once. Raises: Conflict where it does not wait."""
    with audited(
        actor=actor,
        operation=Operation.RECOVERY_RETRY,
        target_type=TargetType.APPLICATION,
        target_id=recovery.application.name,
    ) as details:
        details["recovery_id"] = recovery.pk
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


def _plan(
    now: datetime, *, in_hand: Mapping[int, Sequence[Order]]
) -> tuple[list[Order], list[Order]]:
    """Return the orders to give, and the strays: those of a version that nobody runs,
    with an executor of another version that can at least be asked about them.

    Each application is planned alone, and bounded by what can run soon: the backlog of
    one is neither read nor waited for by another.
    """
    orders: list[Order] = []
    strays: list[Order] = []
    if not presence.is_witnessed(now):
        return orders, strays
    full = [pk for pk, mine in in_hand.items() if len(mine) >= ORDERS_PER_APPLICATION]
    until = time.monotonic() + PLAN_SECS
    for application in fairness.in_turns(_applications_due(now).exclude(pk__in=full)):
        mine = in_hand.get(application.pk, ())
        for found, planned in zip(
            _plan_one(application, now, in_hand=mine), (orders, strays), strict=True
        ):
            planned += found
        if time.monotonic() > until:
            break
    return orders, strays


def _applications_due(now: datetime) -> QuerySet[Application]:
    """Those that have a due recovery. One step into an index for each application,
    however many recoveries it has: PostgreSQL would read them all for an EXISTS."""
    mine = Recovery.objects.filter(application=OuterRef("pk"))
    waiting = mine.filter(state=State.WAITING).order_by("next_try_at")
    requested = mine.filter(state=State.REQUESTED).order_by("lease_expires_at")
    return Application.objects.alias(
        next_try_at=Subquery(waiting.values("next_try_at")[:1]),
        lease_expires_at=Subquery(requested.values("lease_expires_at")[:1]),
    ).filter(Q(next_try_at__lte=now) | Q(lease_expires_at__lte=now))


def _due_of(
    application: Application, now: datetime, *, leave_out: Sequence[int], limit: int
) -> list[Recovery]:
    """The longest due of one application, with what planning needs. Two queries, each
    read along an index."""
    mine = Recovery.objects.filter(application=application).exclude(pk__in=leave_out)
    mine = mine.only("application_version", "database", "attempts", "taken_over_by")
    abandoned = mine.filter(state=State.REQUESTED, lease_expires_at__lte=now)
    waiting = mine.filter(state=State.WAITING, next_try_at__lte=now)
    found = [
        *abandoned.order_by("lease_expires_at", "pk")[:limit],
        *waiting.order_by("next_try_at", "pk")[:limit],
    ]
    return found[:limit]


def _plan_one(
    application: Application, now: datetime, *, in_hand: Sequence[Order]
) -> tuple[list[Order], list[Order]]:
    """Plan for one application: as many orders as there is room for, and no more
    versions than that, for each costs some queries."""
    room = ORDERS_PER_APPLICATION - len(in_hand)
    leave_out = [pk for order in in_hand for pk in order.recovery_ids]
    groups: dict[tuple[str, int], list[Recovery]] = defaultdict(list)
    for recovery in _due_of(
        application, now, leave_out=leave_out, limit=room * ORDER_LIMIT
    ):
        database = recovery.database_id or databases.UNKNOWN
        groups[recovery.application_version, database].append(recovery)
    orders: list[Order] = []
    strays: list[Order] = []
    for (version, database), recoveries in islice(groups.items(), room):
        if len(orders) + len(strays) >= room:
            break
        if able := _targets(application, database, version):
            orders += _spread(application, recoveries, able)
            continue
        if others := _targets(application, database, None):
            strays += _spread(application, recoveries, others)
        _wait_for_version(application, recoveries, version, database, now)
    return orders, strays


def _targets(
    application: Application, database: int, version: str | None
) -> list[Target]:
    """Return who may be asked about a dead executor of this database: those on the same
    one; where it is not known of either, the others too, who must show that it is."""
    same = gateway.healthy_targets(
        application, application_version=version, database=database
    )
    if same:
        return same
    other = None if database == databases.UNKNOWN else databases.UNKNOWN
    return gateway.healthy_targets(
        application, application_version=version, database=other
    )


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
    application: Application,
    recoveries: Sequence[Recovery],
    version: str,
    database: int,
    now: datetime,
) -> None:
    """Concurrency: an executor of the version that is being registered right now either
    is seen here, or makes these rows due once it is registered."""
    with transaction.atomic():
        due = Recovery.objects.filter(
            _due(now), pk__in=[recovery.pk for recovery in recoveries]
        )
        locked = due.select_for_update(skip_locked=True).order_by("pk")
        ids = list(locked.values_list("pk", flat=True))
        arrived = Executor.objects.filter(
            application=application,
            application_version=version,
            state=Executor.State.HEALTHY,
        )
        reason = f"No healthy executor runs version {version}."
        if database != databases.UNKNOWN:
            if arrived.exclude(database=database).exists():
                reason = (
                    f"No healthy executor of version {version} works on the dead "
                    "executor's database; those that are connected work on another."
                )
            arrived = arrived.filter(database=database)
        if arrived.exists():
            return
        Recovery.objects.filter(pk__in=ids).update(
            state=State.WAITING,
            lease_expires_at=None,
            next_try_at=now + RECHECK_WAITING,
            waiting_reason=reason[:300],
        )


# --- 2. Claim --------------------------------------------------------------------


def claim(order: Order) -> list[Recovery]:
    """Claim what of an order is still to be done: `WAITING → REQUESTED`, under a lease.

    Concurrency: locks the executor rows first, as `presence.register` does. Returns
    only recoveries whose executor is DEAD; none of these can become HEALTHY before
    the lease is given back or runs out.
    """
    if not presence.is_witnessed(clock.now()):
        return []
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
            lease_expires_at=now + presence.LEASE,
            attempts=F("attempts") + 1,
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
    try:
        _leave_the_living(taken)
    except rollcall.Unknown as exc:
        outcome = RecoveryAttempt.Outcome.FAILED
        for recovery in taken.claimed:
            _try_again(taken, recovery, outcome, exc.message)
        return None
    if not taken.claimed:
        return None
    request = messages.Recovery(
        executor_ids=tuple(recovery.executor_id for recovery in taken.claimed)
    )
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
        for recovery in taken.claimed:
            _try_again(taken, recovery, outcome, exc.message)
        return None
    logger.info(
        "recovery ordered",
        extra={
            "application": order.application.name,
            "executors": len(taken.claimed),
            "target": order.target.executor_id,
        },
    )
    return taken


def _leave_the_living(taken: HandOver) -> None:
    """The last look before an order: keep only those whose executor no server is
    connected to, and which are still ours to order. Raises: rollcall.Unknown."""
    application_id = taken.order.application.pk
    now = clock.now()
    living = rollcall.connected(
        {(application_id, recovery.executor_id) for recovery in taken.claimed},
        instances=presence.alive_instances(now),
        quiet=presence.quiet_instances(now),
    )
    gone: list[Recovery] = []
    for recovery in taken.claimed:
        if (application_id, recovery.executor_id) in living:
            outcome = RecoveryAttempt.Outcome.FAILED
            _try_again(taken, recovery, outcome, "It is connected; nobody was told.")
        else:
            gone.append(recovery)
    taken.claimed = _renew(gone)


def _renew(claimed: Sequence[Recovery]) -> list[Recovery]:
    """Begin the leases anew; return only those that are still ours."""
    ours = {recovery.pk: recovery.attempts for recovery in claimed}
    with transaction.atomic():
        now = clock.now()
        locked = Recovery.objects.select_for_update().filter(
            pk__in=ours, state=State.REQUESTED, lease_expires_at__gt=now
        )
        attempts = dict(locked.order_by("pk").values_list("pk", "attempts"))
        kept = [r for r in claimed if attempts.get(r.pk) == r.attempts]
        Recovery.objects.filter(pk__in=[recovery.pk for recovery in kept]).update(
            lease_expires_at=now + presence.LEASE,
            requested_at=Coalesce("requested_at", now),
        )
    return kept


def _prove_all(taken: HandOver) -> int:
    """Ask for each proof. The first failure of the asking ends it: one executor that
    hangs must not be waited for a hundred times, nor longer than the leases last."""
    confirmed = 0
    until = time.monotonic() + PROVE_SECS
    problem = ""
    try:
        for recovery in _renew(taken.claimed):
            if not problem and time.monotonic() > until:
                problem = "there was no time left to ask for it."
            if problem:
                outcome = RecoveryAttempt.Outcome.FAILED
                _try_again(taken, recovery, outcome, f"No proof: {problem}")
                continue
            try:
                confirmed += _prove(taken, recovery)
            except errors.ConductorError as exc:
                problem = exc.message
                outcome = RecoveryAttempt.Outcome.FAILED
                _try_again(taken, recovery, outcome, f"No proof: {problem}")
        return confirmed
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
    """Ask for the proof and act on it. Raises: what `gateway.answer` raises."""
    still_pending = RecoveryAttempt.Outcome.STILL_PENDING
    target = taken.order.target
    is_same = target.database == (recovery.database_id or databases.UNKNOWN)
    answer = gateway.answer(
        taken.order.application,
        messages.ExistPendingWorkflows(
            executor_id=recovery.executor_id,
            application_version=recovery.application_version,
        ),
        timeout_s=PROOF_TIMEOUT_S,
        # Only who took the workflows over has shown that it knows them.
        executor_id=None if is_same else target.executor_id,
        database=target.database,
    )
    if answer.reply.exist is not False:
        # No clear answer is no proof.
        detail = "Workflows are still pending under the dead executor."
        _try_again(taken, recovery, still_pending, detail)
        return 0
    knows_work = is_same or bool(taken.left.rows.get(recovery.executor_id))
    objection = evidence.objection(recovery, answer.by, knows_work=knows_work)
    if objection:
        _try_again(taken, recovery, RecoveryAttempt.Outcome.FAILED, objection)
        return 0
    return _confirm(taken, recovery, answer.by)


def _confirm(taken: HandOver, recovery: Recovery, witness: Target) -> int:
    """`REQUESTED → CONFIRMED`, and the executor's row goes. Compare-and-set.

    Concurrency: locks the executor first, as everybody does.
    """
    with transaction.atomic():
        remains = _lock_dead(recovery)
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
        Executor.objects.filter(pk__in=remains).delete()
    return 1


def _lock_dead(recovery: Recovery) -> list[int]:
    """Lock the dead executor's row and return its key, if it is still there."""
    dead = Executor.objects.select_for_update().filter(
        application_id=recovery.application_id,
        executor_id=recovery.executor_id,
        state=Executor.State.DEAD,
    )
    return list(dead.values_list("pk", flat=True))


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
    if recovery.attempts % ATTEMPTS_KEPT == 0:
        _forget_attempts(recovery)


def _forget_attempts(recovery: Recovery) -> None:
    """Keep the first attempts and the newest; one may be tried again for ever."""
    ids = recovery.attempt_set.order_by("pk").values_list("pk", flat=True)
    newest = recovery.attempt_set.order_by("-pk").values_list("pk", flat=True)
    between = list(ids[ATTEMPTS_KEPT : 3 * ATTEMPTS_KEPT])
    kept = set(newest[:ATTEMPTS_KEPT])
    recovery.attempt_set.filter(
        pk__in=[pk for pk in between if pk not in kept]
    ).delete()


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
    then there is nothing to recover, and that is the proof. The first failure of the
    asking ends it, as with every proof."""
    confirmed = 0
    until = time.monotonic() + PROVE_SECS
    recoveries = Recovery.objects.filter(pk__in=stray.recovery_ids, state=State.WAITING)
    target = stray.target
    for recovery in recoveries:
        if time.monotonic() > until:
            break
        is_same = target.database == (recovery.database_id or databases.UNKNOWN)
        try:
            answer = gateway.answer(
                stray.application,
                messages.ExistPendingWorkflows(
                    executor_id=recovery.executor_id,
                    application_version=recovery.application_version,
                ),
                timeout_s=PROOF_TIMEOUT_S,
                executor_id=None if is_same else target.executor_id,
                database=target.database,
            )
            if answer.reply.exist is not False:
                continue
            objection = evidence.objection(recovery, answer.by, knows_work=is_same)
        except errors.ConductorError:
            break
        if objection:
            Recovery.objects.filter(pk=recovery.pk, state=State.WAITING).update(
                waiting_reason=objection[:300]
            )
        else:
            confirmed += _confirm_nothing_left(recovery, answer.by.executor_id)
    return confirmed


def _confirm_nothing_left(recovery: Recovery, proved_by: str) -> int:
    with transaction.atomic():
        remains = _lock_dead(recovery)
        changed = Recovery.objects.filter(pk=recovery.pk, state=State.WAITING).update(
            state=State.CONFIRMED,
            confirmed_at=clock.now(),
            proved_by=proved_by,
            pending_count=0,
            pending_left=0,
            waiting_reason="",
        )
        if changed:
            Executor.objects.filter(pk__in=remains).delete()
    return changed
