"""Presence: every transition of an executor's state, each one compare-and-set.

`HEALTHY → DISCONNECTED → DEAD`, and back to HEALTHY by registering. All of these are
safe to run twice, late, and in any number of processes. Source: design of an
executor's life; docs/adr/0002 (the fence) and 0003 (the clock and outages).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from django.conf import settings
from django.db import transaction
from django.db.models import (
    Case,
    Count,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    When,
)

from apps.executors import clock, databases, fairness, live, rollcall
from apps.executors.models import Executor, Instance, PresenceClock, Recovery
from apps.executors.sockets import Key
from apps.registry import keys
from apps.registry.models import Application

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Model)

BEAT_SECS = 2.0
# An instance that missed this much of its beats is gone, and its sockets with it.
STALE_AFTER = timedelta(seconds=8)
# An instance whose heartbeat stopped may be frozen, with its executors' sockets open in
# it. Every SDK gives up a server that answers no ping within 50 s, and finds another
# one after a few dials: after this time no executor is connected to it any more.
QUIET_FOR = timedelta(minutes=2)
# When no instance at all beat for longer than this, nobody could have noticed an
# executor coming back: every disconnect clock starts anew. A clock that jumps looks
# the same, and is treated the same.
OUTAGE_AFTER = timedelta(seconds=2 * BEAT_SECS)
# How long an order may keep its executors fenced: longer than all it may take.
LEASE = timedelta(seconds=60)
# How long one pass may declare, how many rows a transaction changes, and how many of
# them are of one application while others wait.
SWEEP_SECS = 1.5
BATCH = 500
PER_TURN = 100


@dataclass(frozen=True, slots=True)
class Registration:
    """One accepted connection and what its executor said of itself."""

    connection_id: str
    application_id: int
    executor_id: str
    application_version: str = ""
    hostname: str = ""
    language: str = ""
    dbos_version: str = ""
    metadata: dict[str, object] = field(default_factory=dict)
    api_key_id: int | None = None
    remote_ip: str = ""
    # What its system database is known by; see `fingerprint`.
    marks: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return self.application_id, self.executor_id


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of one batch of registrations."""

    fenced: list[Registration]
    woke_recoveries: bool
    # Executors that nobody knew, of applications that have as many as they may.
    surplus: list[Registration] = field(default_factory=list)


def register(registrations: Sequence[Registration], *, instance_id: str) -> Registered:
    """Make the executors of these connections HEALTHY, in one transaction.

    Concurrency: the executor rows are locked first, as `recovery.claim` does. An
    executor that an order on its way names (a recovery REQUESTED under a lease) is
    *fenced*: left as it is and returned, to be tried again when the order is answered.
    So no order can name an executor that is HEALTHY. While nobody witnesses the clock
    no lease counts as run out.
    """
    latest = {item.key: item for item in registrations}
    found = databases.assign(list(latest.values()))
    applications = {item.application_id for item in latest.values()}
    ids = {item.executor_id for item in latest.values()}
    with transaction.atomic():
        rows = Executor.objects.filter(
            application_id__in=applications, executor_id__in=ids
        )
        locked = rows.select_for_update().order_by("pk")
        known = set(locked.values_list("application_id", "executor_id"))
        surplus = _surplus(latest, known)
        for item in surplus:
            del latest[item.key]
        now = clock.now()
        fenced_keys = _close_recoveries_of(applications, ids, latest.keys(), now)
        admitted = [item for key, item in latest.items() if key not in fenced_keys]
        _upsert(admitted, found, instance_id, now)
        keys.touch({i.api_key_id for i in admitted if i.api_key_id}, now)
    fenced = [item for key, item in latest.items() if key in fenced_keys]
    return Registered(fenced, _wake_waiting_recoveries(admitted, now), surplus)


