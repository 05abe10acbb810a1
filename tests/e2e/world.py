"""What the end-to-end tests are made of: Conductor, SDK applications, a browser's HTTP.

Everything here is real: server processes, the SDKs from their registries, databases.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import html
import json
import os
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest

from benchmarks.stack import Stack, end, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).resolve().parent / "apps"
SDKS = ROOT / ".cache" / "sdks"
TIMEOUT_SECS = 5
EMAIL = "admin@example.com"
PASSWORD = "a long enough password"
FINAL = {"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}


# --- SDKs ---

TOOLS = {"python": "python3", "typescript": "npm", "go": "go", "java": "mvn"}


def needs(language: str) -> pytest.MarkDecorator:
    """Skip where the tool of this language is missing."""
    tool = TOOLS[language]
    return pytest.mark.skipif(
        shutil.which(tool) is None, reason=f"{tool} is not installed"
    )


@contextlib.contextmanager
def alone_with(home: Path) -> Iterator[None]:
    """Hold other threads and processes off a place of the cache."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install_sdk(language: str, version: str) -> Path:
    """Install one SDK version into the project's cache, once; return its home.

    What is compiled is compiled there too, again when its source changes.
    """
    home = SDKS / f"{language}-{version}"
    sources = sorted(p for p in (APPS / language).rglob("*") if p.is_file())
    state = hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()
    stamp = home / ".installed"
    with alone_with(home):
        if not stamp.exists() or (sources and stamp.read_text() != state):
            home.mkdir(parents=True, exist_ok=True)
            _INSTALL[language](home, version)
            stamp.write_text(state)
    return home


def _install_python(home: Path, version: str) -> None:
    venv.create(home, with_pip=True, clear=True)
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
    subprocess.run([*command, f"dbos=={version}", "psycopg[binary]"], check=True)


def _install_typescript(home: Path, version: str) -> None:
    (home / "package.json").write_text('{"private": true}\n')
    package = f"@dbos-inc/dbos-sdk@{version}"
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", package]
    subprocess.run(command, cwd=home, check=True)


def _install_go(home: Path, version: str) -> None:
    module = f"github.com/dbos-inc/dbos-transact-golang@v{version}"
    shutil.rmtree(home)
    shutil.copytree(APPS / "go", home)
    for command in (
        ["go", "mod", "init", "app"],
        ["go", "get", module],
        ["go", "mod", "tidy"],
        ["go", "build", "-o", "app", "."],
    ):
        subprocess.run(command, cwd=home, check=True, capture_output=True)


def _install_java(home: Path, version: str) -> None:
    shutil.rmtree(home)
    shutil.copytree(APPS / "java", home)
    command = ["mvn", "-q", "compile", "dependency:copy-dependencies"]
    subprocess.run([*command, f"-Ddbos.version={version}"], cwd=home, check=True)


_INSTALL: dict[str, Callable[[Path, str], None]] = {
    "python": _install_python,
    "typescript": _install_typescript,
    "go": _install_go,
    "java": _install_java,
}


class Database:
    """An application's own database: the ground truth of what became of its work."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, columns: str, table: str) -> list[tuple[Any, ...]]:
        """Read a table of the SDK's."""
        if self.url.startswith("sqlite"):
            path = self.url.removeprefix("sqlite:///")
            # Not read-only: a killed process leaves a journal to roll back.
            with contextlib.closing(sqlite3.connect(path, timeout=20)) as db:
                return db.execute(f"SELECT {columns} FROM {table}").fetchall()
        with psycopg.connect(self.url) as connection:
            query = f"SELECT {columns} FROM dbos.{table}"
            return connection.execute(query).fetchall()  # type: ignore[arg-type]

    def statuses(self) -> dict[str, str]:
        """Return workflow id → status."""
        return dict(self.rows("workflow_uuid, status", "workflow_status"))

    def steps(self) -> set[tuple[str, int]]:
        """Return the finished steps as (workflow id, step number)."""
        return set(self.rows("workflow_uuid, function_id", "operation_outputs"))


