"""The main job, shown: a DBOS executor is killed, another one takes its workflows over.

    python scripts/demo.py [python|typescript]

Starts an embedded Conductor and three processes of an example application, kills one of
them with SIGKILL, and prints the takeover as the ledger saw it. `DEMO_ONCE=1` stops
after that, exits 0 only if the proof holds, and its last line is the result as JSON.
`PORT` is Conductor's (8090, or a free one where that is taken).
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from example_apps import EXAMPLES, NAME, ROOT, CannotRun, Example

TIMEOUT_SECS = int(os.environ.get("CONDUCTOR_EXECUTOR_TIMEOUT_SECS", "10"))
ONCE = os.environ.get("DEMO_ONCE", "") == "1"
PORT = 8090
EMAIL = "demo@example.com"
EXECUTORS = 3
LOOK_AROUND_SECS = 10
# How much later than its timeout a takeover may be ordered, at the most.
SLACK_SECS = 3.0
WAIT_SECS = 180
FINAL = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")


class GaveUp(Exception):
    """The demo cannot go on; the message says why."""


class Ended(Exception):
    """Somebody asked the demo to end."""


def say(text: str = "") -> None:
    print(text, flush=True)


class Demo:
    """The processes and files of one run."""

    def __init__(self, home: Path, example: Example) -> None:
        self.home, self.example = home, example
        self.port = choose_port()
        self.url = f"http://127.0.0.1:{self.port}"
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

    def start(
        self, name: str, command: list[str], **extra: str
    ) -> subprocess.Popen[bytes]:
        """Start one process in a group of its own."""
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
        return process

    def stop(self) -> None:
        """End every process, the last one first; the database outlives its users."""
        deadline = time.monotonic() + 6
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
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
            raise GaveUp(done.stderr)
        return json.loads(done.stdout)

    def ledger(self) -> Any:
        return self.manage("ledger", "--org", "demo", "--app", NAME)

    def recovery_of(self, executor_id: str) -> dict[str, Any]:
        found = (
            e for e in self.ledger()["recoveries"] if e["executor_id"] == executor_id
        )
        return next(found, {})


def choose_port() -> int:
    """The port that was asked for; without one the usual, or a free one."""
    wanted = os.environ.get("PORT", "")
    if wanted and not wanted.isdecimal():
        raise GaveUp(f"PORT must be a number, not {wanted!r}.")
    for port in [int(wanted)] if wanted else [PORT, 0]:
        with socket.socket() as probe, contextlib.suppress(OSError, OverflowError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if not port:
                say(f"Port {PORT} is taken, so Conductor takes another one.")
            return int(probe.getsockname()[1])
    raise GaveUp(f"Port {wanted} is taken. Set PORT to a free one, or leave it out.")


def wait_until(
    what: str, check: Callable[[], Any], wait_secs: float = WAIT_SECS
) -> Any:
    deadline = time.monotonic() + wait_secs
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.3)
    raise GaveUp(f"Gave up waiting until {what}.")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


# --- The story ---


def run(demo: Demo) -> bool:
    """Tell it from start to proof; return whether the proof holds."""
    demo.example.install()
    key = start_conductor(demo)
    pids = start_executors(demo, key)
    say(f"{EXECUTORS} executors of {NAME!r} ({demo.example.language}) work on orders.")
    if not ONCE:
        say(f"\nLook around. In {LOOK_AROUND_SECS} s one of them is killed …")
        time.sleep(LOOK_AROUND_SECS)
    say()
    victim, pid = wait_until("an executor is busy", lambda: busy_executor(demo, pids))
    killed_at = datetime.now(UTC)
    os.killpg(pid, signal.SIGKILL)
    # What had finished by now must never run again.
    finished = recorded_steps(demo)
    noted = collections.Counter(demo.example.notes())
    tell(killed_at, f"Killed executor {victim} (process {pid}) with SIGKILL.")
    say(f"{'':10}Its timeout is {TIMEOUT_SECS} s.")
    entry = follow(demo, victim, killed_at)
    wait_until("every workflow is final", lambda: not unfinished(demo))
    return report(demo, entry, killed_at, finished, noted)


def start_conductor(demo: Demo) -> str:
    """Start it and say how to sign in; return an API key."""
    server = demo.start("conductor", [sys.executable, "-m", "conductor_site.server"])

    def is_up() -> bool:
        if server.poll() is not None:
            raise GaveUp("Conductor did not start.")
        return answers(f"{demo.url}/healthz")

    wait_until("Conductor answers", is_up, 60)
    made = demo.manage(
        *("provision", "--org", "demo", "--email", EMAIL),
        *("--password", demo.password, "--app", NAME),
        *("--key-name", f"demo-{secrets.token_hex(3)}"),
    )
    say(f"Conductor  {demo.url}/")
    say(f"Sign in    {EMAIL}  password {demo.password}")
    key: str = made["key"]
    return key


def start_executors(demo: Demo, key: str) -> dict[str, int]:
    """Start the processes one after the other; return executor id → process id."""
    database = demo.example.start_database()
    if database is not None:
        demo.processes.append(database)
    pids: dict[str, int] = {}
    for number in range(EXECUTORS):
        process = demo.start(
            f"executor-{number + 1}",
            [*demo.example.command(), "--orders" if number else "--load"],
            DBOS_DATABASE=demo.example.database_url(),
            STEP_NOTES=str(demo.example.notes_file),
            CONDUCTOR_URL=demo.url.replace("http", "ws", 1),
            CONDUCTOR_KEY=key,
            # Enough to be busy still after a look around.
            LOAD=os.environ.get("LOAD", "12" if ONCE else "30"),
        )

        def newcomer(process: subprocess.Popen[bytes] = process) -> set[str]:
            if process.poll() is not None:
                raise GaveUp("An executor did not start.")
            return healthy_executors(demo) - pids.keys()

        pids[wait_until("an executor is connected", newcomer, 60).pop()] = process.pid
    return pids


def healthy_executors(demo: Demo) -> set[str]:
    executors = demo.ledger()["executors"]
    return {e["executor_id"] for e in executors if e["state"] == "HEALTHY"}


def busy_executor(demo: Demo, pids: dict[str, int]) -> tuple[str, int] | None:
    """The one with the most pending workflows that have finished some steps."""
    rows = demo.example.query(
        "SELECT executor_id, count(*) FROM workflow_status WHERE status = 'PENDING'"
        " AND workflow_uuid IN (SELECT workflow_uuid FROM operation_outputs)"
        " GROUP BY executor_id ORDER BY 2 DESC"
    )
    return next(((row[0], pids[row[0]]) for row in rows if row[0] in pids), None)


def follow(demo: Demo, victim: str, killed_at: datetime) -> dict[str, Any]:
    """Tell each event once the ledger knows it; return the confirmed entry."""
    told: set[str] = set()

    def progress() -> dict[str, Any]:
        entry = demo.recovery_of(victim)
        words = {
            "disconnected_at": "Its connection closed.",
            "dead_at": "Declared dead.",
            "requested_at": f"Takeover ordered: {entry.get('pending_count')} pending "
            f"workflows go to {entry.get('taken_over_by')}.",
            "confirmed_at": f"Confirmed: {entry.get('pending_left')} left pending.",
        }
        if entry.get("state") == "WAITING" and entry["waiting_reason"] not in told:
            told.add(entry["waiting_reason"])
            say(f"{'':10}It waits: {entry['waiting_reason']}")
        for name, sentence in words.items():
            if entry.get(name) and name not in told:
                told.add(name)
                moment = datetime.fromisoformat(entry[name])
                after = (moment - killed_at).total_seconds()
                tell(moment, f"{sentence}  (+{max(after, 0):.1f} s)")
        return entry if entry.get("state") == "CONFIRMED" else {}

    entry: dict[str, Any] = wait_until("the recovery is confirmed", progress)
    return entry


def tell(moment: datetime, text: str) -> None:
    say(f"{moment.astimezone():%H:%M:%S}  {text}")


# --- The proof: the ledger's account held against the application's own database ---


def unfinished(demo: Demo) -> bool:
    return bool(set(statuses(demo)) - set(FINAL))


def statuses(demo: Demo) -> dict[str, int]:
    sql = "SELECT status, count(*) FROM workflow_status GROUP BY status"
    return dict(demo.example.query(sql))


def recorded_steps(demo: Demo) -> dict[tuple[str, int], str]:
    """The finished steps: (workflow id, step number) → name."""
    rows = demo.example.query(
        "SELECT workflow_uuid, function_id, function_name FROM operation_outputs"
        " WHERE completed_at_epoch_ms IS NOT NULL"
    )
    return {(row[0], row[1]): row[2] for row in rows}


def report(
    demo: Demo,
    entry: dict[str, Any],
    killed_at: datetime,
    finished: dict[tuple[str, int], str],
    noted: collections.Counter[str],
) -> bool:
    """Print what came of it, the last line as JSON; return whether the proof holds."""

    def after(name: str) -> float:
        moment = datetime.fromisoformat(entry[name])
        return round((moment - killed_at).total_seconds(), 3)

    counts = statuses(demo)
    lost = finished.keys() - recorded_steps(demo).keys()
    again = rerun_steps(demo, finished, noted)
    result = {
        "killed": entry["executor_id"],
        "taken_over_by": entry["taken_over_by"],
        "detected_s": after("dead_at"),
        "ordered_s": after("requested_at"),
        "confirmed_s": after("confirmed_at"),
        "workflows": sum(counts.values()),
        "completed": sum(counts.get(status, 0) for status in FINAL),
        "pending_left": entry["pending_left"],
        "completed_steps_run_again": len(again),
    }
    claims = {
        "every workflow is final": result["completed"] == result["workflows"] > 0,
        "nothing is left pending": result["pending_left"] == 0,
        "another executor took over": entry["taken_over_by"]
        not in ("", None, entry["executor_id"]),
        "the dead one had begun work": entry["pending_count"] > 0,
        "no finished step was lost": not lost,
        "no finished step ran again": not again,
        f"ordered within {TIMEOUT_SECS} + {SLACK_SECS:g} s": result["ordered_s"]
        <= TIMEOUT_SECS + SLACK_SECS,
    }
    shown = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
    tell(datetime.now(UTC), f"{result['completed']} workflows are final: {shown}.")
    say()
    for claim, is_true in claims.items():
        say(f"  {'yes' if is_true else 'NO '}  {claim}")
    holds = all(claims.values())
    say(f"\nThe proof {'holds' if holds else 'does NOT hold'}. The ledger's account:")
    say(f"{demo.url}/orgs/demo/apps/{NAME}/recoveries/{entry['id']}/")
    if ONCE:
        say(json.dumps(result))
    return holds


def rerun_steps(
    demo: Demo, finished: dict[tuple[str, int], str], noted: collections.Counter[str]
) -> list[str]:
    """Notes, made after the kill, of steps that had finished before it.

    A step that was cut off in its middle runs again, which is what DBOS promises. A
    note reads `workflow step`, or `workflow step-number` of a step with an argument.
    """
    after = collections.Counter(demo.example.notes()) - noted
    done_before = {f"{workflow} {name}" for (workflow, _), name in finished.items()}
    return [
        line
        for line in after
        if line in done_before or line.rpartition("-")[0] in done_before
    ]


def end(*_: Any) -> None:
    raise Ended


def main() -> int:
    language = sys.argv[1] if len(sys.argv) > 1 else "python"
    if language not in EXAMPLES or len(sys.argv) > 2:
        sys.exit(__doc__)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    with tempfile.TemporaryDirectory(
        prefix="conductor-demo-", ignore_cleanup_errors=True
    ) as folder:
        home = Path(folder)
        demo: Demo | None = None
        holds = False
        try:
            demo = Demo(home, EXAMPLES[language](home))
            holds = run(demo)
            if not ONCE:
                say("\nCtrl-C stops everything.")
                signal.pause()
        except Ended:
            say("\nStopping.")
        except (GaveUp, CannotRun) as exc:
            say(str(exc))
            for log in sorted(home.glob("*.log")):
                say(f"--- end of {log.name} ---\n{log.read_text()[-1500:]}")
        finally:
            # Impatience must not leave a process behind.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            if demo is not None:
                demo.stop()
        return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