def _surplus(latest: Mapping[Key, Registration], known: set[Key]) -> list[Registration]:
    """Return those of executors that have no row, beyond what an application may have.

    An executor that is known always comes back, however many dead siblings it has.
    Queries: one, where there are any new ones.
    """
    new = [item for key, item in latest.items() if key not in known]
    if not new:
        return []
    rows = Executor.objects.filter(application_id__in={i.application_id for i in new})
    counts = Counter(
        dict(rows.values_list("application_id").annotate(n=Count("pk")).order_by())
    )
    surplus = []
    for item in new:
        counts[item.application_id] += 1
        if counts[item.application_id] > settings.CONDUCTOR_MAX_EXECUTORS:
            surplus.append(item)
    return surplus


def _close_recoveries_of(
    applications: set[int],
    executor_ids: set[str],
    keys: Iterable[tuple[int, str]],
    now: datetime,
) -> set[tuple[int, str]]:
    """Close the recoveries of executors that returned; return the fenced keys."""
    wanted = set(keys)
    clock_holds = is_witnessed(now)
    fenced: set[tuple[int, str]] = set()
    recoveries = Recovery.objects.select_for_update().filter(
        application_id__in=applications,
        executor_id__in=executor_ids,
        returned_at=None,
    )
    for recovery in recoveries.order_by("pk"):
        key = (recovery.application_id, recovery.executor_id)
        if key not in wanted:
            continue
        if (
            recovery.state == Recovery.State.REQUESTED
            and recovery.lease_expires_at is not None
            and (recovery.lease_expires_at > now or not clock_holds)
        ):
            fenced.add(key)
            continue
        recovery.returned_at = now
        recovery.returned_after_takeover = recovery.requested_at is not None
        if recovery.state in Recovery.OPEN:
            recovery.state = Recovery.State.RETURNED
        recovery.lease_expires_at = None
        recovery.waiting_reason = ""
        recovery.save(
            update_fields=[
                "state",
                "returned_at",
                "returned_after_takeover",
                "lease_expires_at",
                "waiting_reason",
            ]
        )
    return fenced


def _upsert(
    items: Sequence[Registration],
    found: Mapping[str, int],
    instance_id: str,
    now: datetime,
) -> None:
    Executor.objects.bulk_create(
        [
            Executor(
                application_id=item.application_id,
                executor_id=item.executor_id,
                database_id=found.get(item.connection_id),
                application_version=item.application_version,
                hostname=item.hostname,
                language=item.language,
                dbos_version=item.dbos_version,
                metadata=item.metadata,
                state=Executor.State.HEALTHY,
                connection_id=item.connection_id,
                instance_id=instance_id,
                api_key_id=item.api_key_id,
                remote_ip=item.remote_ip,
                connected_at=now,
                disconnected_at=None,
                dead_at=None,
                created_at=now,
                updated_at=now,
            )
            for item in sorted(items, key=lambda item: item.key)
        ],
        batch_size=500,
        update_conflicts=True,
        unique_fields=["application", "executor_id"],
        update_fields=[
            "database",
            "application_version",
            "hostname",
            "language",
            "dbos_version",
            "metadata",
            "state",
            "connection_id",
            "instance_id",
            "api_key",
            "remote_ip",
            "connected_at",
            "disconnected_at",
            "dead_at",
            "updated_at",
        ],
    )


def _wake_waiting_recoveries(items: Sequence[Registration], now: datetime) -> bool:
    """Let what waited for a version be tried now that an executor of it is here.

    Concurrency: in a transaction of its own, which holds no recovery's lock yet.
    """
    versions = {(item.application_id, item.application_version) for item in items}
    waiting = Recovery.objects.filter(
        state=Recovery.State.WAITING,
        application_id__in={application for application, _ in versions},
        application_version__in={version for _, version in versions},
    )
    return bool(_update_in_order(waiting, next_try_at=now))


def _update_in_order(rows: QuerySet[M], **values: object) -> int:
    """Update rows that others update too: locked by key, as everybody does it, or two
    could wait for each other. Once for a table in a transaction."""
    with transaction.atomic():
        locked = rows.select_for_update().order_by("pk")
        ids = list(locked.values_list("pk", flat=True))
        found = rows.model._default_manager.filter(pk__in=ids)
        return found.update(**values)