class Application:
    """One application: a name, an SDK, a database, and its processes."""

    def __init__(
        self,
        conductor: Conductor,
        name: str,
        language: str,
        version: str,
        home: Path,
        *,
        number: int = 0,
        database_url: str = "",
        program: str = "app",
    ) -> None:
        self.program = program
        self.conductor, self.name = conductor, name
        self.language, self.version = language, version
        self.sdk = install_sdk(language, version)
        self.home = home
        # Its first process connects to this one of the servers.
        self.number = number
        home.mkdir(exist_ok=True)
        self.notes_file = home / f"{name}.notes"
        self.processes: list[Process] = []
        if database_url:
            url = database_url
        elif language == "python":
            url = f"sqlite:///{home / name}.sqlite"
        else:
            url = make_database(name.replace("-", "_"))
        self.database = Database(url)

    def start(self, **environment: str) -> Process:
        """Start one process of it; the next one connects to the next server."""
        urls = self.conductor.urls
        url = urls[(self.number + len(self.processes)) % len(urls)].replace(
            "http", "ws", 1
        )
        command = {
            "python": [
                str(self.sdk / "bin" / "python"),
                "-u",
                str(APPS / f"{self.program}.py"),
            ],
            "typescript": ["node", str(APPS / f"{self.program}.mjs")],
            "go": [str(self.sdk / "app")],
            "java": [
                *("java", "-cp"),
                f"{self.sdk}/target/classes:{self.sdk}/target/dependency/*",
                "App",
            ],
        }[self.language]
        process = Process(
            command,
            self.home / f"{self.name}-{len(self.processes)}.log",
            {
                "APP": self.name,
                "APP_DATABASE_URL": self.database.url,
                "APP_VERSION": "v1",
                "CONDUCTOR_URL": url,
                "CONDUCTOR_KEY": self.conductor.key,
                "NOTES": str(self.notes_file),
                "SDK_HOME": str(self.sdk),
                **environment,
            },
        )
        self.processes.append(process)
        return process

    def start_connected(self, **environment: str) -> Process:
        """Start one process and wait until Conductor knows it; note its id."""
        before = set(self.conductor.healthy(self.name))
        process = self.start(**environment)

        def newcomers() -> set[str]:
            assert process.is_alive(), process.log()
            return set(self.conductor.healthy(self.name)) - before

        process.executor_id = wait_until("it connects", newcomers, secs=60).pop()
        return process

    def notes(self) -> list[str]:
        """Return a line `workflow-id step` for each step that ran to its end."""
        with contextlib.suppress(FileNotFoundError):
            return self.notes_file.read_text().splitlines()
        return []

    def stop(self) -> None:
        """Kill every process of it."""
        for process in self.processes:
            process.kill()


class Process:
    """One process of an application: an executor."""

    def __init__(
        self, command: list[str], log: Path, environment: dict[str, str]
    ) -> None:
        self.log_file = log
        self.executor_id = ""
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                text=True,
                cwd=log.parent,
                env={k: os.environ[k] for k in kept if k in os.environ} | environment,
                start_new_session=True,
            )

    def begin(self, workflow_id: str, *, steps: int, secs: float) -> None:
        """Have it start a workflow."""
        self._order(f"start {workflow_id} {steps} {secs}")

    def enqueue(self, prefix: str, count: int) -> None:
        """Have it put workflows into a queue that is held up."""
        self._order(f"enqueue {prefix} {count}")

    def begin_failing(self, workflow_id: str) -> None:
        """Have it start a workflow that fails."""
        self._order(f"fail {workflow_id}")

    def begin_talking(self, workflow_id: str) -> None:
        """Have it start a workflow that others hear from and talk to."""
        self._order(f"talk {workflow_id}")

    def _order(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"{line}\n")
        self.popen.stdin.flush()

    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def log_line(self, part: str) -> str:
        """Return the first complete line of its log with this in it, or nothing."""
        lines = self.log().splitlines(keepends=True)
        whole = (line for line in lines if line.endswith("\n"))
        return next((line for line in whole if part in line), "")

    def kill(self) -> None:
        """SIGKILL, as the machine would."""
        if self.is_alive():
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        if self.popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.popen.stdin.close()


def make_database(name: str) -> str:
    """Make a fresh database on the tests' PostgreSQL and return its URL."""
    url = os.environ["DATABASE_URL"]
    name = f"{name}_{secrets.token_hex(3)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(url)._replace(scheme="postgresql", path=f"/{name}"))


# --- Conductor ---


class Conductor:
    """Conductor with an organization `acme` and its admin; see the two kinds below."""

    urls: list[str]
    web_pids: list[int]
    key: str

    def manage(self, *arguments: str) -> str:
        """Run a management command; return what it prints."""
        raise NotImplementedError

    def logs(self) -> str:
        """Return everything that its processes wrote."""
        raise NotImplementedError

    def provision(self, *applications: str, permission: str = "") -> str:
        """Make what is missing of the applications; return a new key. `permission`
        may be several, with spaces between them."""
        more = [part for name in applications for part in ("--app", name)]
        more += [part for one in permission.split() for part in ("--permission", one)]
        printed = self.manage(
            *("provision", "--org=acme", f"--email={EMAIL}", f"--password={PASSWORD}"),
            *(f"--key-name=k{secrets.token_hex(3)}", "--json", *more),
        )
        key: str = json.loads(printed)["key"]
        return key

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Read Conductor's own database; a management command takes a second."""
        raise NotImplementedError

    def healthy(self, application: str) -> list[str]:
        """Return the ids of the healthy executors."""
        rows = self.rows(
            "SELECT e.executor_id FROM executors_executor e"
            " JOIN registry_application a ON a.id = e.application_id"
            f" WHERE a.name = '{application}' AND e.state = 'HEALTHY'"
        )
        return [row[0] for row in rows]

    def recovery_of(self, application: str, executor_id: str) -> dict[str, Any]:
        """Return the newest ledger entry of an executor, or an empty one."""
        columns = ("state", "taken_over_by", "pending_count", "pending_left")
        rows = self.rows(
            f"SELECT {', '.join(f'r.{name}' for name in columns)}"
            " FROM executors_recovery r"
            " JOIN registry_application a ON a.id = r.application_id"
            f" WHERE a.name = '{application}' AND r.executor_id = '{executor_id}'"
            " ORDER BY r.id DESC LIMIT 1"
        )
        return dict(zip(columns, rows[0], strict=True)) if rows else {}

    def refusals_of(self, key_name: str) -> list[int]:
        """Return how many attempts each row about a key counts."""
        rows = self.rows(
            "SELECT r.count FROM executors_rejectedconnection r"
            " JOIN registry_apikey k ON k.id = r.api_key_id"
            f" WHERE k.name = '{key_name}'"
        )
        return [row[0] for row in rows]

    def console(self) -> Console:
        """Sign in."""
        return Console(self.urls[-1])


