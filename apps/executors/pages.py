"""The read side of the executors' pages: what a page shows, in plain frozen values."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from django.db.models import (
    Count,
    F,
    Max,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Window,
)
from django.db.models.functions import RowNumber

from apps.executors.models import Executor, Recovery, RejectedConnection
from apps.htmx import COUNT_LIMIT
from apps.registry.auth import Actor
from apps.registry.models import Application, Organization

PAGE_SIZE = 50
EXECUTORS_PER_VERSION = 50
EXECUTORS_OF_ONE_VERSION = 500
HINTED_METADATA_KEYS = 3

State = Executor.State


# --- Applications ------------------------------------------------------------------


class WithLastLost(Protocol):
    """An application, with when its newest recovery began."""

    pk: int
    name: str
    private_mode: bool
    last_lost: datetime | None


@dataclass(frozen=True, slots=True)
class ApplicationRow:
    """One application with the health of its executors."""

    name: str
    private_mode: bool
    healthy: int
    total: int
    versions: tuple[str, ...]
    languages: tuple[str, ...]
    open_recoveries: int
    last_contact: datetime | None

    @property
    def health(self) -> str:
        if self.healthy == 0:
            return "unavailable" if self.total else "never"
        return "healthy" if self.healthy == self.total else "degraded"

    @property
    def health_label(self) -> str:
        return {
            "healthy": "Healthy",
            "degraded": "Degraded",
            "unavailable": "Unavailable",
            "never": "Not connected",
        }[self.health]


@dataclass(frozen=True, slots=True)
class ApplicationPage:
    rows: tuple[ApplicationRow, ...]
    next_cursor: str


def list_applications(actor: Actor, *, search: str, cursor: str) -> ApplicationPage:
    """One page of the actor's applications, by name.

    Queries: three, whatever the number of applications.
    """
    found = Application.objects.filter(organization=actor.organization)
    if actor.application_ids is not None:
        found = found.filter(pk__in=actor.application_ids)
    if search:
        found = found.filter(name__icontains=search)
    newest = Recovery.objects.filter(application=OuterRef("pk")).order_by("-id")
    found = found.annotate(last_lost=Subquery(newest.values("disconnected_at")[:1]))
    page = list(found.filter(name__gt=cursor).order_by("name")[: PAGE_SIZE + 1])
    more, page = len(page) > PAGE_SIZE, page[:PAGE_SIZE]
    rows = _application_rows(page)
    return ApplicationPage(tuple(rows), page[-1].name if more else "")


def _application_rows(
    applications: Sequence[WithLastLost],
) -> Iterable[ApplicationRow]:
    ids = [application.pk for application in applications]
    groups: dict[int, list[Mapping[str, object]]] = defaultdict(list)
    for group in (
        Executor.objects.filter(application__in=ids)
        .values("application_id", "state", "application_version", "language")
        .annotate(number=Count("pk"), left=Max("disconnected_at"))
        .order_by("application_version")
    ):
        groups[group["application_id"]].append(group)
    waiting = dict(
        Recovery.objects.filter(application__in=ids, state__in=Recovery.OPEN)
        .values_list("application_id")
        .annotate(number=Count("pk"))
    )
    for application in applications:
        yield _application_row(
            application, groups[application.pk], waiting.get(application.pk, 0)
        )


def _application_row(
    application: WithLastLost,
    groups: Sequence[Mapping[str, object]],
    open_recoveries: int,
) -> ApplicationRow:
    numbers = [(str(g["state"]), int(str(g["number"]))) for g in groups]
    alive = [g for g in groups if g["state"] == State.HEALTHY]
    left = [application.last_lost, *(g["left"] for g in groups)]
    return ApplicationRow(
        name=application.name,
        private_mode=application.private_mode,
        healthy=sum(n for state, n in numbers if state == State.HEALTHY),
        total=sum(n for _, n in numbers),
        versions=_distinct(alive, "application_version"),
        languages=_distinct(groups, "language"),
        open_recoveries=open_recoveries,
        last_contact=max((m for m in left if isinstance(m, datetime)), default=None),
    )


def _distinct(groups: Iterable[Mapping[str, object]], key: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(g[key]) for g in groups if g[key]))


# --- One application ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VersionGroup:
    """The executors of one application version; `hidden` more are not listed."""

    version: str
    healthy: int
    total: int
    executors: tuple[Executor, ...]

    @property
    def hidden(self) -> int:
        return self.total - len(self.executors)


@dataclass(frozen=True, slots=True)
class ExecutorsPage:
    groups: tuple[VersionGroup, ...]
    versions: int
    healthy: int
    total: int
    open_recoveries: int
    hints: tuple[str, ...]
    only_version: str | None

    @property
    def has_several_databases(self) -> bool:
        """Whether the executors that are listed work on more than one database."""
        listed = (executor for group in self.groups for executor in group.executors)
        return len({executor.database_id for executor in listed}) > 1


def executors_by_version(
    application: Application, only_version: str | None = None
) -> ExecutorsPage:
    """The executors of an application, newest version first. Queries: three."""
    everything = Executor.objects.filter(application=application)
    versions = list(
        everything.values("application_version")
        .annotate(
            healthy=Count("pk", filter=Q(state=State.HEALTHY)),
            total=Count("pk"),
            newest=Max("created_at"),
        )
        .order_by("-newest")
    )
    listed: dict[str, list[Executor]] = defaultdict(list)
    for executor in _first_of_each_version(everything, only_version):
        listed[executor.application_version].append(executor)
    groups = tuple(
        VersionGroup(
            version=row["application_version"],
            healthy=row["healthy"],
            total=row["total"],
            executors=tuple(listed[row["application_version"]]),
        )
        for row in versions
        if only_version is None or row["application_version"] == only_version
    )
    return ExecutorsPage(
        groups=groups,
        versions=len(versions),
        healthy=sum(row["healthy"] for row in versions),
        total=sum(row["total"] for row in versions),
        open_recoveries=application.recoveries.filter(state__in=Recovery.OPEN).count(),
        hints=tuple(_hints(versions, [e for g in groups for e in g.executors])),
        only_version=only_version,
    )


def _first_of_each_version(
    executors: QuerySet[Executor], only_version: str | None
) -> QuerySet[Executor]:
    limit = EXECUTORS_PER_VERSION
    if only_version is not None:
        executors = executors.filter(application_version=only_version)
        limit = EXECUTORS_OF_ONE_VERSION
    order = (F("state").desc(), F("executor_id").asc())
    return (
        executors.select_related("database")
        .annotate(
            place=Window(
                RowNumber(), partition_by=F("application_version"), order_by=order
            )
        )
        .filter(place__lte=limit)
    )


def _hints(
    versions: Sequence[Mapping[str, object]], executors: Sequence[Executor]
) -> Iterable[str]:
    """What mixed executors mean for whoever looks at them."""
    alive = [e for e in executors if e.state == State.HEALTHY]
    running = [v for v in versions if v["healthy"]]
    if len(running) > 1:
        yield (
            f"{len(running)} versions are running at the same time. A dead executor's "
            "workflows are handed over only within its own version, so keep an old "
            "version running until its workflows are done."
        )
    languages = sorted({e.language for e in alive if e.language})
    if len(languages) > 1:
        yield (
            f"Executors are written in different languages ({', '.join(languages)}). "
            "That works while each version belongs to one language."
        )
    for language in languages:
        sdks = sorted({e.dbos_version for e in alive if e.language == language} - {""})
        if len(sdks) > 1:
            yield f"Different {language} SDK versions are running: {', '.join(sdks)}."
    keys = sorted({key for e in alive for key in _metadata(e)})
    differing = [k for k in keys if len({str(_metadata(e).get(k)) for e in alive}) > 1]
    if differing:
        names = ", ".join(differing[:HINTED_METADATA_KEYS])
        yield f"Metadata differs between executors: {names}."


def _metadata(executor: Executor) -> dict[str, object]:
    """What an executor reported; anything may stand there, only objects have keys."""
    return executor.metadata if isinstance(executor.metadata, dict) else {}


# --- Recoveries --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecoveryPage:
    rows: tuple[Recovery, ...]
    next_cursor: str
    has_open: bool
    # Whether it matters which database each of them worked on.
    has_several_databases: bool


def list_recoveries(
    application: Application, *, state: str, cursor: int | None
) -> RecoveryPage:
    """One page of the ledger, newest first; `state` empty for all."""
    found = application.recoveries.select_related("database").order_by("-id")
    if state:
        found = found.filter(state=state)
    if cursor is not None:
        found = found.filter(id__lt=cursor)
    rows = list(found[: PAGE_SIZE + 1])
    more, rows = len(rows) > PAGE_SIZE, rows[:PAGE_SIZE]
    return RecoveryPage(
        rows=tuple(rows),
        next_cursor=str(rows[-1].pk) if more else "",
        has_open=any(row.state in Recovery.OPEN for row in rows),
        has_several_databases=application.system_databases.all()[:2].count() > 1,
    )


def recoveries_by_state(application: Application) -> dict[str, int]:
    """Count the ledger's entries by state, none beyond one more than `COUNT_LIMIT`.

    Queries: one for each state.
    """
    recoveries = application.recoveries.order_by()
    return {
        state: recoveries.filter(state=state)[: COUNT_LIMIT + 1].count()
        for state in Recovery.State.values
    }


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One entry of a recovery's story; `at` is None while it has not happened."""

    icon: str
    status: str
    title: str
    text: str
    at: datetime | None
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class RecoveryStory:
    """One recovery as a person reads it."""

    is_open: bool
    conclusion: str
    advice: tuple[str, ...]
    steps: tuple[TimelineStep, ...]


