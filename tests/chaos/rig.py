"""What the outage tests are made of: Conductor whose every part can be stopped.

`CHAOS=full` plays the whole scale (`make chaos`); else everything is shorter, but
each outage still lasts longer than the executors' timeout.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.stack import NotInTime, Stack, end, free_port, wait_until
from scripts.services import Server, make_postgres, make_redis
from tests.e2e.world import (
    FINAL,
    Application,
    Conductor,
    Embedded,
    Process,
    answers,
    make_database,
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much, and how long."""

    timeout_secs: int
    executors: int
    conductor_away_secs: float
    redis_away_secs: float
    postgres_away_secs: float
    fleet: int
    fleet_killed: int


FULL = os.environ.get("CHAOS") == "full"
SCALE = Scale(10, 20, 120, 60, 60, 500, 50) if FULL else Scale(3, 4, 8, 6, 6, 100, 10)
SDK = ("python", "3.2.0")


class Breakable(Conductor):
    """Conductor that can be taken away as a whole."""

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read Conductor's own database; `?` stands for a value."""
        raise NotImplementedError

    def take_away(self, *, at_once: bool) -> None:
        """Stop every process of Conductor: politely, or with SIGKILL."""
        raise NotImplementedError

    def bring_back(self) -> None:
        """Start what was taken away, and wait until it answers."""
        raise NotImplementedError

    def healthy(self, application: str) -> list[str]:
        return [
            row[0]
            for row in self.query(
                "SELECT e.executor_id FROM executors_executor e"
                " JOIN registry_application a ON a.id = e.application_id"
                " WHERE a.name = ? AND e.state = 'HEALTHY'",
                application,
            )
        ]

    def recoveries(self, application: str) -> list[tuple[Any, ...]]:
        """Return (executor id, state, ordered at, waiting reason), oldest first."""
        return self.query(
            "SELECT r.executor_id, r.state, r.requested_at, r.waiting_reason"
            " FROM executors_recovery r"
            " JOIN registry_application a ON a.id = r.application_id"
            " WHERE a.name = ? ORDER BY r.id",
            application,
        )

    def orders(self, application: str) -> int:
        """Return how many executors anybody was ever ordered to recover."""
        return sum(bool(row[2]) for row in self.recoveries(application))

    def state(self, application: str, executor_id: str) -> str:
        """Return the state of one executor; empty where it is not known."""
        found = self.query(
            "SELECT e.state FROM executors_executor e"
            " JOIN registry_application a ON a.id = e.application_id"
            " WHERE a.name = ? AND e.executor_id = ?",
            application,
            executor_id,
        )
        return str(found[0][0]) if found else ""

    def wait_confirmed(self, application: str, executor_id: str, secs: float) -> None:
        """Wait until the recovery of an executor is confirmed."""
        wait_until(
            f"the recovery of {executor_id} is confirmed",
            lambda: [
                row
                for row in self.recoveries(application)
                if row[:2] == (executor_id, "CONFIRMED")
            ],
            secs=secs,
            every=0.2,
        )


class BreakableEmbedded(Breakable, Embedded):
    """One process on SQLite."""

    def __init__(self, home: Path) -> None:
        self.database = home / "data" / "conductor.sqlite3"
        Embedded.__init__(self, home, timeout_secs=SCALE.timeout_secs)

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database, timeout=20)) as connection:
            return connection.execute(text, values).fetchall()

    def take_away(self, *, at_once: bool) -> None:
        end(self.process, at_once=at_once)

    def bring_back(self) -> None:
        self.start()