class Embedded(Conductor):
    """One process on SQLite, no services."""

    def __init__(self, home: Path, *, timeout_secs: int = TIMEOUT_SECS) -> None:
        port = free_port()
        self.urls = [f"http://127.0.0.1:{port}"]
        self.log_file = home / "conductor.log"
        own = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY")
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in own},
            "CONDUCTOR_DATA_DIR": str(home / "data"),
            "CONDUCTOR_EXECUTOR_TIMEOUT_SECS": str(timeout_secs),
            "PORT": str(port),
        }
        self.start()
        self.key = self.provision()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "conductor_site.server"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.web_pids = [self.process.pid]
        wait_until("Conductor answers", lambda: answers(self.urls[0]), secs=60)

    def manage(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment | {"LOG_LEVEL": "ERROR"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        path = Path(self.environment["CONDUCTOR_DATA_DIR"]) / "conductor.sqlite3"
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as db:
            return db.execute(sql).fetchall()

    def logs(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self) -> None:
        end(self.process)


class Services(Conductor):
    """Two web processes, two workers and a beat on PostgreSQL and Redis."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        stack.environment["CONDUCTOR_EXECUTOR_TIMEOUT_SECS"] = str(TIMEOUT_SECS)
        ports = [free_port(), free_port()]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.web_pids = [stack.start_web(port).pid for port in ports]
        stack.start_background(workers=2)
        self.key = self.provision()

    def manage(self, *arguments: str) -> str:
        return self.stack.manage(*arguments)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.own_url) as connection:
            return connection.execute(sql).fetchall()  # type: ignore[arg-type]

    def logs(self) -> str:
        return (self.stack.logs / "server.log").read_text(errors="replace")


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/healthz").status_code == 200
    return False


class Console:
    """The console as a browser without JavaScript uses it, signed in as the admin."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=40, follow_redirects=True)
        self.http.get("/accounts/login/")
        page = self.post("/accounts/login/", login=EMAIL, password=PASSWORD)
        assert "/accounts/login" not in page.url.path, page.text

    def post(self, path: str, *, page: str = "/", **fields: Any) -> httpx.Response:
        """Send a form that is on `page`; fail with the text if it is refused."""
        token = self.http.cookies["conductor_csrf"]
        answer = self.http.post(
            path,
            data={**fields, "csrfmiddlewaretoken": token},
            headers={"Referer": f"{str(self.http.base_url).rstrip('/')}{page}"},
        )
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[-3000:]}"
        return answer

    def page(self, path: str, **query: Any) -> str:
        """Return a page's text."""
        page = self.http.get(path, params=query)
        assert page.status_code == 200, f"{page.status_code} {page.text[-3000:]}"
        return page.text

    def make_key(
        self,
        name: str,
        *applications: str,
        permission: str = "websocket.connect",
    ) -> str:
        """Make an API key, for all applications unless some are named."""
        page = self.post(
            "/orgs/acme/keys/new/",
            name=name,
            permissions=permission,
            applications=list(applications),
            expires="30",
        )
        found = re.search(r'value="(dbos_[^"]+)"', page.text)
        assert found is not None, page.text
        return found[1]

    def revoke_key(self, name: str) -> None:
        """Revoke an API key by its name."""
        page = self.page("/orgs/acme/keys/")
        found = re.search(
            rf'action="([^"]+/revoke/)"[^>]*data-confirm="Revoke key {name}\?', page
        )
        assert found is not None, page
        self.post(found[1])

    def rejections(self) -> str:
        """Return the text of the page of rejected connections."""
        return html.unescape(self.page("/orgs/acme/rejected/"))

    def status(self, path: str) -> int:
        """Return the status that a page answers with."""
        return self.http.get(path).status_code
