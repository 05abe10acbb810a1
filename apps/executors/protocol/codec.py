"""Encoding requests for one SDK version, and reading what comes back.

A request is built from its definition only: a malformed message ends a TypeScript
customer's process and disconnects a Python one (protocol reference 1.9, 8).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from apps import errors
from apps.executors.protocol import parsing
from apps.executors.protocol.messages import Request, Rule, Wire
from apps.executors.protocol.replies import Reply
from apps.executors.protocol.rows import WorkflowRow
from apps.executors.protocol.versions import ALWAYS, BULK_IDS, LISTS, Peer, Since

__all__ = [
    "Peer",
    "encode",
    "error_summary",
    "id_parts",
    "ignored_filters",
    "is_unknown_type",
    "loose_filters",
    "parse_reply",
    "peek_request_id",
    "refilter",
    "refuse_untold",
    "split",
    "supports",
    "untold",
]

UNKNOWN_TYPE = "Unknown message type"
# SDKs write the id of a reply among its first members, or among its last ones.
ENVELOPE_CHARS = 2_048
SUMMARY_CHARS = 500
EXCEPTION_NAME_CHARS = 200
_EXCEPTION_ENDS = ("Error", "Exception", "Exc")
# Java 0.7 loses messages of more than 16 KiB, Python before 2.9 those of 1 MiB.
ID_CHARS = 12_000
IDS = 250
_LIKE_TAKES_MORE = re.compile(r"[A-Za-z%_\\]")
_REQUEST_ID = re.compile(r'"request_id"\s*:\s*"((?:[^"\\]|\\.)*)"')


# --- Encoding --------------------------------------------------------------------


def supports(peer: Peer, message: type[Request]) -> bool:
    """Whether this SDK version answers the message."""
    last = message.until.get(peer.language or "python")
    if last is not None and peer.version >= last:
        return False
    return message.since.known_by(peer)


def split(request: Request, peer: Peer) -> list[Request]:
    """Return the messages that do what `request` asks: one per workflow for SDKs that
    take only one id at a time."""
    ids: tuple[str, ...] = getattr(request, request.bulk) if request.bulk else ()
    if len(ids) <= 1 or BULK_IDS.known_by(peer):
        return [request]
    return [dataclasses.replace(request, **{request.bulk: (one,)}) for one in ids]


def id_parts(ids: Sequence[str]) -> list[tuple[str, ...]]:
    """Split ids into messages of a length that every SDK takes."""
    parts: list[list[str]] = []
    chars = ID_CHARS
    for one in ids:
        if not parts or chars + len(one) > ID_CHARS or len(parts[-1]) >= IDS:
            parts.append([])
            chars = 0
        parts[-1].append(one)
        chars += len(one)
    return [tuple(part) for part in parts]


def encode(request: Request, request_id: str, peer: Peer) -> str:
    """Write one message as this SDK version reads it.

    Raises: UnsupportedByExecutor where the version lacks the message, or an attribute
    without which it would do something else.
    """
    if not supports(peer, type(request)):
        raise errors.UnsupportedByExecutor(
            f"{peer} does not support {request.type}: "
            f"{request.since.describe(peer.language)}."
        )
    # First of all members: Java looks for the type in the first 200 characters.
    message: dict[str, Any] = {"type": request.type, "request_id": request_id}
    body: dict[str, Any] = {}
    for field in dataclasses.fields(request):
        wire: Wire = field.metadata["wire"]
        value = getattr(request, field.name)
        if not wire.since.known_by(peer):
            _refuse_if_essential(request, field.name, wire, value, peer)
            continue
        target = body if wire.in_body else message
        if request.bulk == field.name:
            _write_ids(message, value, peer)
            continue
        written, text = _write(wire.rule, value, peer)
        if written:
            for name in (field.name, *wire.spellings):
                target[name] = text
    if request.has_body:
        message["body"] = body
    return json.dumps(message)


def _write_ids(message: dict[str, Any], ids: tuple[str, ...], peer: Peer) -> None:
    if not ids:
        raise errors.InvalidInput("Name at least one workflow.")
    message["workflow_id"] = ids[0]
    if BULK_IDS.known_by(peer):
        message["workflow_ids"] = list(ids)


def _refuse_if_essential(
    request: Request, name: str, wire: Wire, value: object, peer: Peer
) -> None:
    if wire.is_essential and value not in (None, False, ()):
        raise _unsupported(request, name, wire.since, peer)


def _unsupported(
    request: Request, name: str, since: Since, peer: Peer
) -> errors.UnsupportedByExecutor:
    return errors.UnsupportedByExecutor(
        f"{peer} does not support {name} in {request.type}: "
        f"{since.describe(peer.language)}."
    )


def _write(rule: Rule, value: Any, peer: Peer) -> tuple[bool, Any]:
    """Return whether to write the attribute, and what."""
    match rule:
        case Rule.ALWAYS:
            return True, _plain(value)
        case Rule.OMIT:
            return value is not None, _plain(value)
        case Rule.FLAG:
            return True, bool(value)
        case Rule.LIST:
            return bool(value), list(value)
        case Rule.LIST_ALWAYS:
            return True, list(value) or None
        case Rule.ONE_OR_LIST:
            return bool(value), _one_or_list(value, peer)
        case Rule.ONE_OR_LIST_ALWAYS:
            return True, _one_or_list(value, peer)


def _one_or_list(values: Sequence[str], peer: Peer) -> Any:
    """A scalar where one will do. SDKs older than lists get none: what they then answer
    too much of is filtered afterwards."""
    if not values:
        return None
    if len(values) == 1:
        return values[0]
    return list(values) if LISTS.known_by(peer) else None


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _time(value)
    return list(value) if isinstance(value, tuple) else value


def _time(value: datetime) -> str:
    """The one form that every SDK parses: three digits and a numeric offset."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds")


