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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from django.db import close_old_connections

from apps import database, errors
from apps.executors import bus, loops, meters
from apps.executors.joined import Joined
from apps.executors.models import Executor
from apps.executors.protocol import codec, parsing
from apps.executors.protocol.messages import Request
from apps.executors.sockets import Lost, NotSent, TimedOut
from apps.registry.models import Application

DEFAULT_TIMEOUT_S = 25.0
MAX_TRIES = 3
# Of an application's healthy executors, so many are considered at a time.
TARGETS_LIMIT = 200
# Who is healthy is remembered this long, so that a burst of questions costs one query.
# A wrong memory costs one refused hop: the sockets' owner knows better.
DIRECTORY_SECS = 1.0
# Above this size a reply is parsed off the event loop.
PARSE_INLINE_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A healthy executor as the gateway sees it."""

    executor_id: str
    application_version: str
    connection_id: str
    instance_id: str
    peer: codec.Peer


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's `Reply`, and who gave it."""

    reply: Any
    by: Target


# application → (executor id, version), either None for any → when, who
_Wanted = tuple[str | None, str | None]
_directory: dict[int, dict[_Wanted, tuple[float, list[Target]]]] = {}
_directory_lock = threading.Lock()
_joined: Joined[tuple[str, Target, Request]] = Joined()
_database_threads = ThreadPoolExecutor(4, thread_name_prefix="gateway-db")
# Large replies take seconds and much memory, so few are read at a time, and they do not
# stand before the others.
_reply_threads = ThreadPoolExecutor(4, thread_name_prefix="gateway-reply")
_large_reply_threads = ThreadPoolExecutor(2, thread_name_prefix="gateway-large-reply")


def ask(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
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
    ).reply


def answer(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
) -> Answer:
    """`ask`, for whom it matters which executor answered."""
    targets = _choose(application, executor_id, application_version)
    database.release()
    text, target, sent = loops.run(
        _ask_any(application.pk, targets, request, timeout_s),
        timeout_s=timeout_s + 10,
    )
    return Answer(_parse(sent, text), target)


async def aask(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
) -> Any:
    """`ask`, for coroutines on any event loop."""
    given = await aanswer(
        application,
        request,
        timeout_s=timeout_s,
        executor_id=executor_id,
        application_version=application_version,
    )
    return given.reply


async def aanswer(
    application: Application,
    request: Request,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executor_id: str | None = None,
    application_version: str | None = None,
) -> Answer:
    """`answer`, for coroutines on any event loop."""
    targets = _remembered(application, executor_id, application_version)
    if targets is None:
        targets = await asyncio.get_running_loop().run_in_executor(
            _database_threads,
            _choose_in_thread,
            application,
            executor_id,
            application_version,
        )
    coroutine = _ask_any(application.pk, targets, request, timeout_s)
    if loops.get() is asyncio.get_running_loop():
        text, target, sent = await coroutine
    else:
        future = asyncio.run_coroutine_threadsafe(coroutine, loops.get())
        text, target, sent = await asyncio.wrap_future(future)
    if len(text) <= PARSE_INLINE_CHARS:
        return Answer(_parse(sent, text), target)
    is_large = len(text) > parsing.PLAIN_CHARS
    threads = _large_reply_threads if is_large else _reply_threads
    parsed = asyncio.get_running_loop().run_in_executor(threads, _parse, sent, text)
    return Answer(await parsed, target)


def healthy_targets(
    application: Application,
    *,
    executor_id: str | None = None,
    application_version: str | None = None,
) -> list[Target]:
    """Return some of the healthy executors, asked of the database now, in any order."""
    found = Executor.objects.filter(
        application=application, state=Executor.State.HEALTHY
    )
    if executor_id is not None:
        found = found.filter(executor_id=executor_id)
    if application_version is not None:
        found = found.filter(application_version=application_version)
    rows = found.order_by("?").values_list(
        "executor_id",
        "application_version",
        "connection_id",
        "instance_id",
        "language",
        "dbos_version",
    )[:TARGETS_LIMIT]
    targets = [
        Target(
            row[0], row[1], row[2], row[3], codec.Peer(row[4] or None, row[5] or None)
        )
        for row in rows
    ]
    with _directory_lock:
        if len(_directory) > 10_000:
            _directory.clear()
        known = _directory.setdefault(application.pk, {})
        if len(known) > 1_000:
            known.clear()
        known[executor_id, application_version] = (time.monotonic(), targets)
    return targets


