"""The main job, shown: a DBOS executor is killed, another one takes its workflows over.

Starts an embedded Conductor and three processes of `examples/python`, kills one of them
with SIGKILL, and prints the takeover as the ledger saw it. `DEMO_ONCE=1` stops after
that, exits 0 only if the proof holds, and prints the result as JSON in its last line.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SDK = ROOT / ".cache" / "demo-venv"
TIMEOUT_SECS = int(os.environ.get("CONDUCTOR_EXECUTOR_TIMEOUT_SECS", "10"))
ONCE = os.environ.get("DEMO_ONCE", "") == "1"
EMAIL = "demo@example.com"
WAIT_SECS = 180
FINAL = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


def say(text: str) -> None:
    print(text, flush=True)


class GaveUp(Exception):
    """Something did not happen in time; the message says what."""


class Demo:
    """The processes and files of one run."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port(8090)
        self.password = secrets.token_hex(8)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "CONDUCTOR_DATA_DIR": str(home / "conductor"),
            "CONDUCTOR_EXECUTOR_TIMEOUT_SECS": str(TIMEOUT_SECS),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }
        for name in ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"):
            self.environment.pop(name, None)

    def start(self, name: str, command: list[str], **extra: str) -> int:
        """Start one process in a group of its own; return its process id."""
        with (self.home / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self.environment, **extra},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process.pid

    def stop(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 6
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def manage(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments, "--json"],
            cwd=ROOT,
            env={**self.environment, "LOG_LEVEL": "ERROR"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout)

    def ledger(self) -> Any:
        return self.manage("ledger", "--org", "demo", "--app", "shop")

    def query(self, sql: str, *values: Any) -> list[Any]:
        """Ask the application's own database: the ground truth."""
        uri = f"file:{self.home / 'shop.sqlite'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=20)) as db:
            return db.execute(sql, values).fetchall()


def free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise AssertionError("no free port")


def wait_until(what: str, check: Any, wait_secs: float = WAIT_SECS) -> Any:
    deadline = time.monotonic() + wait_secs
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.3)
    raise GaveUp(f"Gave up waiting until {what}.")


def install_sdk() -> str:
    """Make the example's own environment, once."""
    python = SDK / "bin" / "python"
    stamp = SDK / ".installed"
    if not stamp.exists():
        say("Installing the example application (once) …")
        subprocess.run([sys.executable, "-m", "venv", str(SDK)], check=True)
        requirements = str(ROOT / "examples" / "python" / "requirements.txt")
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "-r", requirements], check=True
        )
        stamp.touch()
    return str(python)