# --- Reading ---------------------------------------------------------------------


def peek_request_id(text: str) -> str | None:
    """Find whom a reply is for, without parsing it: at its beginning, else at its end.
    Quotes within a member's text are escaped, so that no payload looks like an id."""
    for envelope in (text[:ENVELOPE_CHARS], text[-ENVELOPE_CHARS:]):
        found = _REQUEST_ID.search(envelope)
        if found is not None:
            try:
                return str(json.loads(f'"{found[1]}"'))
            except ValueError:
                return None
    return None


def parse_reply(request: Request, text: str) -> Any:
    """Read a reply as the request's `Reply`. Lenient in everything but being JSON.

    Takes long for a long reply: `apps.executors.parsers` decides where that may be.
    Raises: ProtocolError.
    """
    try:
        raw = parsing.loads(text)
        if isinstance(raw, dict):
            return type(request).Reply.parse(raw)
        problem = "is not a JSON object"
    except parsing.TooManyValues as exc:
        problem = f"holds {exc}"
    except (ValueError, RecursionError):
        problem = "is not JSON"
    # Raised out here, because the parser's own error would keep the whole text.
    raise errors.ProtocolError(f"The executor's reply {problem}.")


def is_unknown_type(reply: Reply) -> bool:
    """Whether the executor said that it does not know the message."""
    return reply.error_message == UNKNOWN_TYPE