def disconnect(connection_ids: Sequence[str]) -> int:
    """`HEALTHY → DISCONNECTED` where the connection is still the one that closed."""
    closed = Executor.objects.filter(
        connection_id__in=connection_ids, state=Executor.State.HEALTHY
    )
    return _mark_disconnected(closed, clock.now())


def _mark_disconnected(executors: QuerySet[Executor], now: datetime) -> int:
    return _update_in_order(
        executors,
        state=Executor.State.DISCONNECTED,
        disconnected_at=now,
        updated_at=now,
    )


def is_witnessed(now: datetime) -> bool:
    """Whether some instance beat just now, by this clock.

    If not, there is an outage, or the clock jumped: then nobody may be declared dead,
    no order given, and no lease taken for run out, until the next beat settles it.
    """
    alive_at = PresenceClock.objects.values_list("alive_at", flat=True).first()
    return alive_at is not None and abs(now - alive_at) <= OUTAGE_AFTER


def alive_instances(now: datetime) -> set[str]:
    """Return the instances whose beats are fresh."""
    fresh = Instance.objects.filter(
        beat_at__range=(now - STALE_AFTER, now + STALE_AFTER)
    )
    return set(fresh.values_list("pk", flat=True))


def quiet_instances(now: datetime) -> set[str]:
    """Return the instances whose heartbeats stopped lately: frozen ones, or gone."""
    stopped = Instance.objects.filter(
        beat_at__range=(now - QUIET_FOR, now - STALE_AFTER)
    )
    return set(stopped.values_list("pk", flat=True))


def beat(*, instance_id: str, hostname: str, idle: timedelta | None = None) -> None:
    """Say that this instance is alive; restart every disconnect clock after an outage.

    An outage is a time in which no instance beat: stopped, or without its database.
    `idle` is how long ago this instance beat last, by a clock that cannot jump.
    """
    with transaction.atomic():
        PresenceClock.objects.get_or_create(pk=1)
        shared = PresenceClock.objects.select_for_update().get(pk=1)
        now = clock.now()
        gap = now - shared.alive_at
        others = Instance.objects.exclude(pk=instance_id)
        is_first = not Instance.objects.filter(pk=instance_id).exists()
        alone = not alive_instances(now) - {instance_id}
        jumped = gap < -OUTAGE_AFTER or (idle is not None and gap > idle + OUTAGE_AFTER)
        if gap > OUTAGE_AFTER or jumped or (is_first and alone):
            restarted = _restart_disconnect_clocks(Executor.objects.all(), now)
            logger.info(
                "no instance was alive; disconnect clocks restarted",
                extra={
                    "executors": restarted,
                    "outage_s": round(gap.total_seconds(), 1),
                },
            )
        if jumped:
            _restart_recovery_clocks(now)
        PresenceClock.objects.filter(pk=1).update(alive_at=now)
        Instance.objects.update_or_create(
            pk=instance_id, defaults={"beat_at": now, "hostname": hostname}
        )
        others.filter(beat_at__lt=now - timedelta(days=1)).delete()


def _restart_disconnect_clocks(executors: QuerySet[Executor], now: datetime) -> int:
    waiting = executors.filter(state=Executor.State.DISCONNECTED)
    return _update_in_order(waiting, disconnected_at=now)


def _restart_recovery_clocks(now: datetime) -> None:
    """The clock jumped: what was to happen at a time of the old one is due by the new.

    Concurrency: orders may be on their way, so their leases begin anew.
    """
    logger.warning("the clock jumped; leases and retries start anew")
    is_requested = Q(state=Recovery.State.REQUESTED)
    _update_in_order(
        Recovery.objects.filter(state__in=Recovery.OPEN),
        lease_expires_at=Case(
            When(is_requested, then=now + LEASE), default="lease_expires_at"
        ),
        next_try_at=Case(When(is_requested, then="next_try_at"), default=now),
    )