def tell_recovery(recovery: Recovery) -> RecoveryStory:
    """Tell what happened, and what is to be done if it is not over. Queries: one."""
    is_open = recovery.state in Recovery.OPEN
    versions = _healthy_versions(recovery) if is_open else {}
    return RecoveryStory(
        is_open=is_open,
        conclusion=_conclusion(recovery, versions),
        advice=tuple(_advice(recovery, versions)),
        steps=tuple(_timeline(recovery)),
    )


def _healthy_versions(recovery: Recovery) -> dict[str, int]:
    """Return what runs on the dead executor's database, where that is known."""
    healthy = recovery.application.executors.filter(state=State.HEALTHY).order_by()
    if recovery.database_id is not None:
        healthy = healthy.filter(database=recovery.database_id)
    counts = healthy.values_list("application_version").annotate(number=Count("pk"))
    return dict(counts)


def _conclusion(recovery: Recovery, versions: dict[str, int]) -> str:
    if recovery.state == Recovery.State.CONFIRMED:
        left = recovery.pending_left or 0
        pending = "1 workflow" if left == 1 else f"{left} workflows"
        if recovery.proved_by:
            return f"{pending} pending, says executor {recovery.proved_by}."
        return f"{pending} pending."
    if recovery.state == Recovery.State.RETURNED:
        return (
            "The executor came back and carries on by itself. Nothing was handed over."
        )
    if recovery.state == Recovery.State.REQUESTED:
        return f"The order is with executor {recovery.taken_over_by}."
    if recovery.waiting_reason and recovery.database_id is not None and not versions:
        return recovery.waiting_reason
    if not versions:
        return "It waits: no executor of this application is connected."
    if recovery.application_version not in versions:
        return (
            f"It waits: no healthy executor runs version "
            f"{recovery.application_version}."
        )
    return recovery.waiting_reason or "It is due and will be handed over in a moment."


