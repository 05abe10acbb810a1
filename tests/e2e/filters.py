"""Workflows that differ in all that a filter asks about, and every filter there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

COUNT, OF_ONE_MOMENT = 500, 200
BASE_MS = 1_700_000_000_000
STATUSES = ("SUCCESS", "ERROR", "CANCELLED", "PENDING", "ENQUEUED")
UNFINISHED = ("PENDING", "ENQUEUED")
# Columns by the SDK's own names.
Row = dict[str, Any]
Test = Callable[[Row], bool]


def clones() -> list[Row]:
    """Make 300 of different moments, and 200 of the moment in their middle."""
    return [_clone(number) for number in range(COUNT)]


def _clone(number: int) -> Row:
    moment = 150 if number < OF_ONE_MOMENT else number - OF_ONE_MOMENT
    created_ms = BASE_MS + moment * 1_000
    status = STATUSES[number % 5]
    prefix = ("w_", "W_", "wx")[number % 3]
    queue = (None, "emails", "reports")[number % 3]
    attributes = json.dumps({"tier": "gold", "n": number % 2})
    return {
        # Databases' LIKE takes "W" or "wx" for "w_".
        "workflow_uuid": f"{prefix}{number:03}/{('a', 'aé')[number % 2]}",
        "status": status,
        "name": ("pay", "ship", "job")[number % 7 % 3],
        "authenticated_user": (None, "ann", "bob")[number % 11 % 3],
        # Of executors that never connected, so that the pending ones stay pending.
        "executor_id": ("gone-1", "gone-2")[number % 13 % 2],
        "application_version": ("v1", "v2", "v3")[number % 17 % 3],
        "queue_name": queue,
        "forked_from": f"w_{number % 5:03}" if number % 4 == 1 else None,
        "was_forked_from": number % 6 == 1,
        "parent_workflow_id": f"w_{number % 3:03}" if number % 5 < 2 else None,
        "schedule_name": (None, "nightly", "hourly")[number % 19 % 3],
        "attributes": attributes if number % 7 < 4 else None,
        "created_at": created_ms,
        "updated_at": BASE_MS + 10**7,
        "started_at_epoch_ms": created_ms + number * 10 if queue else None,
        "completed_at": None if status in UNFINISHED else created_ms + number * 20,
    }


@dataclass(frozen=True)
class Case:
    """A filter as the API takes it and, where it has it, the console; and what it
    means. `since` is the Python version whose rows say what it asks about."""

    name: str
    body: Row
    passes: Test
    query: dict[str, Any] | None = None
    since: tuple[int, int] = (0, 0)
    # Whether an executor can be asked how many pass it.
    is_countable: bool = True


def _at(secs: float) -> str:
    return datetime.fromtimestamp(BASE_MS / 1_000 + secs, UTC).isoformat()


def _input(secs: int) -> str:
    """The same as a browser's form sends it."""
    return _at(secs)[:19]


def _is(column: str, *values: Any) -> Test:
    return lambda row: row[column] in values


def _within(column: str, first: float, last: float) -> Test:
    low_ms, high_ms = BASE_MS + first * 1_000, BASE_MS + last * 1_000
    return lambda row: row[column] is not None and low_ms <= row[column] <= high_ms


def _begins(*prefixes: str) -> Test:
    return lambda row: row["workflow_uuid"].startswith(prefixes)


def _all(*tests: Test) -> Test:
    return lambda row: all(test(row) for test in tests)


def _has_attributes(row: Row) -> bool:
    return row["attributes"] == {"tier": "gold", "n": 1}


IDS = [f"w_{number:03}/a" for number in range(0, COUNT, 6)]