def retire_instance(*, instance_id: str) -> None:
    """Take an instance that stops in good order off the list."""
    Instance.objects.filter(pk=instance_id).delete()


@dataclass(frozen=True, slots=True)
class Drift:
    """How our open sockets and the rows differ."""

    # Connections that no row knows: to be registered again.
    unknown: list[str]
    # Connections whose executor has a newer one. They stay open and take over when
    # that one closes: two living processes may report the same id, and closing the
    # older would have them chase each other for ever.
    outdated: list[str]
    # Connections that only rows know.
    gone: list[str]


def find_drift(*, instance_id: str, connections: dict[str, Key]) -> Drift:
    """Compare our open sockets (`connection_id → executor`) with the rows.

    Queries: one while all is well.
    """
    known = set(
        Executor.objects.filter(
            instance_id=instance_id, state=Executor.State.HEALTHY
        ).values_list("connection_id", flat=True)
    )
    missing = [c for c in connections if c not in known]
    unknown: list[str] = []
    outdated: list[str] = []
    for chunk in _chunks(missing, 500):
        rows = Executor.objects.filter(
            application_id__in={connections[c][0] for c in chunk},
            executor_id__in={connections[c][1] for c in chunk},
            state=Executor.State.HEALTHY,
        ).values_list("application_id", "executor_id")
        current = set(rows)
        for connection_id in chunk:
            has_newer = connections[connection_id] in current
            (outdated if has_newer else unknown).append(connection_id)
    return Drift(unknown, outdated, list(known - connections.keys()))


def sweep() -> tuple[int, int]:
    """One pass of presence. Return how many became DISCONNECTED and how many DEAD.

    Does nothing while no instance is alive: then nobody could come back. It ends after
    `SWEEP_SECS`, and what is left to do is done by the next.
    """
    now = clock.now()
    alive = alive_instances(now)
    if not alive or not is_witnessed(now):
        return 0, 0
    until = time.monotonic() + SWEEP_SECS
    orphaned = _disconnect_orphans(alive, now, until=until)
    dead = 0
    try:
        for overdue in _overdue(now, until=until):
            dead += _declare_dead(overdue, now, alive)
    except rollcall.Unknown as exc:
        logger.warning("nobody declared dead", extra={"reason": exc.message})
    if orphaned or dead:
        logger.info("presence swept", extra={"disconnected": orphaned, "dead": dead})
    return orphaned, dead


def _disconnect_orphans(alive: set[str], now: datetime, *, until: float) -> int:
    """`HEALTHY → DISCONNECTED` for the executors of lost instances.

    An executor that connected lately has an instance that had no time to beat.
    """
    orphans = Executor.objects.filter(
        state=Executor.State.HEALTHY, connected_at__lt=now - STALE_AFTER
    ).exclude(instance_id__in=alive)
    ids = orphans.order_by().values_list("application_id", flat=True).distinct()
    applications = fairness.in_turns(Application.objects.filter(pk__in=set(ids)))
    orphaned = 0
    while applications and time.monotonic() < until:
        more = []
        for application in applications:
            found = _disconnect_some(orphans.filter(application=application), now)
            orphaned += found
            if found == BATCH:
                more.append(application)
        applications = more
    return orphaned


def _disconnect_some(orphans: QuerySet[Executor], now: datetime) -> int:
    with transaction.atomic():
        locked = orphans.select_for_update(skip_locked=True).order_by("pk")
        ids = list(locked.values_list("pk", flat=True)[:BATCH])
        return _mark_disconnected(Executor.objects.filter(pk__in=ids), now)