def _advice(recovery: Recovery, versions: dict[str, int]) -> Iterable[str]:
    if recovery.state != Recovery.State.WAITING:
        return
    version = recovery.application_version
    if version in versions:
        yield "It is tried again by itself, on another executor if there is one."
        return
    yield (
        f"Start a process of version {version}{_where(recovery)}. It takes the "
        "workflows over within seconds of connecting."
    )
    if versions:
        running = ", ".join(sorted(versions))
        yield (
            f"Running now: {running}. To carry on there instead, open its workflows "
            "and fork them, or cancel them."
        )


def _where(recovery: Recovery) -> str:
    return f" on database {recovery.database.label}" if recovery.database else ""


def _timeline(recovery: Recovery) -> Iterable[TimelineStep]:
    lost, dead = recovery.disconnected_at, recovery.dead_at
    if lost:
        yield TimelineStep(
            "plug-connected-x",
            "disconnected",
            "Connection lost",
            "The executor timeout started.",
            lost,
        )
    yield TimelineStep(
        "heartbeat",
        "dead",
        "Declared dead",
        "It did not come back within the executor timeout.",
        dead,
        dead - lost if lost else None,
    )
    if recovery.requested_at or recovery.state != Recovery.State.RETURNED:
        yield _ordered_step(recovery)
    if recovery.returned_at:
        after = (
            "It reconnected after its workflows had been handed over; it works on "
            "new ones."
            if recovery.returned_after_takeover
            else "It reconnected before anything was handed over."
        )
        yield TimelineStep("rotate", "ok", "Returned", after, recovery.returned_at)
    if recovery.state != Recovery.State.RETURNED:
        yield _confirmed_step(recovery)


def _ordered_step(recovery: Recovery) -> TimelineStep:
    at = recovery.requested_at
    if at:
        text = f"Executor {recovery.taken_over_by} was told to take the workflows over."
        if recovery.attempts > 1:
            text += f" Attempts so far: {recovery.attempts}."
        return TimelineStep(
            "arrow-right", "requested", "Handed over", text, at, at - recovery.dead_at
        )
    if recovery.state == Recovery.State.CONFIRMED:
        text = "Not needed: nothing was left pending."
        return TimelineStep("arrow-right", "off", "No order given", text, None)
    text = recovery.waiting_reason or "Waiting for its turn."
    return TimelineStep("hourglass", "waiting", "Not handed over yet", text, None)