def forget(application_id: int) -> None:
    """Look the application's executors up anew at the next question."""
    with _directory_lock:
        _directory.pop(application_id, None)


def _remembered(
    application: Application, executor_id: str | None, version: str | None
) -> list[Target] | None:
    with _directory_lock:
        entry = _directory.get(application.pk, {}).get((executor_id, version))
    if entry is None or time.monotonic() - entry[0] > DIRECTORY_SECS:
        return None
    return _some(entry[1]) or None


def _choose(
    application: Application, executor_id: str | None, version: str | None
) -> list[Target]:
    targets = _remembered(application, executor_id, version)
    if targets is None:
        targets = _some(
            healthy_targets(
                application, executor_id=executor_id, application_version=version
            )
        )
    if not targets:
        raise errors.NoHealthyExecutor(
            _nobody(application, executor_id, version), application=application.name
        )
    return targets


def _choose_in_thread(
    application: Application, executor_id: str | None, version: str | None
) -> list[Target]:
    close_old_connections()
    try:
        return _choose(application, executor_id, version)
    finally:
        database.release()


def _some(targets: list[Target]) -> list[Target]:
    return random.sample(targets, min(len(targets), MAX_TRIES))


def _nobody(
    application: Application, executor_id: str | None, version: str | None
) -> str:
    if executor_id is not None:
        return f"Executor {executor_id} of {application.name} is not connected."
    if version is not None:
        return f"No healthy executor of {application.name} runs version {version}."
    return f"No executor of {application.name} is connected."


async def _ask_any(
    application_id: int, targets: list[Target], request: Request, timeout_s: float
) -> tuple[str, Target, Request]:
    """Share the answer with whoever asks the same at the same time."""
    if not request.read_only:
        return await _try_each(application_id, targets, request, timeout_s)
    # The same question is one that any of the same executors may answer.
    scope: object = targets[0].connection_id
    if len(targets) > 1:
        scope = frozenset(target.application_version for target in targets)
    return await _joined.join(
        (application_id, scope, request),
        lambda: _try_each(application_id, targets, request, timeout_s),
    )


async def _try_each(
    application_id: int, targets: list[Target], request: Request, timeout_s: float
) -> tuple[str, Target, Request]:
    deadline = time.monotonic() + timeout_s
    timed_out = False
    unsupported: errors.UnsupportedByExecutor | None = None
    may_repeat = request.read_only or request.idempotent
    for index, target in enumerate(targets):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        # Leave time for another executor where one may be asked.
        is_last = index == len(targets) - 1
        limit = left if is_last or not may_repeat else left / 2
        try:
            with meters.asking(request.type):
                return await _ask_target(target, request, limit)
        except errors.UnsupportedByExecutor as exc:
            unsupported = exc
        except NotSent:
            forget(application_id)
        except (Lost, TimedOut) as exc:
            timed_out = isinstance(exc, TimedOut)
            forget(application_id)
            if not may_repeat:
                break
    if unsupported is not None:
        raise unsupported
    if timed_out:
        raise errors.ExecutorTimeout(
            f"No answer within {timeout_s:g} s. The executor may still be at it."
        )
    raise errors.EveryExecutorFailed(
        "The executor disconnected before it answered. Try again."
    )


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
        text = await process_bus.ask(
            instance_id=target.instance_id,
            connection_id=target.connection_id,
            request_id=request_id,
            text=codec.encode(part, request_id, target.peer),
            timeout_s=max(deadline - time.monotonic(), 0.1),
        )
        is_last = part is parts[-1]
        if is_last or (len(text) < PARSE_INLINE_CHARS and _failed(part, text)):
            break
    return text, target, part


def _failed(request: Request, text: str) -> bool:
    return bool(codec.parse_reply(request, text).error_message)


def _parse(request: Request, text: str) -> Any:
    reply = codec.parse_reply(request, text)
    if codec.is_unknown_type(reply):
        raise errors.UnsupportedByExecutor(
            f"This executor's SDK does not know {request.type}. Upgrade it."
        )
    if reply.error_message:
        raise errors.ExecutorRefused(codec.error_summary(reply.error_message))
    if getattr(reply, "success", True) is False:
        raise errors.ExecutorRefused("The executor refused and gave no reason.")
    return reply
