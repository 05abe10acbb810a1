"""Asking an executor: the only way to talk to one.

`ask` picks a healthy executor of the application, has the request sent by the process
that holds its socket, and returns the typed reply. Reads and idempotent commands go to
the next executor when one fails or hangs; everything else is sent at most once.
Identical reads asked at the same time share one answer.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from apps import errors
from apps.database import release as release_connection
from apps.executors import bus, databases, loops, meters, parsers
from apps.executors.databases import Present
from apps.executors.joined import Joined
from apps.executors.lanes import Lanes
from apps.executors.models import Executor
from apps.executors.protocol import codec
from apps.executors.protocol.messages import Request
from apps.executors.sockets import Lost, NotSent, TimedOut
from apps.registry.models import Application

DEFAULT_TIMEOUT_S = 25.0
MAX_TRIES = 3
# How often, for one request, those who are healthy are looked up anew.
MAX_LOOKUPS = 3
# Of an application's healthy executors, so many are considered at a time.
TARGETS_LIMIT = 200
# Who is healthy is remembered this long, so that a burst of questions costs one query.
# A wrong memory costs one refused hop: the sockets' owner knows better.
DIRECTORY_SECS = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A healthy executor as the gateway sees it."""

    executor_id: str
    application_version: str
    connection_id: str
    instance_id: str
    peer: codec.Peer
    # Which system database it works on; see `databases`.
    database: int = databases.UNKNOWN


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's `Reply`, and who gave it."""

    reply: Any
    by: Target


# Executor id, version, database by its key or label; None for any. A database nobody
# named is chosen.
_Wanted = tuple[str | None, str | None, int | str | None]
# application → what was wanted → when, who
_directory: dict[int, dict[_Wanted, tuple[float, list[Target]]]] = {}
# application → its databases, where there are several
_several: dict[int, list[Present]] = {}
_directory_lock = threading.Lock()
_joined: Joined[Answer] = Joined()
_database_lanes = Lanes(
    "gateway-db", per_owner=2, per_group=2, total=4, keeps_threads=True
)


def ask(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
    database: int | None = None,
) -> Any:
    """Ask one executor and return the request's `Reply`; for threads.

    Raises: NoHealthyExecutor, EveryExecutorFailed, ExecutorTimeout, ExecutorRefused,
    UnsupportedByExecutor.
    """
    return answer(
        application,
        request,
        timeout_s=timeout_s,
        executor_id=executor_id,
        application_version=application_version,
        database=database,
    ).reply


def answer(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
    database: int | None = None,
) -> Answer:
    """`ask`, for whom it matters which executor answered."""
    wanted = executor_id, application_version, _scope(application, database)
    targets = _choose(application, wanted, request)
    release_connection()
    return loops.run(
        _ask_any(application, wanted, targets, request, timeout_s),
        timeout_s=timeout_s + 10,
    )


async def aask(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
    database: int | None = None,
) -> Any:
    """`ask`, for coroutines on any event loop."""
    given = await aanswer(
        application,
        request,
        timeout_s=timeout_s,
        executor_id=executor_id,
        application_version=application_version,
        database=database,
    )
    return given.reply


async def aanswer(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
    database: int | None = None,
) -> Answer:
    """`answer`, for coroutines on any event loop."""
    wanted = executor_id, application_version, _scope(application, database)
    targets = _remembered(application, wanted) if request.read_only else None
    if targets is None:
        targets = await _in_database_thread(_choose, application, wanted, request)
    coroutine = _ask_any(application, wanted, targets, request, timeout_s)
    if loops.get() is asyncio.get_running_loop():
        return await coroutine
    # It has no name here: one that fails holds its error, whose traceback holds this
    # frame.
    return await asyncio.wrap_future(loops.start(coroutine))


def healthy_targets(
    application: Application,
    *,
    executor_id: str | None = None,
    application_version: str | None = None,
    database: int | None = None,
) -> list[Target]:
    """Return some of the healthy executors, asked of the database now, in any order."""
    found = Executor.objects.filter(
        application=application, state=Executor.State.HEALTHY
    )
    if executor_id is not None:
        found = found.filter(executor_id=executor_id)
    if application_version is not None:
        found = found.filter(application_version=application_version)
    if database is not None:
        found = found.filter(database=database or None)
    rows = found.order_by("?").values_list(
        "executor_id",
        "application_version",
        "connection_id",
        "instance_id",
        "language",
        "dbos_version",
        "database_id",
    )[:TARGETS_LIMIT]
    return [
        Target(
            *row[:4],
            codec.Peer(row[4] or None, row[5] or None),
            row[6] or databases.UNKNOWN,
        )
        for row in rows
    ]