CASES = [
    Case("nothing", {}, lambda row: True, {}),
    Case("oldest first", {"sortDesc": False}, lambda row: True),
    Case("status", {"status": ["ERROR"]}, _is("status", "ERROR"), {"status": "ERROR"}),
    Case(
        "statuses",
        {"status": ["ERROR", "PENDING"]},
        _is("status", "ERROR", "PENDING"),
        {"status": ["ERROR", "PENDING"]},
    ),
    Case("name", {"workflowName": ["pay"]}, _is("name", "pay"), {"name": "pay"}),
    Case("names", {"workflowName": ["pay", "job"]}, _is("name", "pay", "job")),
    Case("no name", {"workflowName": [""]}, _is("name", "")),
    Case(
        "version",
        {"appVersion": ["v2"]},
        _is("application_version", "v2"),
        {"version": "v2"},
    ),
    Case(
        "versions",
        {"appVersion": ["v2", "v3"]},
        _is("application_version", "v2", "v3"),
    ),
    Case(
        "prefix",
        {"workflowIdPrefix": ["w_"]},
        _begins("w_"),
        {"id_prefix": "w_"},
        is_countable=False,
    ),
    Case("prefixes", {"workflowIdPrefix": ["W_1", "wx2"]}, _begins("W_1", "wx2")),
    Case("ids", {"workflowIds": IDS}, _is("workflow_uuid", *IDS)),
    Case("user", {"user": ["ann"]}, _is("authenticated_user", "ann")),
    Case("users", {"user": ["ann", "bob"]}, _is("authenticated_user", "ann", "bob")),
    Case("executor", {"executorId": ["gone-1"]}, _is("executor_id", "gone-1")),
    Case("queue", {"queueName": ["emails"]}, _is("queue_name", "emails")),
    Case(
        "queues",
        {"queueName": ["emails", "reports"]},
        _is("queue_name", "emails", "reports"),
    ),
    Case(
        "queues only",
        {"queuesOnly": True},
        lambda row: bool(row["queue_name"]) and row["status"] in UNFINISHED,
    ),
    Case(
        "queues only, of two statuses",
        {"queuesOnly": True, "status": ["SUCCESS", "PENDING"]},
        _all(_is("status", "SUCCESS", "PENDING"), lambda row: bool(row["queue_name"])),
    ),
    Case(
        "created within",
        {"startTime": _at(100), "endTime": _at(150)},
        _within("created_at", 100, 150),
        {"created_from": _input(100), "created_to": _input(150)},
    ),
    Case(
        "created from",
        {"startTime": _at(150)},
        _within("created_at", 150, 10**9),
        {"created_from": _input(150)},
    ),
    Case(
        "created to",
        {"endTime": _at(149.999)},
        _within("created_at", 0, 149.999),
        {"created_to": _input(149)},
    ),
    Case(
        "completed",
        {"completedAfter": _at(150), "completedBefore": _at(155)},
        _within("completed_at", 150, 155),
        since=(2, 23),
    ),
    Case(
        "dequeued",
        {"dequeuedAfter": _at(150.5), "dequeuedBefore": _at(200)},
        _within("started_at_epoch_ms", 150.5, 200),
        since=(2, 11),
    ),
    Case(
        "forked from",
        {"forkedFrom": ["w_001", "w_003"]},
        _is("forked_from", "w_001", "w_003"),
        since=(2, 4),
    ),
    Case(
        "was forked",
        {"wasForkedFrom": True},
        lambda row: bool(row["was_forked_from"]),
        since=(2, 16),
    ),
    Case(
        "was not forked",
        {"wasForkedFrom": False},
        lambda row: not row["was_forked_from"],
        since=(2, 16),
    ),
    Case(
        "parent",
        {"parentWorkflowId": ["w_001"]},
        _is("parent_workflow_id", "w_001"),
        since=(2, 11),
    ),
    Case(
        "has a parent",
        {"hasParent": True},
        lambda row: row["parent_workflow_id"] is not None,
        since=(2, 11),
    ),
    Case(
        "has no parent",
        {"hasParent": False},
        _is("parent_workflow_id", None),
        since=(2, 11),
    ),
    Case(
        "schedule",
        {"scheduleName": ["nightly"]},
        _is("schedule_name", "nightly"),
        since=(2, 25),
    ),
    Case(
        "attributes",
        {"attributes": {"tier": "gold", "n": 1}},
        _has_attributes,
        since=(2, 25),
    ),
    Case(
        "several kinds",
        {
            "status": ["SUCCESS", "ERROR"],
            "workflowName": ["pay"],
            "workflowIdPrefix": ["w"],
            "endTime": _at(150),
        },
        _all(
            _is("status", "SUCCESS", "ERROR"),
            _is("name", "pay"),
            _begins("w"),
            _within("created_at", 0, 150),
        ),
        {
            "status": ["SUCCESS", "ERROR"],
            "name": "pay",
            "id_prefix": "w",
            "created_to": _input(150),
        },
        is_countable=False,
    ),
]
