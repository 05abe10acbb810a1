"""A simulated fleet: many executors of one application in one cheap process.

Each simulated executor behaves on the wire like the Python SDK: it dials with a 5 s
limit, redials after a fixed second for ever, pings every 20 s, says nothing on its own
and answers what it is asked. The fleet keeps count of what it was ordered to recover.

It obeys JSON lines on stdin and answers each with one JSON line on stdout:

    {"do": "stats"}
    {"do": "kill", "count": 50}     50 executors vanish without a close frame
    {"do": "drop", "count": 50}     50 connections are cut; their executors redial
    {"do": "orders"}                what was ordered, of whom, when
    {"do": "reset"}                 forget the counts
    {"do": "stop"}

The key is read from the environment (FLEET_KEY), so that no process list shows it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import time
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from datetime import datetime
from typing import Any

import uvloop
from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

DIAL_SECS = 5.0
REDIAL_SECS = 1.0
PING_SECS = 20.0
# One loopback address has some 28,000 ports; a fleet is spread over many addresses.
EXECUTORS_PER_ADDRESS = 1000


class Fleet:
    """The executors, and what they know together (an application's database)."""

    def __init__(self, options: argparse.Namespace, key: str) -> None:
        self.urls = [
            f"{base.rstrip('/')}/websocket/{options.application}/{key}"
            for base in options.url
        ]
        self.version: str = options.version
        self.body = "x" * options.body_bytes
        self.workflow = _workflow(options)
        self.workflows = _workflows(options)
        self.dials_at_once = asyncio.Semaphore(options.dials_at_once)
        self.first_dial_over = asyncio.Event()
        self.executors = [Executor(self, index) for index in range(options.count)]
        # executor ids that left PENDING rows behind and were not recovered yet
        self.pending: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget the counts; connections and pending rows stay."""
        self.orders: dict[str, list[tuple[float, str]]] = {}
        self.requests: dict[str, int] = {}
        self.dials = self.failed_dials = self.losses = self.introductions = 0
        self.last_introduction_at = 0.0
        self.errors: dict[str, int] = {}

    def note_error(self, text: str) -> None:
        text = text[:160]
        if text in self.errors or len(self.errors) < 20:
            self.errors[text] = self.errors.get(text, 0) + 1

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command of the controlling process."""
        match command["do"]:
            case "stats":
                return self.stats()
            case "orders":
                return {"orders": self.orders, "pending": sorted(self.pending)}
            case "kill":
                victims = self._pick(command["count"])
                at = time.time()
                for executor in victims:
                    executor.kill()
                return {"killed": [e.executor_id for e in victims], "at": at}
            case "drop":
                victims = self._pick(command["count"])
                for executor in victims:
                    executor.cut()
                return {"dropped": [executor.executor_id for executor in victims]}
            case "reset":
                self.reset()
                return {"reset": True}
            case unknown:
                return {"error": f"unknown command {unknown!r}"}

    def _pick(self, count: int) -> list[Executor]:
        alive = [e for e in self.executors if e.is_alive and e.transport is not None]
        return random.sample(alive, min(count, len(alive)))

    def stats(self) -> dict[str, Any]:
        """Count connections and orders."""
        alive = [executor for executor in self.executors if executor.is_alive]
        times = os.times()
        living = {executor.executor_id for executor in alive}
        return {
            "alive": len(alive),
            "connected": sum(e.transport is not None for e in alive),
            "introduced": sum(e.is_introduced for e in alive),
            "introductions": self.introductions,
            "last_introduction_at": self.last_introduction_at,
            "dials": self.dials,
            "failed_dials": self.failed_dials,
            "losses": self.losses,
            "ordered": len(self.orders),
            "ordered_more_than_once": sum(len(o) > 1 for o in self.orders.values()),
            "living_ordered": sum(ordered in living for ordered in self.orders),
            "requests": self.requests,
            "errors": self.errors,
            "cpu_s": times.user + times.system,
        }


class Executor(WSListener):  # type: ignore[misc]
    """One process of the application: a stable id over many connections."""

    def __init__(self, fleet: Fleet, index: int) -> None:
        super().__init__()
        self.fleet = fleet
        self.index = index
        self.executor_id = str(uuid.UUID(int=random.getrandbits(128), version=4))
        self.transport: WSTransport | None = None
        self.is_alive = True
        self.is_introduced = False
        self.closed = asyncio.Event()
        address = index // EXECUTORS_PER_ADDRESS
        self.source = (f"127.0.{1 + address // 250}.{1 + address % 250}", 0)

    async def live(self) -> None:
        """Dial and redial until killed."""
        turn = self.index
        while self.is_alive:
            self.closed.clear()
            if await self._dial(self.fleet.urls[turn % len(self.fleet.urls)]):
                await self.closed.wait()
                self.fleet.losses += self.is_alive
            else:
                self.fleet.failed_dials += 1
            # What a load balancer would do: the next dial may reach another server.
            turn += 1
            if self.is_alive:
                await asyncio.sleep(REDIAL_SECS)

    async def _dial(self, url: str) -> bool:
        if self.fleet.first_dial_over.is_set():
            return await self._dial_now(url)
        async with self.fleet.dials_at_once:
            return await self._dial_now(url)

    async def _dial_now(self, url: str) -> bool:
        self.fleet.dials += 1
        try:
            async with asyncio.timeout(DIAL_SECS):
                await ws_connect(
                    lambda: self,
                    url,
                    websocket_handshake_timeout=DIAL_SECS,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=PING_SECS,
                    auto_ping_reply_timeout=PING_SECS,
                    auto_ping_strategy=WSAutoPingStrategy.PING_PERIODICALLY,
                    read_buffer_init_size=2048,
                    local_addr=self.source,
                )
        except Exception as exc:
            self.fleet.note_error(f"{type(exc).__name__}: {exc}")
            return False
        return True

    def kill(self) -> None:
        """Vanish, as a process does at SIGKILL: the socket closes, no close frame."""
        self.is_alive = False
        self.fleet.pending.add(self.executor_id)
        self.cut()

    def cut(self) -> None:
        """Lose the connection, if there is one."""
        if self.transport is not None:
            self.transport.disconnect()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        if not self.is_alive:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.transport = None
        self.is_introduced = False
        self.closed.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            if self.is_alive:
                self._answer(transport, json.loads(frame.get_payload_as_utf8_text()))
        elif frame.msg_type == WSMsgType.CLOSE:
            self.fleet.note_error(
                f"closed by the server: {frame.get_close_code()} "
                f"{frame.get_close_message()}"
            )
            transport.disconnect()

    def _answer(self, transport: WSTransport, request: dict[str, Any]) -> None:
        kind = request["type"]
        counts = self.fleet.requests
        counts[kind] = counts.get(kind, 0) + 1
        answer = ANSWERS.get(kind)
        reply: dict[str, Any] = {"type": kind, "request_id": request["request_id"]}
        if answer is None:
            reply["error_message"] = "Unknown message type"
        else:
            reply.update(answer(self, request), error_message=None)
        transport.send(WSMsgType.TEXT, json.dumps(reply).encode())

    def introduce(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer `executor_info`."""
        self.is_introduced = True
        self.fleet.introductions += 1
        self.fleet.last_introduction_at = time.time()
        return {
            "executor_id": self.executor_id,
            "application_version": self.fleet.version,
            "hostname": f"sim-{self.index}",
            "language": "python",
            "dbos_version": "3.2.0",
            "executor_metadata": None,
        }

    def recover(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `recovery`: the named executors' rows are pending no more."""
        for executor_id in request["executor_ids"]:
            order = (time.time(), self.executor_id)
            self.fleet.orders.setdefault(executor_id, []).append(order)
            self.fleet.pending.discard(executor_id)
        return {"success": True}

    def has_pending(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer `exist_pending_workflows`."""
        return {"exist": request["executor_id"] in self.fleet.pending}

    def list_workflows(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a listing: one page of the workflows, in their order."""
        body = request["body"]
        first, last = _ms(body.get("start_time")), _ms(body.get("end_time"))
        rows = self.fleet.workflows
        begin = bisect_left(rows, first, key=_created) if first else 0
        end = bisect_right(rows, last, key=_created) if last else len(rows)
        rows = rows[begin:end]
        if body.get("sort_desc"):
            rows.reverse()
        rows = rows[body.get("offset") or 0 :]
        return {"output": rows[: body["limit"]] if body.get("limit") else rows}

    def get_workflow(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one workflow."""
        row = {**self.fleet.workflow, "WorkflowUUID": request["workflow_id"]}
        return {"output": row}

    def list_steps(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer one step."""
        step = {
            "function_id": 1,
            "function_name": "step",
            "output": self.fleet.body,
            "error": None,
            "child_workflow_id": None,
        }
        return {"output": [step]}

    def agree(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer an order."""
        return {"success": True}

    def list_versions(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer the one version of the fleet's database."""
        version = {
            "version_id": "simulated-version",
            "version_name": self.fleet.version,
            "version_timestamp": 1790000000000,
            "created_at": 1790000000000,
        }
        return {"output": [version]}

    def nothing(self, _: dict[str, Any]) -> dict[str, Any]:
        """Answer a question with an empty list."""
        return {"output": [], "metrics": []}


ANSWERS: dict[str, Callable[[Executor, dict[str, Any]], dict[str, Any]]] = {
    "executor_info": Executor.introduce,
    "recovery": Executor.recover,
    "exist_pending_workflows": Executor.has_pending,
    "list_workflows": Executor.list_workflows,
    "list_queued_workflows": Executor.list_workflows,
    "get_workflow": Executor.get_workflow,
    "list_steps": Executor.list_steps,
    "cancel": Executor.agree,
    "resume": Executor.agree,
    "delete": Executor.agree,
    "alert": Executor.agree,
    "retention": Executor.agree,
    "get_metrics": Executor.nothing,
    "list_schedules": Executor.nothing,
    "list_queues": Executor.nothing,
    "list_application_versions": Executor.list_versions,
    "get_workflow_aggregates": Executor.nothing,
    "get_step_aggregates": Executor.nothing,
}


def _workflow(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "WorkflowUUID": "simulated-workflow",
        "Status": "SUCCESS",
        "WorkflowName": "simulated",
        "Input": "x" * options.body_bytes,
        "Output": None,
        "Error": None,
        "CreatedAt": "1790000000000",
        "UpdatedAt": "1790000001000",
        "ApplicationVersion": options.version,
        "ExecutorID": "gone",
        "Priority": "0",
        "WasForkedFrom": False,
    }


def _workflows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One each millisecond; the first is the only one unless more are asked for."""
    first = _workflow(options)
    created = _created(first)
    return [first] + [
        {**first, "WorkflowUUID": f"w-{number}", "CreatedAt": str(created + number)}
        for number in range(1, options.workflows)
    ]


def _created(row: dict[str, Any]) -> int:
    return int(row["CreatedAt"])


def _ms(moment: str | None) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000) if moment else 0


async def run(options: argparse.Namespace) -> None:
    """Start the executors, then obey stdin until it ends."""
    fleet = Fleet(options, os.environ["FLEET_KEY"])
    lives = [asyncio.create_task(executor.live()) for executor in fleet.executors]
    opening = asyncio.create_task(_note_first_dials(fleet))
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        command = json.loads(line)
        if command["do"] == "stop":
            break
        sys.stdout.write(json.dumps(await fleet.obey(command)) + "\n")
        sys.stdout.flush()
    opening.cancel()
    for life in lives:
        life.cancel()


async def _note_first_dials(fleet: Fleet) -> None:
    """Until every executor was in once, dial a few at a time, as a roll-out would."""
    while not all(executor.is_introduced for executor in fleet.executors):
        await asyncio.sleep(0.1)
    fleet.first_dial_over.set()


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", action="append", required=True, help="ws://host:port")
    parser.add_argument("--application", required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--version", default="v1")
    parser.add_argument("--body-bytes", type=int, default=700)
    parser.add_argument("--workflows", type=int, default=1)
    parser.add_argument("--dials-at-once", type=int, default=200)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options))


if __name__ == "__main__":
    main()
