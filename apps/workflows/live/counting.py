"""How many workflows pass, as an executor's database counts them.

Counting is for show and may cost an application's database much, so it is never waited
for long, and takes a small part of an executor's time at most.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import OrderedDict
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError

from apps import errors
from apps.executors import gateway, loops
from apps.executors.protocol import codec
from apps.executors.protocol.messages import GetWorkflowAggregates, ListWorkflows
from apps.registry.models import Application

# So long a page waits. An answer that takes longer is there for the next page.
WAIT_S = 0.3
ASK_TIMEOUT_S = 5.0
# A count that took a second is asked for again after twenty.
REST_FACTOR = 20
# After a failure; an SDK that lacks the message lacks it for long.
REST_AFTER_FAILURE_S = 30.0
CACHED_LIMIT = 1_000

# The filters that the two messages name differently.
_NAMES = {
    "workflow_uuids": "workflow_ids",
    "workflow_name": "name",
    "authenticated_user": "user",
    "application_version": "app_version",
}
_NO_FILTERS = frozenset({"limit", "offset", "sort_desc", "load_input", "load_output"})
_COUNTABLE = {field.name for field in dataclasses.fields(GetWorkflowAggregates)}

_Key = tuple[int, str, ListWorkflows]


@dataclass(slots=True)
class _Count:
    """A question under way, or its answer: None where nothing could be found out."""

    future: Future[int | None]
    # When to ask again; first of all, in case that the question gets lost.
    due_at: float
    # What was known before, shown while the answer is not there.
    earlier: int | None = None

    def wait(self) -> int | None:
        """Return the answer, or what was known before. Raises: what the question
        raised."""
        try:
            return self.future.result(WAIT_S)
        except (TimeoutError, CancelledError):
            return self.earlier


_counts: OrderedDict[_Key, _Count] = OrderedDict()
_lock = threading.Lock()


def find_count(application: Application, filters: ListWorkflows) -> int | None:
    """Return how many workflows pass, of the database that lists are read from; None
    where no executor can say it exactly, or not in time. For threads."""
    question = _question(filters)
    if question is None:
        return None
    return _begin(application, filters, question).wait()


def clear() -> None:
    """Drop what is cached."""
    with _lock:
        _counts.clear()


def _question(filters: ListWorkflows) -> GetWorkflowAggregates | None:
    """Return the message that counts what a list has; None where there is none."""
    if codec.loose_filters(filters):
        return None
    wanted = {}
    for field in dataclasses.fields(filters):
        value = getattr(filters, field.name)
        if field.name in _NO_FILTERS or value is None or value == ():
            continue
        name = _NAMES.get(field.name, field.name)
        if name not in _COUNTABLE:
            return None
        wanted[name] = value
    return GetWorkflowAggregates(group_by_status=True, **wanted)


def _begin(
    application: Application, filters: ListWorkflows, question: GetWorkflowAggregates
) -> _Count:
    """Return what is cached or under way, else ask."""
    key = application.pk, application.chosen_database, filters
    now = time.monotonic()
    with _lock:
        known = _counts.get(key)
        if known is not None and now < known.due_at:
            return known
        count = _Count(
            loops.start(_ask(application, question)),
            now + REST_AFTER_FAILURE_S,
            _answer(known) if known is not None else None,
        )
        _counts[key] = count
        _counts.move_to_end(key)
        if len(_counts) > CACHED_LIMIT:
            _counts.popitem(last=False)
    count.future.add_done_callback(lambda _: _rest(count, now))
    return count


def _rest(count: _Count, began: float) -> None:
    if _answer(count) is not None:
        now = time.monotonic()
        count.due_at = now + REST_FACTOR * (now - began)


def _answer(count: _Count) -> int | None:
    """Return the answer if it is there."""
    future = count.future
    if not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()


async def _ask(application: Application, question: GetWorkflowAggregates) -> int | None:
    try:
        given = await gateway.aanswer(application, question, timeout_s=ASK_TIMEOUT_S)
        codec.refuse_untold(question, given.by.peer)
    except (errors.ConductorError, DatabaseError, InterfaceError):
        return None
    counts = [group.count for group in given.reply.output]
    known = [count for count in counts if count is not None and count >= 0]
    return sum(known) if len(known) == len(counts) else None
