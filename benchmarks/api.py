"""The HTTP API: what it adds to asking an executor, and what it can serve at once.

The floor of a read is the same simulated executor on a bare websocket server, asked on
its socket. The machine does other things too, so floor and API are measured in turns,
and the best turn counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stack import Child, free_port, wait_until

if TYPE_CHECKING:
    from bench import Bench

APPLICATION = "bench"
ROUNDS = 3
LISTED = 50
STREAMED = 10_000
CLIENTS = 32
APP = f"/v2/orgs/bench/apps/{APPLICATION}"
LIST = f"{APP}/workflows?limit={LISTED}&sortDesc=true"


def measure_api(bench: Bench) -> None:
    """Ask over the API, and the executor itself."""
    port = free_port()
    floor = Child("floor.py", str(port))
    bench.stack.children.append(floor)
    fleets = [
        bench.stack.fleet(
            at,
            application=application,
            key=bench.key,
            count=1,
            workflows=STREAMED,
            body_bytes=0,
        )
        for at, application in ((port, "floor"), (bench.port, APPLICATION))
    ]
    wait_until("the floor has it", lambda: floor.do()["introduced"] == 1, secs=20)
    wait_until(
        "Conductor has it", lambda: bench.stack.healthy(APPLICATION) == 1, secs=20
    )
    caller = Child("caller.py", str(bench.port), API_KEY=bench.reading_key())
    bench.stack.children.append(caller)
    _overhead(bench, floor, caller)
    _crowd(bench, caller)
    _stream(bench, caller)
    for child in (caller, floor, *fleets):
        child.stop()
    bench.stack.forget_executors(APPLICATION)


def _overhead(bench: Bench, floor: Child, caller: Child) -> None:
    secs = bench.options.ask_secs
    body = {"limit": LISTED, "sort_desc": True}
    questions: dict[str, tuple[dict[str, Any], str]] = {
        "one workflow": (
            {"type": "get_workflow", "workflow_id": "w-1"},
            f"{APP}/workflows/w-1",
        ),
        f"{LISTED} workflows": ({"type": "list_workflows", "body": body}, LIST),
    }
    for name, (message, path) in questions.items():
        turns = [
            (
                floor.do(do="ask", message=message, secs=secs / ROUNDS),
                caller.do(do="get", path=path, concurrency=1, secs=secs / ROUNDS),
            )
            for _ in range(ROUNDS)
        ]
        bench.details[f"api, {name}"] = turns
        for part, goal in (("p50_ms", 6.0), ("p99_ms", 15.0)):
            own, api = min(turns, key=lambda turn: turn[1][part] - turn[0][part])
            bench.add(
                f"api, {name}: {part[:3]} more than the executor",
                "ms",
                api[part] - own[part],
                goal=goal,
                note=f"{api[part]:g} against {own[part]:g}",
            )


def _crowd(bench: Bench, caller: Child) -> None:
    """Many who ask the same."""
    turns = [
        caller.do(
            do="get",
            path=LIST,
            concurrency=CLIENTS,
            secs=bench.options.ask_secs / ROUNDS,
        )
        for _ in range(ROUNDS)
    ]
    bench.details["api, crowd"] = turns
    best = max(turns, key=lambda turn: float(turn["per_s"]))
    bench.add(
        f"api, {CLIENTS} clients ask for the same {LISTED} workflows",
        "/s",
        best["per_s"],
        goal=200,
        more_is_better=True,
        note=f"p99 {best['p99_ms']:g} ms",
    )


def _stream(bench: Bench, caller: Child) -> None:
    """A list of everything, and what it does to somebody else."""
    quiet = caller.do(do="get", path=APP, concurrency=1, secs=1)
    turns = [
        caller.do(do="stream", path=f"{APP}/workflows", beside=APP)
        for _ in range(ROUNDS)
    ]
    bench.details["api, stream"] = [quiet, *turns]
    best = min(turns, key=lambda turn: float(turn["p99_ms"]))
    whole = min(turn["rows"] for turn in turns)
    bench.add(
        f"api, {STREAMED:,} workflows streamed",
        "rows",
        whole,
        goal=STREAMED,
        more_is_better=True,
        note=f"{best['bytes'] / 2**20:.1f} MiB in {best['secs']:g} s",
    )
    for part in ("p50_ms", "p99_ms"):
        bench.add(
            f"api, another's small request meanwhile: {part[:3]}",
            "ms",
            best[part],
            floor=quiet[part],
            note="floor: while nothing is streamed",
        )