def _cache(application: Application, wanted: _Wanted, targets: list[Target]) -> None:
    with _directory_lock:
        if len(_directory) > 10_000:
            _directory.clear()
        known = _directory.setdefault(application.pk, {})
        if len(known) > 1_000:
            known.clear()
        known[wanted] = (time.monotonic(), targets)


def forget(application_id: int) -> None:
    """Look the application's executors up anew at the next question."""
    with _directory_lock:
        _directory.pop(application_id, None)


def _remembered(application: Application, wanted: _Wanted) -> list[Target] | None:
    with _directory_lock:
        entry = _directory.get(application.pk, {}).get(wanted)
    if entry is None or time.monotonic() - entry[0] > DIRECTORY_SECS:
        return None
    return _sample(entry[1]) or None


def _choose(
    application: Application, wanted: _Wanted, request: Request
) -> list[Target]:
    """Raises: NoHealthyExecutor; DatabaseNotChosen for a command that several databases
    could be meant by."""
    targets = None
    if request.read_only:
        targets = _remembered(application, wanted)
    elif wanted[0] is None and wanted[2] is None:
        _refuse_to_guess(application)
    if targets is None:
        targets = _sample(_healthy(application, wanted))
    if not targets:
        raise errors.NoHealthyExecutor(
            _nobody(application, wanted), application=application.name
        )
    return targets


def _scope(application: Application, database: int | None) -> int | str | None:
    return application.chosen_database or None if database is None else database


def _healthy(application: Application, wanted: _Wanted) -> list[Target]:
    """Return who is healthy, all of one database. Raises: NotFound for a label that is
    no database's."""
    executor_id, version, database = wanted
    if isinstance(database, str):
        _list_present(application)
        database = databases.key_of(application, database)
    elif executor_id is None and database is None:
        chosen = databases.default_of(_list_present(application))
        database = None if chosen is None else chosen.key
    targets = healthy_targets(
        application,
        executor_id=executor_id,
        application_version=version,
        database=database,
    )
    _cache(application, wanted, targets)
    return targets


def _list_present(application: Application) -> list[Present]:
    present = databases.list_present(application)
    with _directory_lock:
        if len(present) > 1:
            _several[application.pk] = present
        else:
            _several.pop(application.pk, None)
    return present


def several_databases(application: Application) -> tuple[str, list[str]] | None:
    """Return the label of the database that answers are of, and those of all there are;
    None where there is only one. What was found when an executor was last chosen."""
    present = _several.get(application.pk)
    if present is None:
        return None
    default = databases.default_of(present)
    label = application.chosen_database or (default.label if default else "")
    return label, [one.label for one in present]


def _refuse_to_guess(application: Application) -> None:
    present = _list_present(application)
    if len(present) > 1:
        labels = ", ".join(one.label for one in present)
        raise errors.DatabaseNotChosen(
            f"{application.name} works on several databases under one name: {labels}. "
            "Choose one first; in the API, by the query parameter database.",
            databases=[one.label for one in present],
        )


async def _in_database_thread(
    function: Callable[..., list[Target]], application: Application, *arguments: Any
) -> list[Target]:
    return await asyncio.wrap_future(
        _database_lanes.begin(
            application.pk,
            lambda: function(application, *arguments),
            group=application.organization_id,
        )
    )


def _sample(targets: list[Target]) -> list[Target]:
    return random.sample(targets, min(len(targets), MAX_TRIES))


def _nobody(application: Application, wanted: _Wanted) -> str:
    executor_id, version, database = wanted
    where = "" if database is None else " on the chosen database"
    if executor_id is not None:
        return f"Executor {executor_id} of {application.name} is not connected."
    if version is not None:
        return (
            f"No healthy executor of {application.name} runs version {version}{where}."
        )
    return f"No executor of {application.name} is connected{where}."


async def _ask_any(
    application: Application,
    wanted: _Wanted,
    targets: list[Target],
    request: Request,
    timeout_s: float,
) -> Answer:
    """Share the answer with whoever asks the same at the same time."""
    if not request.read_only:
        return await _try_each(application, wanted, targets, request, timeout_s)
    # The same question is one that any of the same executors may answer.
    scope: object = targets[0].connection_id
    if len(targets) > 1:
        scope = frozenset((t.database, t.application_version) for t in targets)
    return await _joined.join(
        (application.pk, scope, request),
        lambda: _try_each(application, wanted, targets, request, timeout_s),
    )


