"""An executor as a test needs it: workflows in memory, behind a real websocket.

It answers as the SDK of a version does: filters and bulk ids that the version does not
know are ignored, and lists are ordered by creation time only.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections import Counter
from datetime import datetime
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECOND = 1_000
NOON = 1_790_000_000_000
FINAL = ("SUCCESS", "ERROR")


def workflow(
    workflow_id: str, at_ms: int = NOON, status: str = "SUCCESS", **more: Any
) -> dict[str, Any]:
    """One row as it travels."""
    return {
        "WorkflowUUID": workflow_id,
        "Status": status,
        "WorkflowName": "work",
        "ApplicationVersion": "v1",
        "ExecutorID": "x1",
        "CreatedAt": str(at_ms),
        "UpdatedAt": str(at_ms),
        "Priority": "0",
        **more,
    }


# body key → (row key, Python version that knows the filter)
FILTERS = {
    "workflow_uuids": ("WorkflowUUID", (0, 0)),
    "workflow_name": ("WorkflowName", (0, 0)),
    "status": ("Status", (0, 0)),
    "application_version": ("ApplicationVersion", (0, 0)),
    "queue_name": ("QueueName", (2, 9)),
    "executor_id": ("ExecutorID", (2, 9)),
    "forked_from": ("ForkedFrom", (2, 4)),
}


class ScriptedExecutor:
    """Serves `workflows` and `steps` until closed. What is in `silent` gets no answer,
    what is in `refused` that error; `success` commands in `lazy` change nothing."""

    def __init__(
        self,
        url: str,
        executor_id: str = "x1",
        *,
        version: str | None = "3.2.0",
        rows: list[dict[str, Any]] | None = None,
        versions: tuple[str, ...] = (),
    ) -> None:
        self.executor_id, self.version = executor_id, version
        self.workflows = {row["WorkflowUUID"]: row for row in rows or []}
        self.steps: dict[str, list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.schedules: dict[str, dict[str, Any]] = {}
        self.queues: dict[str, dict[str, Any]] = {}
        # By their ids; a database is known by them.
        self.versions: list[dict[str, Any]] = [
            {"version_id": one, "version_name": one, "created_at": NOON + number}
            for number, one in enumerate(versions)
        ]
        self.imported: list[str] = []
        self.silent: set[str] = set()
        self.refused: dict[str, str] = {}
        self.lazy: set[str] = set()
        self.asked: list[dict[str, Any]] = []
        self._connection = connect(url, compression=None, max_size=None, legacy=True)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._connection.close()
        self._thread.join(5)

    def count(self, kind: str) -> int:
        return Counter(request["type"] for request in self.asked)[kind]

    def last(self, kind: str) -> dict[str, Any]:
        return next(r for r in reversed(self.asked) if r["type"] == kind)

    def _serve(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for text in self._connection:
                request = json.loads(text)
                self.asked.append(request)
                if request["type"] in self.silent:
                    continue
                envelope = {
                    "type": request["type"],
                    "request_id": request["request_id"],
                }
                self._connection.send(json.dumps({**envelope, **self._answer(request)}))

    def _knows(self, *version: int) -> bool:
        own = tuple(int(part) for part in (self.version or "1.14").split("."))
        return own >= version

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request["type"]
        if kind in self.refused:
            return {"error_message": self.refused[kind], "success": False}
        answer = getattr(self, f"_{kind}", None)
        if answer is None:
            return {"error_message": "Unknown message type"}
        told: dict[str, Any] = answer(request)
        return told

    def _executor_info(self, request: dict[str, Any]) -> dict[str, Any]:
        info = {"executor_id": self.executor_id, "application_version": "v1"}
        if self.version is None:
            return info
        return {**info, "language": "python", "dbos_version": self.version}

    def _exist_pending_workflows(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "exist": any(
                row["ExecutorID"] == request["executor_id"]
                and row["Status"] == "PENDING"
                for row in self.workflows.values()
            )
        }

    def _recovery(self, request: dict[str, Any]) -> dict[str, Any]:
        for row in self.workflows.values():
            if row["ExecutorID"] in request["executor_ids"]:
                row["ExecutorID"] = self.executor_id
        return {"success": True}

    def _list_workflows(self, request: dict[str, Any]) -> dict[str, Any]:
        body = request["body"]
        rows = [row for row in self.workflows.values() if self._passes(row, body)]
        # Ties stay as they were made, whichever way the list goes.
        sign = -1 if body["sort_desc"] else 1
        rows.sort(key=lambda row: sign * int(row["CreatedAt"] or 0))
        rows = rows[body["offset"] or 0 :]
        return {"output": rows[: body["limit"]] if body["limit"] else rows}

    def _passes(self, row: dict[str, Any], body: dict[str, Any]) -> bool:
        for name, (column, since) in FILTERS.items():
            wanted = body.get(name)
            if wanted and self._knows(*since):
                several = wanted if isinstance(wanted, list) else [wanted]
                if row.get(column) not in several:
                    return False
        prefix = body.get("workflow_id_prefix")
        if prefix and self._knows(2, 9):
            prefixes = [prefix] if isinstance(prefix, str) else prefix
            # As LIKE does on SQLite.
            upper = tuple(one.upper() for one in prefixes)
            if not row["WorkflowUUID"].upper().startswith(upper):
                return False
        if row["CreatedAt"] is None:
            return body["start_time"] is None and body["end_time"] is None
        created_ms = int(row["CreatedAt"])
        return _ms(body["start_time"], 0) <= created_ms <= _ms(body["end_time"], 2**60)

    def _get_workflow_aggregates(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._knows(2, 16):
            return {"error_message": "Unknown message type"}
        body = dict.fromkeys(("start_time", "end_time")) | request["body"]
        names = {"workflow_name": "name", "application_version": "app_version"}
        body |= {name: body.get(other) for name, other in names.items()}
        rows = (row for row in self.workflows.values() if self._passes(row, body))
        counts = Counter(row["Status"] for row in rows)
        return {
            "output": [
                {"group": {"status": status}, "count": count}
                for status, count in counts.items()
            ]
        }

    def _get_workflow(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"output": self.workflows.get(request["workflow_id"])}

    def _list_steps(self, request: dict[str, Any]) -> dict[str, Any]:
        steps = self.steps.get(request["workflow_id"], [])
        if self._knows(2, 18):
            offset = request.get("offset") or 0
            steps = steps[offset : offset + (request.get("limit") or len(steps))]
        return {"output": steps}

    def _get_workflow_events(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._knows(2, 15):
            return {"error_message": "Unknown message type"}
        return {"events": self.events}

    def _get_workflow_notifications(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"notifications": []}

    def _each(self, request: dict[str, Any]) -> list[str]:
        if request["type"] in self.lazy:
            return []
        several = request.get("workflow_ids") if self._knows(2, 15) else None
        return [i for i in several or [request["workflow_id"]] if i in self.workflows]

    def _cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        for one in self._each(request):
            if self.workflows[one]["Status"] not in FINAL:
                self.workflows[one]["Status"] = "CANCELLED"
        return {"success": True}

    def _resume(self, request: dict[str, Any]) -> dict[str, Any]:
        for one in self._each(request):
            if self.workflows[one]["Status"] not in FINAL:
                self.workflows[one]["Status"] = "ENQUEUED"
        return {"success": True}

    def _delete(self, request: dict[str, Any]) -> dict[str, Any]:
        for one in self._each(request):
            del self.workflows[one]
        return {"success": True}

    def _fork_workflow(self, request: dict[str, Any]) -> dict[str, Any]:
        body = request["body"]
        new_id = body["new_workflow_id"]
        if new_id in self.workflows:
            return {"error_message": "duplicate key", "new_workflow_id": None}
        self.workflows[new_id] = workflow(
            new_id,
            NOON + SECOND,
            "ENQUEUED",
            ForkedFrom=body["workflow_id"],
            ApplicationVersion=body["application_version"],
        )
        return {"new_workflow_id": new_id}

    def _fork_from_failure(self, request: dict[str, Any]) -> dict[str, Any]:
        ids = [f"{one}-again" for one in request["body"]["workflow_ids"]]
        self.workflows |= {i: workflow(i, NOON + SECOND, "ENQUEUED") for i in ids}
        return {"forked_workflow_ids": ids}

    def _rewind_workflow(self, request: dict[str, Any]) -> dict[str, Any]:
        self.workflows[request["body"]["workflow_id"]]["Status"] = "ENQUEUED"
        return {"success": True}

    def _export_workflow(self, request: dict[str, Any]) -> dict[str, Any]:
        row = json.dumps(self.workflows[request["workflow_id"]])
        return {"serialized_workflow": base64.b64encode(row.encode()).decode()}

    def _import_workflow(self, request: dict[str, Any]) -> dict[str, Any]:
        self.imported.append(request["serialized_workflow"])
        return {"success": True}

    def _list_schedules(self, request: dict[str, Any]) -> dict[str, Any]:
        wanted = request["body"].get("status")
        rows = self.schedules.values()
        return {"output": [r for r in rows if wanted in (None, r["status"])]}

    def _get_schedule(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"output": self.schedules.get(request["schedule_name"])}

    def _pause_schedule(self, request: dict[str, Any]) -> dict[str, Any]:
        self.schedules[request["schedule_name"]]["status"] = "PAUSED"
        return {"success": True}

    def _resume_schedule(self, request: dict[str, Any]) -> dict[str, Any]:
        self.schedules[request["schedule_name"]]["status"] = "ACTIVE"
        return {"success": True}

    def _trigger_schedule(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"workflow_id": f"sched-{request['schedule_name']}-now"}

    def _backfill_schedule(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"workflow_ids": [f"sched-{request['start']}"]}

    def _list_queues(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"output": list(self.queues.values())}

    def _get_queue(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"output": self.queues.get(request["name"])}

    def _list_application_versions(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"output": self.versions}

    def _set_latest_application_version(
        self, request: dict[str, Any]
    ) -> dict[str, Any]:
        self.versions.sort(key=lambda v: v["version_name"] != request["version_name"])
        return {"success": True}


def _ms(moment: str | None, default: int) -> int:
    if moment is None:
        return default
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def wait_until(reached: Any, *, secs: float = 20) -> None:
    deadline = time.monotonic() + secs
    while not reached():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