class BreakableServices(Breakable):
    """Two web processes, two workers and a beat, on their own PostgreSQL and Redis."""

    def __init__(self, stack: Stack, postgres: Server, redis: Server) -> None:
        self.stack, self.postgres, self.redis = stack, postgres, redis
        self.ports = [free_port(), free_port()]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.webs: dict[int, subprocess.Popen[bytes]] = {}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.beat: subprocess.Popen[bytes] | None = None
        self.bring_back()
        self.key = self.provision()

    def manage(self, *arguments: str) -> str:
        return self.stack.manage(*arguments)

    def logs(self) -> str:
        return (self.stack.logs / "server.log").read_text(errors="replace")

    def query(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        # Every time anew: the server may have been away in between.
        with psycopg.connect(self.stack.own_url, autocommit=True) as connection:
            found = connection.execute(text.replace("?", "%s"), values)  # type: ignore[arg-type]
            return found.fetchall()

    def started(self) -> list[subprocess.Popen[bytes]]:
        """Return the processes that should be running."""
        known = [*self.webs.values(), *self.workers, self.beat]
        return [process for process in known if process is not None]

    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Return those that are."""
        return [process for process in self.started() if is_running(process)]

    def take_away(self, *, at_once: bool) -> None:
        gone = self.processes()
        for process in gone:
            process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)
        for process in gone:
            end(process)

    def bring_back(self) -> None:
        for port in self.ports:
            if not is_running(self.webs.get(port)):
                self.webs[port] = self.stack.launch_web(port)
        self.workers = [worker for worker in self.workers if is_running(worker)]
        while len(self.workers) < 2:
            self.workers.append(self.stack.launch_background("worker"))
        if not is_running(self.beat):
            self.beat = self.stack.launch_background("beat")
        for url in self.urls:
            wait_until("Conductor answers", lambda url=url: answers(url), secs=90)

    def complaints(self) -> list[str]:
        """Return the log's lines that report what nobody expected."""
        return self.stack.complaints()


def is_running(process: subprocess.Popen[bytes] | None) -> bool:
    return process is not None and process.poll() is None


class Relay:
    """A way to a local port on which everything hangs while it is paused, as on a
    network that lost its packets."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        """Take no more connections; those that are open end with their peers."""
        self._flowing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flowing.wait()
                sink.sendall(data)
        for end_of_it in (source, sink):
            with contextlib.suppress(OSError):
                end_of_it.shutdown(socket.SHUT_RDWR)


@contextmanager
def breakable_services() -> Iterator[BreakableServices]:
    """Conductor in services mode on servers of its own, ended afterwards."""
    # Not below pytest's folder: PostgreSQL's own user may not look into that.
    home = Path(tempfile.mkdtemp(prefix="conductor-chaos-"))
    postgres, database_url = make_postgres(home)
    redis, redis_url = make_redis(home)
    try:
        postgres.start()
        redis.start()
        with Stack(
            organization="acme",
            LOG_LEVEL="INFO",
            DATABASE_URL=database_url,
            REDIS_URL=redis_url,
            CONDUCTOR_EXECUTOR_TIMEOUT_SECS=str(SCALE.timeout_secs),
        ) as stack:
            yield BreakableServices(stack, postgres, redis)
    finally:
        redis.stop()
        postgres.stop()
        shutil.rmtree(home, ignore_errors=True)


class Crew:
    """Real executors of one application, with work under way.

    Their database is on a server that no test takes away: it tells what really ran.
    """

    def __init__(self, conductor: Breakable, name: str, home: Path) -> None:
        self.conductor, self.name = conductor, name
        conductor.provision(name)
        url = make_database(name.replace("-", "_"))
        self.application = Application(conductor, name, *SDK, home, database_url=url)
        # Workflow id → number of steps, of what nobody interrupted.
        self.expected: dict[str, int] = {}
        self._begun = 0
        self._interrupted: set[str] = set()

    def start(self, count: int, **environment: str) -> list[Process]:
        """Start executors together; return them when all are HEALTHY, ids noted."""
        before = set(self.conductor.healthy(self.name))
        processes = [self.application.start(**environment) for _ in range(count)]

        def newcomers() -> set[str]:
            for process in processes:
                assert process.is_alive(), process.log()
            found = set(self.conductor.healthy(self.name)) - before
            return found if len(found) == count else set()

        found = wait_until("they connect", newcomers, secs=60 + 5 * count, every=0.3)
        for process in processes:
            process.executor_id = own_id(process, found)
        return processes

    def begin(self, processes: list[Process], *, steps: int, secs: float) -> list[str]:
        """Have each start one workflow; return the workflows' ids."""
        ids = []
        for process in processes:
            self._begun += 1
            workflow_id = f"w{self._begun}"
            process.begin(workflow_id, steps=steps, secs=secs)
            self.expected[workflow_id] = steps
            ids.append(workflow_id)
        return ids

    def begin_through(self, secs: float) -> None:
        """Have each start short work, and work that lasts longer than an outage."""
        self.begin(self.processes(), steps=3, secs=0.05)
        self.begin(self.processes(), steps=round(secs) + 10, secs=1)

    def processes(self) -> list[Process]:
        """Return the living executors."""
        return [p for p in self.application.processes if p.is_alive()]

    def ids(self) -> list[str]:
        """Return the living executors' ids."""
        return [process.executor_id for process in self.processes()]

    def forget(self, workflow_id: str) -> None:
        """Expect nothing more of a workflow: the step in flight may have run twice."""
        del self.expected[workflow_id]
        self._interrupted.add(workflow_id)

    def wait_finished(self, secs: float) -> None:
        """Wait until every workflow that was begun is final."""

        def finished() -> bool:
            statuses = self.application.database.statuses()
            return set(self.expected) <= {i for i, s in statuses.items() if s in FINAL}

        wait_until("all work is done", finished, secs=secs, every=0.3)

    def assert_ran_once(self) -> None:
        """The ground truth: everything succeeded, each step ran exactly once."""
        statuses = self.application.database.statuses()
        for workflow_id in self._interrupted:
            del statuses[workflow_id]
        assert statuses == dict.fromkeys(self.expected, "SUCCESS")
        attempts = self.application.database.rows(
            "workflow_uuid, recovery_attempts", "workflow_status"
        )
        assert {n for i, n in attempts if i in self.expected} == {1}
        notes = Counter(
            note
            for note in self.application.notes()
            if note.split()[0] not in self._interrupted
        )
        assert notes == Counter(
            f"{workflow_id} {step}"
            for workflow_id, steps in self.expected.items()
            for step in range(steps)
        )

    def stop(self) -> None:
        """End all of it."""
        self.application.stop()


def own_id(process: Process, candidates: set[str]) -> str:
    """Return which executor id a process has, as its own log says."""
    log = process.log()
    found = [candidate for candidate in candidates if candidate in log]
    if len(found) != 1:
        raise NotInTime(f"{len(found)} ids in its log:\n{log[-2000:]}")
    return found[0]
