"""Which system database an executor works on: an executor's word counts only for it.

Source: docs/adr/0006. A database is known by its marks (see `fingerprint`); an executor
that could not be asked, or had nothing to show, works on an *unknown* one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from django.db import transaction
from django.db.models import Count, Max

from apps import errors
from apps.executors import clock
from apps.executors.fingerprint import MARKS_LIMIT, VERSION, digest
from apps.executors.models import Executor, Recovery, SystemDatabase
from apps.registry.models import Application

# The key of what could not be told; every other is a row's.
UNKNOWN = 0
UNKNOWN_LABEL = "unknown"
SEEN_EVERY = timedelta(minutes=1)
# A database whose executors died is still one to choose for this long.
DEAD_COUNTS_FOR = timedelta(days=1)
EXECUTORS_NAMED = 5
KEPT_UNUSED_FOR = timedelta(days=30)


class Marked(Protocol):
    """A connection as far as this module is concerned."""

    @property
    def application_id(self) -> int: ...

    @property
    def connection_id(self) -> str: ...

    @property
    def marks(self) -> tuple[str, ...]: ...


# --- Telling one from another ------------------------------------------------------


def assign(items: Sequence[Marked]) -> dict[str, int]:
    """Return which database each of these connections works on, by its id; those of
    unknown ones are left out.

    Concurrency: what changes a row holds the application's, so that two servers that
    meet a database at once make one row of it. Queries: one while nothing is new.
    """
    marked = [item for item in items if item.marks]
    known = _known({item.application_id for item in marked})
    now = clock.now()
    found: dict[str, int] = {}
    for item in marked:
        row = _find(known.get(item.application_id, []), item.marks)
        if row is None or not set(item.marks) <= set(row.marks):
            row = _learn(item)
            known |= _known({item.application_id})
        if row is not None:
            found[item.connection_id] = row.pk
    SystemDatabase.objects.filter(
        pk__in=set(found.values()), last_seen_at__lt=now - SEEN_EVERY
    ).update(last_seen_at=now)
    return found


def _known(application_ids: Iterable[int]) -> dict[int, list[SystemDatabase]]:
    rows: dict[int, list[SystemDatabase]] = {}
    wanted = set(application_ids)
    if wanted:
        for row in SystemDatabase.objects.filter(application__in=wanted).order_by("pk"):
            rows.setdefault(row.application_id, []).append(row)
    return rows


def _find(
    known: Sequence[SystemDatabase], marks: tuple[str, ...]
) -> SystemDatabase | None:
    return next((row for row in known if is_same(row.marks, marks)), None)


def is_same(known: Iterable[str], reported: Iterable[str]) -> bool:
    """Whether two sets of marks are of one database.

    Rows of versions are only ever added, so of two lists of one database one contains
    the other. Two that share some and have each what the other lacks are of a database
    and its copy. Oldest workflows vanish, so that some of them agree must do.
    """
    ours, theirs = set(known), set(reported)
    if not ours & theirs:
        return False
    ours = {mark for mark in ours if mark.startswith(VERSION)}
    theirs = {mark for mark in theirs if mark.startswith(VERSION)}
    if not ours or not theirs or MARKS_LIMIT in (len(ours), len(theirs)):
        return True
    return ours <= theirs or theirs <= ours


def _learn(item: Marked) -> SystemDatabase | None:
    """Make a row of a new database, or add what is new to its row."""
    with transaction.atomic():
        held = Application.objects.select_for_update().filter(pk=item.application_id)
        if not held.exists():
            return None
        list(held.values_list("pk"))
        known = _known({item.application_id}).get(item.application_id, [])
        row = _find(known, item.marks)
        if row is not None:
            row.marks = _merged(row.marks, item.marks)
            row.save(update_fields=["marks"])
            return row
        if known and not item.marks[0].startswith(VERSION):
            # Its oldest workflows may have been removed: that is no other database.
            return None
        now = clock.now()
        return SystemDatabase.objects.create(
            application_id=item.application_id,
            label=_new_label(known, item.marks),
            marks=list(item.marks),
            first_seen_at=now,
            last_seen_at=now,
        )


def _merged(known: Sequence[str], reported: Sequence[str]) -> list[str]:
    seen = set(known)
    merged = [*known, *(mark for mark in reported if mark not in seen)]
    is_versions = bool(merged) and merged[0].startswith(VERSION)
    # Of versions the oldest tell, of workflows those that are still there.
    return merged[:MARKS_LIMIT] if is_versions else merged[-MARKS_LIMIT:]


def _new_label(known: Sequence[SystemDatabase], marks: Sequence[str]) -> str:
    whole = digest(" ".join(sorted(marks)))
    taken = {row.label for row in known}
    labels = (f"db-{whole[:length]}" for length in range(6, len(whole) + 1))
    return next(label for label in labels if label not in taken)


def forget_unused() -> int:
    """Remove databases that nobody has worked on for long; return how many."""
    unused = SystemDatabase.objects.filter(
        last_seen_at__lt=clock.now() - KEPT_UNUSED_FOR, executors=None
    ).exclude(recoveries__state__in=Recovery.OPEN)
    removed, _ = SystemDatabase.objects.filter(
        pk__in=list(unused.values_list("pk", flat=True)[:500])
    ).delete()
    return removed


# --- The databases of an application -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Present:
    """A database that executors of an application work on, or did until lately."""

    key: int
    label: str
    healthy: int
    # Connected, or gone for less than the executor timeout.
    alive: int
    # These, and those that are dead.
    total: int
    executor_ids: tuple[str, ...] = ()

    @property
    def unnamed(self) -> int:
        """How many executors there are besides those that are named."""
        return max(self.total - len(self.executor_ids), 0)


def list_present(application: Application) -> list[Present]:
    """Return the databases, the one known longest first, the unknown last.

    Queries: one, and one more where there are several.
    """
    groups: dict[int, dict[str, int]] = {}
    labels = {UNKNOWN: UNKNOWN_LABEL}
    died: dict[int, datetime | None] = {}
    rows = Executor.objects.filter(application=application).order_by()
    for pk, label, state, number, dead_at in rows.values_list(
        "database_id", "database__label", "state"
    ).annotate(number=Count("pk"), latest=Max("dead_at")):
        key = pk or UNKNOWN
        labels[key] = label or UNKNOWN_LABEL
        groups.setdefault(key, {})[state] = number
        if state == Executor.State.DEAD:
            died[key] = dead_at
    states = Executor.State
    found = [
        Present(
            key,
            labels[key],
            counts.get(states.HEALTHY, 0),
            counts.get(states.HEALTHY, 0) + counts.get(states.DISCONNECTED, 0),
            sum(counts.values()),
        )
        for key, counts in sorted(groups.items(), key=lambda g: (g[0] == UNKNOWN, g[0]))
    ]
    if len(found) > 1:
        limit = clock.now() - DEAD_COUNTS_FOR
        found = [
            one
            for one in found
            if one.alive or ((at := died.get(one.key)) is not None and at > limit)
        ]
    if len(found) == 2 and found[0].alive and found[1].key == UNKNOWN:
        # Old SDKs show their database by its workflows. Until each could, it is most
        # likely the one that is known; nobody else is asked anyway.
        return found[:1]
    return found


def key_of(application: Application, label: str) -> int:
    """Return the key of the database of this label. Raises: NotFound."""
    if label == UNKNOWN_LABEL:
        return UNKNOWN
    rows = SystemDatabase.objects.filter(application=application, label=label[:24])
    key = rows.values_list("pk", flat=True).first()
    if key is None:
        raise errors.NotFound(f"{application.name} has no database {label[:24]}.")
    return key


def default_of(present: Sequence[Present]) -> Present | None:
    """Return the one that is asked where nobody chose: the longest known of those that
    are alive. One that is gone for a moment keeps its place, so reads never mix."""
    return next((one for one in present if one.alive), None)


def with_executors(
    application: Application, present: Sequence[Present]
) -> list[Present]:
    """Return them with the ids of some of their executors, the healthy ones first.
    Queries: one for each."""
    rows = Executor.objects.filter(application=application).order_by("-state", "pk")
    return [
        replace(
            one,
            executor_ids=tuple(
                rows.filter(database=one.key or None).values_list(
                    "executor_id", flat=True
                )[:EXECUTORS_NAMED]
            ),
        )
        for one in present
    ]
