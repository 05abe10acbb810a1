"""Measures Conductor in services mode, beside floors measured in the same run.

    make bench                                    everything, sizes of the README
    python benchmarks/bench.py --quick            sizes for CI
    python benchmarks/bench.py --only storm --connections 10000

Prints a table and writes a JSON file. Each number stands beside a *floor*: what the
same machine does in the same minute with a server, or a query, that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from api import measure_api
from stack import (
    HERE,
    Child,
    Stack,
    cpu_secs,
    end,
    free_port,
    rss_bytes,
    wait_until,
)

APPLICATION = "bench"
KILL_TIMEOUT_SECS = 10
# Long enough that a restart makes nobody dead, however slow the machine is.
CALM_TIMEOUT_SECS = 300


@dataclass
class Row:
    """One measured thing beside its floor and its goal."""

    name: str
    unit: str
    value: float | None
    floor: float | None = None
    goal: float | None = None
    more_is_better: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times the floor."""
        if self.value is None or not self.floor:
            return None
        return round(self.value / self.floor, 2)

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        if self.goal is None:
            return ""
        if self.value is None:
            return "FAIL"
        met = (
            self.value >= self.goal if self.more_is_better else self.value <= self.goal
        )
        return "ok" if met else "FAIL"


@dataclass
class Bench:
    """One run: the running stack, the sizes and the rows so far."""

    stack: Stack
    options: argparse.Namespace
    key: str
    port: int
    web: subprocess.Popen[bytes]
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def reading_key(self) -> str:
        """Make a key that may read over the API."""
        return self.stack.provision(APPLICATION, permission="application.read")

    def add(self, name: str, unit: str, value: float | None, **more: Any) -> None:
        """Note a result and show it at once."""
        row = Row(name, unit, None if value is None else round(value, 3), **more)
        self.rows.append(row)
        print(f"  {name}: {row.value} {unit}  {row.verdict}", flush=True)


# --- Idle sockets and the reconnect storm, with the bare server as floor ---


def measure_sockets(bench: Bench, *, idle: bool, storm: bool) -> None:
    """Hold a fleet; look at the quiet server; restart it under the fleet."""
    count = bench.options.connections
    floor = _sockets_of_floor(bench, count, idle=idle, storm=storm)
    bench.stack.set_timeout(APPLICATION, CALM_TIMEOUT_SECS)
    before = rss_bytes(bench.web.pid)
    fleet = bench.stack.fleet(
        bench.port, application=APPLICATION, key=bench.key, count=count
    )
    wait_until(
        "the fleet is registered",
        lambda: bench.stack.healthy(APPLICATION) >= count,
        secs=180,
    )
    if idle:
        _idle(bench, bench.web.pid, before, count, floor)
    if storm:
        _storm(bench, fleet, count, floor)
        if idle:
            # What counts is the quiet after a storm, not before it.
            per, cpu = _quiet(
                bench.web.pid, before, count, secs=bench.options.quiet_secs
            )
            bench.add("memory per connection after the storm", "KiB", per, goal=50)
            bench.add("processor after the storm", "% of a core", cpu, goal=10)
    fleet.stop()
    bench.stack.forget_executors(APPLICATION)


def _quiet(pid: int, before: int, count: int, *, secs: float) -> tuple[float, float]:
    time.sleep(5)
    used = cpu_secs(pid)
    started = time.monotonic()
    time.sleep(secs)
    cpu = 100 * (cpu_secs(pid) - used) / (time.monotonic() - started)
    return (rss_bytes(pid) - before) / count / 1024, cpu


def _idle(
    bench: Bench, pid: int, before: int, count: int, floor: dict[str, float]
) -> None:
    per, cpu = _quiet(pid, before, count, secs=bench.options.idle_secs)
    bench.add("memory per idle connection", "KiB", per, floor=floor["kib"], goal=50)
    bench.add(
        "processor, idle sockets", "% of a core", cpu, floor=floor["cpu"], goal=10
    )


def _storm(bench: Bench, fleet: Child, count: int, floor: dict[str, float]) -> None:
    fleet.do(do="reset")
    old = bench.stack.newest_instance()
    end(bench.web)
    launched = time.monotonic()
    bench.web = bench.stack.launch_web(bench.port)
    wait_until("the new server is up", lambda: _accepts(bench.port), secs=60)
    accepting = time.monotonic()
    instance = wait_until(
        "a new instance",
        lambda: (bench.stack.newest_instance() or old).replace(old, ""),
        secs=60,
    )
    wait_until(
        "all are registered again",
        lambda: (
            bench.stack.count(
                "SELECT count(*) FROM executors_executor"
                " WHERE state = 'HEALTHY' AND instance_id::text = %s",
                instance,
            )
            >= count
        ),
        secs=180,
    )
    done = time.monotonic()
    stats = fleet.do(do="stats")
    bench.details["storm"] = stats
    bench.add(
        f"storm: {count} registered, from accepting",
        "s",
        done - accepting,
        floor=floor["storm_s"],
        goal=8,
        note=f"{stats['failed_dials']} failed dials",
    )
    bench.add(f"storm: {count} registered, from launch", "s", done - launched)
    recovered = bench.stack.count("SELECT count(*) FROM executors_recovery")
    bench.add("storm: recoveries ordered", "", recovered, goal=0)