@dataclass(slots=True)
class _Tries:
    """What came of asking one executor after the other."""

    tried: set[str] = field(default_factory=set)
    # A request that was sent may have been carried out, whatever became of its answer.
    is_sent: bool = False
    timed_out: bool = False
    unsupported: errors.UnsupportedByExecutor | None = None


async def _try_each(
    application: Application,
    wanted: _Wanted,
    targets: list[Target],
    request: Request,
    timeout_s: float,
) -> Answer:
    """Ask until one answers. Whoever is cached may be gone, so where nobody of them
    answered, those who are healthy now are asked too."""
    deadline = time.monotonic() + timeout_s
    may_repeat = request.read_only or request.idempotent
    tries = _Tries()
    for _ in range(MAX_LOOKUPS):
        answer = await _try_sample(application.pk, targets, request, deadline, tries)
        if answer is not None:
            return await _parse(application, *answer)
        if (tries.is_sent and not may_repeat) or time.monotonic() >= deadline:
            break
        healthy = await _in_database_thread(_healthy, application, wanted)
        targets = _sample([t for t in healthy if t.connection_id not in tries.tried])
        if not targets:
            break
    if tries.unsupported is not None:
        raise tries.unsupported
    if tries.timed_out:
        raise errors.ExecutorTimeout(
            f"No answer within {timeout_s:g} s. The executor may still be at it."
        )
    if tries.is_sent:
        raise errors.EveryExecutorFailed(
            "The executor disconnected before it answered. Try again."
        )
    raise errors.NoHealthyExecutor(
        _nobody(application, wanted), application=application.name
    )


async def _try_sample(
    application_id: int,
    targets: list[Target],
    request: Request,
    deadline: float,
    tries: _Tries,
) -> tuple[str, Target, Request] | None:
    """Ask these executors in turn; None where nobody answered."""
    may_repeat = request.read_only or request.idempotent
    for index, target in enumerate(targets):
        left = deadline - time.monotonic()
        if left <= 0 or (tries.is_sent and not may_repeat):
            break
        tries.tried.add(target.connection_id)
        # Leave time for another executor where one may be asked.
        is_last = index == len(targets) - 1
        limit = left if is_last or not may_repeat else left / 2
        try:
            with meters.asking(request.type):
                return await _ask_target(target, request, limit)
        except errors.UnsupportedByExecutor as exc:
            tries.unsupported = exc
        except NotSent:
            forget(application_id)
        except (Lost, TimedOut) as exc:
            tries.is_sent = True
            tries.timed_out = isinstance(exc, TimedOut)
            forget(application_id)
    return None


async def _ask_target(
    target: Target, request: Request, timeout_s: float
) -> tuple[str, Target, Request]:
    """Send the request, as the several messages that an old SDK may need; return the
    first answer that is an error, else the last one."""
    process_bus = await bus.current()
    deadline = time.monotonic() + timeout_s
    parts = codec.split(request, target.peer)
    for part in parts:
        request_id = str(uuid.uuid4())
        try:
            text = await process_bus.ask(
                instance_id=target.instance_id,
                connection_id=target.connection_id,
                request_id=request_id,
                text=codec.encode(part, request_id, target.peer),
                timeout_s=max(deadline - time.monotonic(), 0.1),
            )
        except NotSent as exc:
            if part is parts[0]:
                raise
            raise Lost from exc  # the parts before were sent
        is_last = part is parts[-1]
        if is_last or (parsers.is_short(text) and _failed(part, text)):
            break
    return text, target, part


def _failed(request: Request, text: str) -> bool:
    return bool(codec.parse_reply(request, text).error_message)


async def _parse(
    application: Application, text: str, target: Target, request: Request
) -> Answer:
    """Return the answer, unless it says no.

    Raises: ProtocolError, UnsupportedByExecutor, ExecutorRefused, EveryExecutorFailed.
    """
    reply = await parsers.parse(
        request,
        text,
        application_id=application.pk,
        organization_id=application.organization_id,
    )
    if codec.is_unknown_type(reply):
        raise errors.UnsupportedByExecutor(
            f"This executor's SDK does not know {request.type}. Upgrade it."
        )
    if reply.error_message:
        raise errors.ExecutorRefused(codec.error_summary(reply.error_message))
    if getattr(reply, "success", True) is False:
        raise errors.ExecutorRefused("The executor refused and gave no reason.")
    return Answer(reply, target)