def _overdue(now: datetime, *, until: float) -> Iterable[list[Executor]]:
    """Yield, in batches, executors that are DISCONNECTED for longer than their timeout.

    A batch has a few of each application, so that the thousands of one keep no other
    waiting, and one roll call is enough for all.
    """
    applications = _applications_overdue(now)
    passed: dict[int, Executor] = {}
    while applications and time.monotonic() < until:
        more = []
        batch: list[Executor] = []
        for application in applications:
            found = _overdue_of(application, now, passed.get(application.pk))
            batch += found
            if len(found) == PER_TURN:
                passed[application.pk] = found[-1]
                more.append(application)
            if len(batch) >= BATCH:
                yield batch
                batch = []
                if time.monotonic() > until:
                    return
        if batch:
            yield batch
        applications = more


def _applications_overdue(now: datetime) -> list[Application]:
    """Those that have an overdue executor. One step into an index for each."""
    longest = (
        Executor.objects.filter(
            application=OuterRef("pk"), state=Executor.State.DISCONNECTED
        )
        .order_by("disconnected_at")
        .values("disconnected_at")[:1]
    )
    waiting = Application.objects.annotate(disconnected_at=Subquery(longest))
    found = waiting.filter(disconnected_at__lte=now).only(
        "organization_id", "executor_timeout_secs"
    )
    return fairness.in_turns(
        one for one in found if one.disconnected_at <= _limit_of(one, now)
    )


def _limit_of(application: Application, now: datetime) -> datetime:
    return now - timedelta(seconds=application.executor_timeout_secs)


def _overdue_of(
    application: Application, now: datetime, after: Executor | None
) -> list[Executor]:
    overdue = Executor.objects.filter(
        application=application,
        state=Executor.State.DISCONNECTED,
        disconnected_at__lte=_limit_of(application, now),
    )
    if after is not None:
        # What somebody else holds locked is passed over, not read for ever. The first
        # condition is for the index; PostgreSQL does not begin at an OR.
        overdue = overdue.filter(disconnected_at__gte=after.disconnected_at).filter(
            Q(disconnected_at__gt=after.disconnected_at)
            | Q(disconnected_at=after.disconnected_at, pk__gt=after.pk)
        )
    return list(overdue.order_by("disconnected_at", "pk")[:PER_TURN])


def _declare_dead(overdue: list[Executor], now: datetime, alive: set[str]) -> int:
    """`DISCONNECTED → DEAD` for those that no server is connected to, each with its
    recovery row; the clock of the others starts anew. Compare-and-set.

    Raises: rollcall.Unknown.
    """
    since = {row.pk: row.disconnected_at for row in overdue}
    keys = {row.pk: (row.application_id, row.executor_id) for row in overdue}
    present = rollcall.connected(
        set(keys.values()), instances=alive, quiet=quiet_instances(now)
    )
    here = [pk for pk, key in keys.items() if key in present]
    _mark_disconnected_anew(here, now)
    for pk in here:
        del since[pk]
    with transaction.atomic():
        locked = Executor.objects.select_for_update(skip_locked=True).filter(
            pk__in=since, state=Executor.State.DISCONNECTED
        )
        # One that came and went again meanwhile has a clock of its own.
        rows = [r for r in locked.order_by("pk") if r.disconnected_at == since[r.pk]]
        Executor.objects.filter(pk__in=[row.pk for row in rows]).update(
            state=Executor.State.DEAD, dead_at=now, updated_at=now
        )
        Recovery.objects.bulk_create(
            [
                Recovery(
                    application_id=row.application_id,
                    executor_id=row.executor_id,
                    database_id=row.database_id,
                    application_version=row.application_version,
                    language=row.language,
                    hostname=row.hostname,
                    disconnected_at=row.disconnected_at,
                    dead_at=now,
                    next_try_at=now,
                )
                for row in rows
            ],
            ignore_conflicts=True,
        )
    for application_id in {row.application_id for row in rows}:
        live.announce(application_id)
    return len(rows)


def _mark_disconnected_anew(ids: Sequence[int], now: datetime) -> None:
    """They are connected to a server that cannot write it yet."""
    if ids:
        logger.warning("not dead, only not registered", extra={"executors": len(ids)})
        _restart_disconnect_clocks(Executor.objects.filter(pk__in=ids), now)


def _chunks(items: list[str], size: int) -> Iterable[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