def error_summary(error_message: str) -> str:
    """The part of an error that may be shown: never the trace, which holds paths, SQL
    and parameter values, but the exception's own last line."""
    lines = [line.strip() for line in error_message.strip().splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return "The executor gave no reason."
    text = lines[0]
    if "Traceback (most recent call last)" in error_message:
        head = lines[0].split(": Traceback", 1)[0]
        exceptions = [line for line in lines if _names_exception(line)]
        text = f"{head}: {exceptions[-1]}" if exceptions else head
    return text[:SUMMARY_CHARS]


def _names_exception(line: str) -> bool:
    """Whether a line of a trace is its last one, such as `sqlite3.Error: locked`."""
    name, colon, _ = line[:EXCEPTION_NAME_CHARS].partition(":")
    is_name = name.replace(".", "").replace("_", "").isalnum()
    return bool(colon) and is_name and any(end in name for end in _EXCEPTION_ENDS)


# --- Filters that an old SDK ignores ------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Filter:
    """What a row must be to pass, and since when rows say it. Times are inclusive."""

    passes: Callable[[WorkflowRow, Any], bool]
    told: Since = ALWAYS


def _one_of(column: str, told: str = "") -> _Filter:
    return _Filter(
        lambda row, wanted: getattr(row, column) in wanted,
        Since(told) if told else ALWAYS,
    )


def _after(column: str, told: str = "") -> _Filter:
    def passes(row: WorkflowRow, bound: datetime) -> bool:
        value: datetime | None = getattr(row, column)
        return value is not None and value >= bound

    return _Filter(passes, Since(told) if told else ALWAYS)


def _before(column: str, told: str = "") -> _Filter:
    def passes(row: WorkflowRow, bound: datetime) -> bool:
        value: datetime | None = getattr(row, column)
        return value is not None and value <= bound

    return _Filter(passes, Since(told) if told else ALWAYS)


_FILTERS = {
    "workflow_uuids": _one_of("workflow_id"),
    "workflow_name": _one_of("name"),
    "authenticated_user": _one_of("authenticated_user"),
    "status": _one_of("status"),
    "application_version": _one_of("application_version"),
    "start_time": _after("created_at"),
    "end_time": _before("created_at"),
    "queue_name": _one_of("queue_name"),
    "executor_id": _one_of("executor_id"),
    "workflow_id_prefix": _Filter(
        lambda row, prefixes: row.workflow_id.startswith(tuple(prefixes))
    ),
    "queues_only": _Filter(lambda row, _: bool(row.queue_name)),
    "forked_from": _one_of("forked_from", "2.4/4.4/0.8/0.7"),
    "parent_workflow_id": _one_of("parent_workflow_id", "2.11/4.8/0.12/0.8"),
    "has_parent": _Filter(
        lambda row, wanted: bool(row.parent_workflow_id) is wanted,
        Since("2.11/4.8/0.12/0.8"),
    ),
    "was_forked_from": _Filter(
        lambda row, wanted: row.was_forked_from is wanted, Since("2.16/4.12/0.17/0.8")
    ),
    "completed_after": _after("completed_at", "2.23/4.19/0.17/1.0"),
    "completed_before": _before("completed_at", "2.23/4.19/0.17/1.0"),
    "dequeued_after": _after("dequeued_at", "2.11/4.8/0.12/0.8"),
    "dequeued_before": _before("dequeued_at", "2.11/4.8/0.12/0.8"),
    "schedule_name": _one_of("schedule_name", "2.25/4.21/0.20/1.1"),
    "application_name": _one_of("application_name", "2.30/4.26/1.2/-"),
}


def refilter(
    request: Request, peer: Peer, rows: Iterable[WorkflowRow]
) -> list[WorkflowRow]:
    """Drop the rows that do not pass those of the request's filters that this peer
    silently ignores, or that SDKs take more loosely than they are meant.

    Raises: UnsupportedByExecutor where its rows do not even say what is asked for.
    """
    kept = list(rows)
    fields = [*ignored_filters(request, peer), *loose_filters(request)]
    for field in dict.fromkeys(fields):
        rule = _FILTERS.get(field)
        if rule is None or not _surely(rule.told, peer):
            raise _refusal(request, field, peer)
        wanted = getattr(request, field)
        kept = [row for row in kept if rule.passes(row, wanted)]
    return kept


def refuse_untold(request: Request, peer: Peer) -> None:
    """For a request whose answer cannot be filtered afterwards.

    Raises: UnsupportedByExecutor where the peer would ignore a part of it.
    """
    for field in ignored_filters(request, peer):
        raise _refusal(request, field, peer)


def _refusal(request: Request, field: str, peer: Peer) -> errors.UnsupportedByExecutor:
    since: Since = request.__dataclass_fields__[field].metadata["wire"].since
    # What it has known for longer, it takes only one value of.
    return _unsupported(request, field, LISTS if _surely(since, peer) else since, peer)


def ignored_filters(request: Request, peer: Peer) -> list[str]:
    """The filters in use that this peer does not know, or cannot be told in full."""
    return [name for name in untold(request, peer) if name not in _NO_FILTERS]


def loose_filters(request: Request) -> list[str]:
    """The filters in use that let more pass than was asked for, whichever SDK answers.

    Id prefixes are compared by LIKE, which on SQLite takes A for a, and in TypeScript's
    SDK `_` for any character; and to many SDKs an empty text is no filter.
    """
    names = []
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if not isinstance(value, tuple):
            continue
        is_like = field.name == "workflow_id_prefix"
        if "" in value or (is_like and any(map(_LIKE_TAKES_MORE.search, value))):
            names.append(field.name)
    return names


def untold(request: Request, peer: Peer) -> list[str]:
    """The attributes in use that this peer surely, or perhaps, does not heed."""
    names = []
    for field in dataclasses.fields(request):
        wire: Wire = field.metadata["wire"]
        value = getattr(request, field.name)
        if value is None or value == ():
            continue
        if value is False and wire.rule is Rule.FLAG:
            continue
        is_cut = wire.rule in _ONE_OR_LIST and _one_or_list(value, peer) is None
        if is_cut or not _surely(wire.since, peer):
            names.append(field.name)
    return names


# What an SDK that does not know it does anyway, or what changes no row.
_NO_FILTERS = frozenset(
    {"limit", "offset", "sort_desc", "load_input", "load_output", "select_count"}
)
_ONE_OR_LIST = (Rule.ONE_OR_LIST, Rule.ONE_OR_LIST_ALWAYS)


def _surely(since: Since, peer: Peer) -> bool:
    """Whether this peer knows it even where it does not say how old it is. An SDK that
    states no version is older than the first that does, perhaps by far."""
    if peer.dbos_version:
        return since.known_by(peer)
    return since == ALWAYS
