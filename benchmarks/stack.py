"""Starts what a benchmark needs, for real, and stops what it started.

Wants DATABASE_URL and REDIS_URL (`scripts/services.py -- …` gives both). It makes a
database of its own beside the given one and drops it at the end.
"""

from __future__ import annotations

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
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
START_SECS = 60.0
SETTINGS = "DJANGO_SETTINGS_MODULE"


class NotInTime(Exception):
    """Something that was waited for did not happen."""


def wait_until(
    what: str, reached: Callable[[], Any], *, secs: float, every: float = 0.05
) -> Any:
    """Poll until `reached` returns something true; return that. Raises: NotInTime."""
    deadline = time.monotonic() + secs
    while True:
        if result := reached():
            return result
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {secs:g} s")
        time.sleep(every)


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """A process that obeys JSON lines on stdin with JSON lines on stdout."""

    def __init__(self, script: str, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def do(self, **command: Any) -> dict[str, Any]:
        """Give one command and return its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise NotInTime(f"{self.process.args} ended before it answered")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End the process."""
        end(self.process)


def end(process: subprocess.Popen[Any], *, at_once: bool = False) -> None:
    """End a process of ours: politely, then not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Stack:
    """Conductor in services mode: web processes, a worker and beat."""

    def __init__(self, *, organization: str = "bench", **environment: str) -> None:
        # As a person runs it: pytest's own settings have no broker between processes.
        inherited = {k: v for k, v in os.environ.items() if k != SETTINGS}
        environment = inherited | environment
        if not (environment.get("DATABASE_URL") and environment.get("REDIS_URL")):
            raise SystemExit("Set DATABASE_URL and REDIS_URL, or use `make bench`.")
        self.organization = organization
        self.database_url = environment["DATABASE_URL"]
        self.database = f"bench_{secrets.token_hex(4)}"
        parts = urlsplit(self.database_url)
        own = urlunsplit(parts._replace(path=f"/{self.database}"))
        self.environment = {
            "LOG_LEVEL": "WARNING",
            **environment,
            "DATABASE_URL": own,
            "SECRET_KEY": secrets.token_urlsafe(50),
        }
        self.own_url = own
        self.processes: list[subprocess.Popen[bytes]] = []
        self.children: list[Child] = []
        self.logs = Path(tempfile.mkdtemp(prefix="conductor-bench-"))
        self.log: IO[bytes] = (self.logs / "server.log").open("ab")

    def __enter__(self) -> Self:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{self.database}"')
        self.manage("migrate", "--verbosity=0")
        self.sql = psycopg.connect(self.own_url, autocommit=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self.children:
            child.stop()
        for process in reversed(self.processes):
            end(process)
        self.log.close()
        self.sql.close()
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(
                f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)'
            )

    def manage(self, *arguments: str) -> str:
        """Run a management command and return what it prints."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def provision(self, *applications: str, permission: str = "") -> str:
        """Make the organization, its applications and a key; return the key."""
        names = [part for name in applications for part in ("--app", name)]
        if permission:
            names += ["--permission", permission]
        printed = self.manage(
            "provision",
            f"--org={self.organization}",
            "--email=bench@example.com",
            f"--password={secrets.token_urlsafe(20)}",
            *names,
            f"--key-name=k{secrets.token_hex(3)}",
            "--json",
        )
        key: str = json.loads(printed.strip().splitlines()[-1])["key"]
        return key

    def set_timeout(self, application: str, secs: int) -> None:
        """Set an application's executor timeout."""
        self.sql.execute(
            "UPDATE registry_application SET executor_timeout_secs = %s"
            " WHERE name = %s",
            [secs, application],
        )

    def start_web(self, port: int) -> subprocess.Popen[bytes]:
        """Start a web process and wait until it answers."""
        process = self.launch_web(port)
        url = f"http://127.0.0.1:{port}/healthz"

        def answers() -> bool:
            if process.poll() is not None:
                raise NotInTime(f"the web process ended: see {self.log.name}")
            try:
                with urllib.request.urlopen(url, timeout=2) as response:
                    return bool(response.status == 200)
            except OSError:
                return False

        wait_until("the web process answers", answers, secs=START_SECS)
        return process

    def launch_web(self, port: int, **environment: str) -> subprocess.Popen[bytes]:
        """Start a web process without waiting for it."""
        return self._launch(
            [sys.executable, "-m", "conductor_site.server", "--role", "web"],
            PORT=str(port),
            **environment,
        )

    def start_background(self, *, workers: int = 1) -> None:
        """Start Celery workers and one beat."""
        for role in ["worker"] * workers + ["beat"]:
            self.launch_background(role)

    def launch_background(self, role: str) -> subprocess.Popen[bytes]:
        """Start one worker or beat."""
        return self._launch(
            [sys.executable, "-m", "conductor_site.server", "--role", role]
        )

    def _launch(
        self, command: list[str], **environment: str
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=self.log,
            stderr=self.log,
        )
        self.processes.append(process)
        return process

    def fleet(
        self, *ports: int, application: str, key: str, count: int, **more: Any
    ) -> Child:
        """Start a simulated fleet against the given ports."""
        options = [f"--url=ws://127.0.0.1:{port}" for port in ports]
        options += [f"--{k.replace('_', '-')}={v}" for k, v in more.items()]
        child = Child(
            "fleet.py",
            *options,
            f"--application={application}",
            f"--count={count}",
            FLEET_KEY=key,
        )
        self.children.append(child)
        return child

    def count(self, query: str, *values: Any) -> int:
        """Return the one number a query yields."""
        row = self.sql.execute(query, values).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return int(row[0])

    def healthy(self, application: str) -> int:
        """Count an application's executors that are HEALTHY on a live instance."""
        return self.count(
            "SELECT count(*) FROM executors_executor e"
            " JOIN registry_application a ON a.id = e.application_id"
            " JOIN executors_instance i ON i.id::text = e.instance_id::text"
            " WHERE a.name = %s AND e.state = 'HEALTHY'"
            " AND i.beat_at > now() - interval '30 seconds'",
            application,
        )

    def forget_executors(self, application: str) -> None:
        """Remove what a finished fleet left, once the server has noticed its end."""
        try:
            wait_until(
                "the fleet is gone", lambda: not self.healthy(application), secs=30
            )
        finally:
            for table in ("recoveryattempt", "recovery", "executor"):
                self.sql.execute(f"DELETE FROM executors_{table}")

    def newest_instance(self) -> str:
        """Return the id of the instance that started last."""
        row = self.sql.execute(
            "SELECT id::text FROM executors_instance ORDER BY started_at DESC LIMIT 1"
        ).fetchone()
        return "" if row is None else str(row[0])

    def complaints(self) -> list[str]:
        """Return the lines of the servers' log that report an unexpected error."""
        text = (self.logs / "server.log").read_text(errors="replace")
        marks = ("Traceback", "ERROR", "CRITICAL")
        return [line for line in text.splitlines() if any(m in line for m in marks)]


def rss_bytes(pid: int) -> int:
    """Return a process' resident memory."""
    return int(psutil.Process(pid).memory_info().rss)


def cpu_secs(pid: int) -> float:
    """Return the processor time a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