def _confirmed_step(recovery: Recovery) -> TimelineStep:
    at = recovery.confirmed_at
    if at is None:
        text = "Confirmed once an executor answers that nothing is pending."
        return TimelineStep("circle-dashed", "off", "Not confirmed yet", text, None)
    text = f"{recovery.pending_left or 0} workflows pending"
    if recovery.proved_by:
        text += f", asked of executor {recovery.proved_by}"
    since = recovery.requested_at or recovery.dead_at
    return TimelineStep(
        "shield-check", "confirmed", "Confirmed", f"{text}.", at, at - since
    )


# --- Rejected connections ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused connection, in words."""

    row: RejectedConnection
    sentence: str
    remedy: str
    can_register: bool


@dataclass(frozen=True, slots=True)
class RejectionPage:
    rows: tuple[Rejection, ...]
    next_cursor: str


def list_rejections(
    organization: Organization,
    *,
    cursor: tuple[datetime, int] | None = None,
    application_name: str | None = None,
    limit: int = PAGE_SIZE,
) -> RejectionPage:
    """One page of refused connections, the latest first. Queries: two."""
    found = RejectedConnection.objects.filter(organization=organization)
    found = found.select_related("api_key").order_by("-last_seen_at", "-id")
    if application_name is not None:
        found = found.filter(application_name=application_name)
    if cursor is not None:
        seen_at, pk = cursor
        found = found.filter(
            Q(last_seen_at__lt=seen_at) | Q(last_seen_at=seen_at, id__lt=pk)
        )
    rows = list(found[: limit + 1])
    more, rows = len(rows) > limit, rows[:limit]
    names = _application_names(organization, rows)
    return RejectionPage(
        rows=tuple(_explain(row, names) for row in rows),
        next_cursor=f"{rows[-1].last_seen_at.isoformat()},{rows[-1].pk}"
        if more
        else "",
    )


def _application_names(
    organization: Organization, rows: Sequence[RejectedConnection]
) -> list[str]:
    """The names a mistyped one may have meant; asked only when there is one."""
    unknown = RejectedConnection.Reason.UNKNOWN_APPLICATION
    if all(row.reason != unknown for row in rows):
        return []
    names = organization.applications.order_by("name").values_list("name", flat=True)
    return list(names[:1000])


def _explain(row: RejectedConnection, names: Sequence[str]) -> Rejection:
    reason = RejectedConnection.Reason(row.reason)
    key = row.api_key.name if row.api_key else row.key_prefix or "an unknown key"
    why, remedy = _WORDS[reason]
    close = difflib.get_close_matches(row.application_name, names, n=1)
    unknown = reason is RejectedConnection.Reason.UNKNOWN_APPLICATION
    if unknown and row.application_name in names:
        remedy = "The application exists by now; the process connects by itself."
        unknown = False
    elif unknown and close:
        remedy = (
            f"Did you mean {close[0]}? Correct the name in the process, or register it."
        )
    return Rejection(
        row=row,
        sentence=(
            f"A process tried to connect as {row.application_name} "
            f"with key {key}: {why}."
        ),
        remedy=remedy,
        can_register=unknown,
    )


_WORDS: dict[RejectedConnection.Reason, tuple[str, str]] = {
    RejectedConnection.Reason.BAD_KEY: (
        "the key is wrong",
        "Copy the whole key again, or create a new one.",
    ),
    RejectedConnection.Reason.REVOKED_KEY: (
        "the key was revoked",
        "Give the process a key that is still valid.",
    ),
    RejectedConnection.Reason.EXPIRED_KEY: (
        "the key has expired",
        "Create a new key and give it to the process.",
    ),
    RejectedConnection.Reason.UNKNOWN_APPLICATION: (
        "no such application",
        "Register an application of that name, or correct the name in the process.",
    ),
    RejectedConnection.Reason.WRONG_APPLICATION: (
        "the key is for other applications",
        "Use a key whose scope includes this application.",
    ),
    RejectedConnection.Reason.MISSING_PERMISSION: (
        "the key may not connect executors",
        "Use a key with the permission websocket.connect.",
    ),
    RejectedConnection.Reason.OVER_QUOTA: (
        "there are as many connections as are allowed already",
        "Look for processes that connect over and over, or have the limit raised.",
    ),
}