def seconds(start: str, end: str) -> float:
    return round(
        (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 3
    )


def run(demo: Demo) -> bool:
    python = install_sdk()
    demo.start("conductor", [sys.executable, "-m", "conductor_site.server"])
    url = f"http://127.0.0.1:{demo.port}"
    wait_until("Conductor answers", lambda: answers(f"{url}/healthz"), 60)
    made = demo.manage(
        *("provision", "--org", "demo", "--email", EMAIL),
        *("--password", demo.password, "--app", "shop"),
        *("--key-name", f"demo-{secrets.token_hex(3)}"),
    )
    say(f"Conductor: {url}/  sign in as {EMAIL} with password {demo.password}")
    pids = start_executors(demo, python, made["key"])
    say("Three executors are working. One of them will be killed in a moment.")
    if not ONCE:
        time.sleep(10)
    victim, pid = wait_until("an executor is busy", lambda: busy_executor(demo, pids))
    finished = demo.query(
        "SELECT workflow_uuid, function_id FROM operation_outputs"
        " WHERE completed_at_epoch_ms IS NOT NULL"
    )
    noted = collections.Counter(notes(demo))
    os.killpg(pid, signal.SIGKILL)
    say(f"Killed executor {victim} (SIGKILL). Its timeout is {TIMEOUT_SECS} s.")
    entry = wait_until("the recovery is confirmed", lambda: confirmed(demo, victim))
    wait_until("every workflow is final", lambda: not unfinished(demo))
    return report(demo, entry, finished, noted)


def start_executors(demo: Demo, python: str, key: str) -> dict[str, int]:
    """Start three processes one after the other; return executor id → process id."""
    pids: dict[str, int] = {}
    for number in range(3):
        pid = demo.start(
            f"executor-{number + 1}",
            [python, "examples/python/app.py", "--orders" if number else "--load"],
            DBOS_DATABASE=str(demo.home / "shop.sqlite"),
            STEP_NOTES=str(demo.home / "steps.log"),
            CONDUCTOR_URL=f"ws://127.0.0.1:{demo.port}",
            CONDUCTOR_KEY=key,
        )

        def newcomer() -> list[str]:
            healthy = {
                e["executor_id"]
                for e in demo.ledger()["executors"]
                if e["state"] == "HEALTHY"
            }
            return list(healthy - set(pids))

        pids[wait_until("the executor is connected", newcomer, 60)[0]] = pid
    return pids


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def busy_executor(demo: Demo, pids: dict[str, int]) -> tuple[str, int] | None:
    """An executor with pending workflows, some steps of which have finished."""
    rows = demo.query(
        "SELECT w.executor_id, count(*) FROM workflow_status w WHERE w.status='PENDING'"
        " AND EXISTS (SELECT 1 FROM operation_outputs o"
        " WHERE o.workflow_uuid = w.workflow_uuid)"
        " GROUP BY w.executor_id ORDER BY 2 DESC"
    )
    return next(((row[0], pids[row[0]]) for row in rows if row[0] in pids), None)


def confirmed(demo: Demo, victim: str) -> Any:
    return next(
        (
            entry
            for entry in demo.ledger()["recoveries"]
            if entry["executor_id"] == victim and entry["state"] == "CONFIRMED"
        ),
        None,
    )


def unfinished(demo: Demo) -> bool:
    marks = ",".join("?" * len(FINAL))
    sql = f"SELECT count(*) FROM workflow_status WHERE status NOT IN ({marks})"
    return bool(demo.query(sql, *FINAL)[0][0])


def notes(demo: Demo) -> list[str]:
    path = demo.home / "steps.log"
    return path.read_text().splitlines() if path.exists() else []


def report(
    demo: Demo,
    entry: dict[str, Any],
    finished: list[Any],
    noted: collections.Counter[str],
) -> bool:
    """Print the ledger's account and hold it against the application's database."""
    counts = dict(
        demo.query("SELECT status, count(*) FROM workflow_status GROUP BY status")
    )
    total, done = sum(counts.values()), sum(counts.get(s, 0) for s in FINAL)
    recorded = {
        (row[0], row[1])
        for row in demo.query(
            "SELECT workflow_uuid, function_id FROM operation_outputs"
        )
    }
    lost = [row for row in finished if (row[0], row[1]) not in recorded]
    # Every note of a step that was recorded as finished before the kill stays single;
    # a step that was cut off in its middle runs again, which is what DBOS promises.
    again = rerun_steps(demo, finished, noted)
    result = {
        "killed": entry["executor_id"],
        "taken_over_by": entry["taken_over_by"],
        "detected_s": seconds(entry["disconnected_at"], entry["dead_at"]),
        "ordered_s": seconds(entry["disconnected_at"], entry["requested_at"]),
        "confirmed_s": seconds(entry["disconnected_at"], entry["confirmed_at"]),
        "workflows": total,
        "completed": done,
        "pending_left": entry["pending_left"],
        "completed_steps_run_again": len(again),
    }
    say(
        f"Declared dead after {result['detected_s']} s, takeover ordered after "
        f"{result['ordered_s']} s, confirmed after {result['confirmed_s']} s: "
        f"{entry['pending_count']} pending workflows went to {result['taken_over_by']}."
    )
    holds = (
        done == total
        and not lost
        and not again
        and result["pending_left"] == 0
        and result["ordered_s"] <= TIMEOUT_SECS + 3
    )
    say("The proof holds." if holds else f"The proof does NOT hold: {counts}")
    say(json.dumps(result))
    return holds


def rerun_steps(
    demo: Demo, finished: list[Any], noted: collections.Counter[str]
) -> list[str]:
    """Steps that had finished before the kill and ran again after it."""
    names = {
        (row[0], row[1]): row[2]
        for row in demo.query(
            "SELECT workflow_uuid, function_id, function_name FROM operation_outputs"
        )
    }
    after = collections.Counter(notes(demo)) - noted
    done_before = {
        f"{workflow} {names[workflow, step]}"
        for workflow, step in finished
        if (workflow, step) in names
    }
    return [
        line
        for line in after
        if line.rsplit("-", 1)[0] in done_before or line in done_before
    ]


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="conductor-demo-") as home:
        demo = Demo(Path(home))
        try:
            holds = run(demo)
            if not ONCE:
                say("Look at it in the console. Ctrl-C stops everything.")
                signal.pause()
            return 0 if holds else 1
        except GaveUp as exc:
            say(str(exc))
            for log in sorted(demo.home.glob("*.log")):
                say(f"--- end of {log.name} ---\n{log.read_text()[-1500:]}")
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            demo.stop()


if __name__ == "__main__":
    sys.exit(main())
