"""Putting a pager's questions to executors: for threads, and for coroutines."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from typing import TypeVar

from apps.executors import gateway
from apps.executors.protocol import codec
from apps.executors.protocol.messages import ListWorkflows
from apps.executors.protocol.rows import WorkflowRow
from apps.registry.models import Application
from apps.workflows.live.pager import Answered
from apps.workflows.models import UNFINISHED

T = TypeVar("T")
Reading = Generator[ListWorkflows, Answered, T]
# Even after the deadline a question gets so much time.
LEAST_SECS = 0.5


def ask(
    application: Application,
    request: ListWorkflows,
    deadline: float,
    database: int | None = None,
) -> Answered:
    """Put one question. Raises: what the gateway raises; UnsupportedByExecutor for a
    filter that an executor's SDK does not know and that its rows do not tell either."""
    sent = _sent(request)
    answer = gateway.answer(
        application, sent, timeout_s=_left(deadline), database=database
    )
    return _answered(request, answer)


async def aask(
    application: Application, request: ListWorkflows, deadline: float
) -> Answered:
    """`ask`, for coroutines."""
    sent = _sent(request)
    return _answered(
        request, await gateway.aanswer(application, sent, timeout_s=_left(deadline))
    )


def read(
    application: Application,
    reading: Reading[T],
    deadline: float,
    database: int | None = None,
) -> T:
    """Put all questions of a reading, and return what it makes of the answers."""
    try:
        request = next(reading)
        while True:
            request = reading.send(ask(application, request, deadline, database))
    except StopIteration as done:
        result: T = done.value
        return result


async def aread(
    application: Application,
    reading: Reading[T],
    deadline: float,
) -> T:
    """`read`, for coroutines."""
    answer: Answered | None = None
    while True:
        try:
            request = next(reading) if answer is None else reading.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result
        answer = await aask(application, request, deadline)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), LEAST_SECS)


def _is_queues_ours(request: ListWorkflows) -> bool:
    """TypeScript's SDK has only unfinished ones of queues, whatever is asked."""
    return bool(request.queues_only) and not set(request.status) <= set(UNFINISHED)


def _sent(request: ListWorkflows) -> ListWorkflows:
    return replace(request, queues_only=None) if _is_queues_ours(request) else request


def _answered(request: ListWorkflows, answer: gateway.Answer) -> Answered:
    sent = _sent(request)
    rows: list[WorkflowRow] = answer.reply.output[: request.limit]
    passing = codec.refilter(sent, answer.by.peer, rows)
    if _is_queues_ours(request):
        passing = [row for row in passing if row.queue_name]
    is_filtered_here = sent is not request or bool(
        codec.ignored_filters(sent, answer.by.peer) or codec.loose_filters(sent)
    )
    return Answered(rows, passing, is_filtered_here)