def _accepts(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _sockets_of_floor(
    bench: Bench, count: int, *, idle: bool, storm: bool
) -> dict[str, float]:
    port = free_port()
    server = Child("floor.py", str(port))
    fleet = None
    found = {"kib": 0.0, "cpu": 0.0, "storm_s": 0.0}
    try:
        wait_until("the floor is up", lambda: _accepts(port), secs=20)
        before = rss_bytes(server.process.pid)
        fleet = bench.stack.fleet(port, application="floor", key="k", count=count)

        def all_in() -> bool:
            return bool(server.do()["introduced"] >= count)

        wait_until("the floor holds the fleet", all_in, secs=120)
        if idle:
            kib, cpu = _quiet(
                server.process.pid, before, count, secs=bench.options.idle_secs
            )
            found.update(kib=round(kib, 2), cpu=round(cpu, 2))
        if storm:
            server.stop()
            server = Child("floor.py", str(port))
            wait_until("the floor is back", lambda: _accepts(port), secs=20)
            started = time.monotonic()
            wait_until("the floor holds the fleet again", all_in, secs=120)
            found["storm_s"] = round(time.monotonic() - started, 3)
    finally:
        server.stop()
        if fleet is not None:
            fleet.stop()
    return found


# --- The gateway, with a database query as floor ---


def measure_gateway(bench: Bench) -> None:
    """Ask executors from another process, one at a time and 64 at a time."""
    bench.stack.set_timeout(APPLICATION, CALM_TIMEOUT_SECS)
    fleet = bench.stack.fleet(
        bench.port, application=APPLICATION, key=bench.key, count=50
    )
    wait_until(
        "the fleet is registered",
        lambda: bench.stack.healthy(APPLICATION) >= 50,
        secs=60,
    )
    asker = Child("asker.py", APPLICATION, **bench.stack.environment)
    bench.stack.children.append(asker)
    secs = bench.options.ask_secs
    found = {
        (what, concurrency): asker.do(do=what, concurrency=concurrency, secs=secs)
        for concurrency in (1, 64)
        for what in ("query", "ask")
    }
    bench.details["gateway"] = {f"{w} {c}": r for (w, c), r in found.items()}
    for concurrency, p50_goal, rate_goal in ((1, 2.0, None), (64, None, 1500.0)):
        asked, floor = found["ask", concurrency], found["query", concurrency]
        name = f"gateway, {concurrency} at a time"
        note = json.dumps(asked["failures"]) if asked["failures"] else ""
        bench.add(
            f"{name}: p50",
            "ms",
            asked["p50_ms"],
            floor=floor["p50_ms"],
            goal=p50_goal,
            note=note,
        )
        bench.add(f"{name}: p99", "ms", asked["p99_ms"], floor=floor["p99_ms"])
        bench.add(
            f"{name}: asks",
            "/s",
            asked["per_s"],
            floor=floor["per_s"],
            goal=rate_goal,
            more_is_better=True,
        )
    asker.stop()
    fleet.stop()
    bench.stack.forget_executors(APPLICATION)


# --- Detect and take over, with the application's timeout as floor ---


def measure_takeover(bench: Bench, count: int) -> None:
    """Kill executors and see when they are declared dead and recovered."""
    stack = bench.stack
    stack.set_timeout(APPLICATION, KILL_TIMEOUT_SECS)
    survivors = bench.options.survivors
    total = count + survivors
    fleet = stack.fleet(bench.port, application=APPLICATION, key=bench.key, count=total)
    wait_until(
        "the fleet is registered",
        lambda: stack.healthy(APPLICATION) >= total,
        secs=120,
    )
    killed = fleet.do(do="kill", count=count)
    ids = set(killed["killed"])
    wait_until(
        "every recovery is confirmed",
        lambda: (
            stack.count(
                "SELECT count(*) FROM executors_recovery WHERE state = 'CONFIRMED'"
                " AND executor_id = ANY(%s)",
                list(ids),
            )
            >= count
        ),
        secs=KILL_TIMEOUT_SECS + 60,
        every=0.2,
    )
    orders = fleet.do(do="orders")["orders"]
    last = stack.sql.execute(
        "SELECT extract(epoch FROM max(dead_at)), extract(epoch FROM max(confirmed_at))"
        " FROM executors_recovery WHERE executor_id = ANY(%s)",
        [list(ids)],
    ).fetchone()
    assert last is not None
    due = killed["at"] + KILL_TIMEOUT_SECS
    name = f"{count} dead"
    late = {
        "declared": float(last[0]) - due,
        "ordered": max(order[0][0] for order in orders.values()) - due,
        "confirmed": float(last[1]) - due,
    }
    for what, seconds in late.items():
        bench.add(
            f"{name}: last one {what}, after the timeout",
            "s",
            seconds,
            goal={"ordered": 5.0, "declared": 5.0}.get(what),
        )
    bench.add(
        f"{name}: kill to last order",
        "s",
        late["ordered"] + KILL_TIMEOUT_SECS,
        floor=float(KILL_TIMEOUT_SECS),
        note="floor: the executor timeout",
    )
    strangers = len(set(orders) - ids)
    repeats = sum(len(order) > 1 for order in orders.values())
    bench.add(f"{name}: living ones ordered", "", strangers, goal=0)
    bench.add(f"{name}: ordered more than once", "", repeats, goal=0)
    fleet.stop()
    stack.forget_executors(APPLICATION)


# --- The run ---


def main() -> int:
    """Run what was asked for; return 1 if a goal was missed."""
    options = _options()
    wanted = set(options.only or PARTS)
    port = free_port()
    with Stack(CONDUCTOR_SWEEP_SECS=str(options.sweep_secs)) as stack:
        key = stack.provision(APPLICATION)
        web = stack.start_web(port)
        stack.start_background()
        time.sleep(3)
        bench = Bench(stack, options, key, port, web)
        for name, part in PARTS.items():
            if name in wanted:
                print(f"{name} …", flush=True)
                _run_part(bench, name, part, wanted)
        complaints = stack.complaints()
        bench.add("errors in the servers' logs", "", len(complaints), goal=0)
        _write(bench, complaints)
    print(_table(bench.rows))
    return int(any(row.verdict == "FAIL" for row in bench.rows))


def _run_part(
    bench: Bench, name: str, part: Callable[[Bench], None], wanted: set[str]
) -> None:
    if name == "idle":
        measure_sockets(bench, idle=True, storm="storm" in wanted)
    elif name != "storm" or "idle" not in wanted:
        part(bench)


PARTS: dict[str, Callable[[Bench], None]] = {
    "gateway": measure_gateway,
    "api": measure_api,
    "one": lambda bench: measure_takeover(bench, 1),
    "many": lambda bench: measure_takeover(bench, bench.options.dead),
    "idle": lambda bench: measure_sockets(bench, idle=True, storm=False),
    "storm": lambda bench: measure_sockets(bench, idle=False, storm=True),
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="sizes for CI")
    parser.add_argument("--connections", type=int, help="5000, quick 300")
    parser.add_argument("--dead", type=int, help="1000, quick 100")
    parser.add_argument("--survivors", type=int, help="200, quick 20")
    parser.add_argument("--idle-secs", type=float, help="60, quick 5")
    parser.add_argument("--quiet-secs", type=float, help="300, quick 5")
    parser.add_argument("--ask-secs", type=float, help="10, quick 3")
    parser.add_argument("--sweep-secs", type=float, default=2.0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "last.json")
    options = parser.parse_args()
    sizes = {
        "connections": (5000, 300),
        "dead": (1000, 100),
        "survivors": (200, 20),
        "idle_secs": (60.0, 5.0),
        "quiet_secs": (300.0, 5.0),
        "ask_secs": (10.0, 3.0),
    }
    for name, (full, quick) in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def _write(bench: Bench, complaints: list[str]) -> None:
    options = {
        name: value
        for name, value in vars(bench.options).items()
        if name not in {"output", "only"}
    }
    report = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "python": platform.python_version(),
        },
        "options": options,
        "rows": [
            {**vars(row), "ratio": row.ratio, "verdict": row.verdict}
            for row in bench.rows
        ],
        "details": bench.details,
        "complaints": complaints[:50],
    }
    bench.options.output.parent.mkdir(parents=True, exist_ok=True)
    bench.options.output.write_text(json.dumps(report, indent=2) + "\n")


def _table(rows: list[Row]) -> str:
    head = ("", "measured", "floor", "ratio", "goal", "")
    lines = [head]
    for row in rows:
        compare = "≥" if row.more_is_better else "≤"
        lines.append(
            (
                row.name,
                f"{row.value} {row.unit}".strip(),
                "" if row.floor is None else f"{row.floor:g}",
                "" if row.ratio is None else f"{row.ratio:g}×",
                "" if row.goal is None else f"{compare} {row.goal:g}",
                f"{row.verdict} {row.note}".strip(),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
