"""What the end-to-end tests are made of: Conductor, SDK applications, a browser's HTTP.

Everything here is real: server processes, the SDKs from their registries, databases.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg

from benchmarks.stack import Stack, end, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).resolve().parent / "apps"
SDKS = ROOT / ".cache" / "sdks"
TIMEOUT_SECS = 5
EMAIL = "admin@example.com"
PASSWORD = "a long enough password"
FINAL = {"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}


# --- SDKs ---


def install_sdk(language: str, version: str) -> Path:
    """Install one SDK version into the project's cache, once; return its home."""
    home = SDKS / f"{language}-{version}"
    stamp = home / ".installed"
    if stamp.exists():
        return home
    home.mkdir(parents=True, exist_ok=True)
    if language == "python":
        venv.create(home, with_pip=True, clear=True)
        requirements = [f"dbos=={version}", "psycopg[binary]"]
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*command, *requirements], check=True)
    else:
        (home / "package.json").write_text('{"private": true}\n')
        package = f"@dbos-inc/dbos-sdk@{version}"
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", package]
        subprocess.run(command, cwd=home, check=True)
    stamp.touch()
    return home


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
    ) -> None:
        self.conductor, self.name, self.language = conductor, name, language
        self.sdk = install_sdk(language, version)
        self.home = home
        # Its first process connects to this one of the servers.
        self.number = number
        home.mkdir(exist_ok=True)
        self.notes_file = home / f"{name}.notes"
        self.processes: list[Process] = []
        if language == "python":
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
        if self.language == "python":
            command = [str(self.sdk / "bin" / "python"), "-u", str(APPS / "app.py")]
        else:
            command = ["node", str(APPS / "app.mjs")]
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
        assert self.popen.stdin is not None
        self.popen.stdin.write(f"start {workflow_id} {steps} {secs}\n")
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
        """Make what is missing of the applications; return a new key."""
        more = [part for name in applications for part in ("--app", name)]
        if permission:
            more += ["--permission", permission]
        printed = self.manage(
            *("provision", "--org=acme", f"--email={EMAIL}", f"--password={PASSWORD}"),
            *(f"--key-name=k{secrets.token_hex(3)}", "--json", *more),
        )
        key: str = json.loads(printed)["key"]
        return key

    def ledger(self, application: str) -> dict[str, list[dict[str, Any]]]:
        """Return the executors and the recoveries of an application."""
        printed = self.manage("ledger", "--org=acme", f"--app={application}", "--json")
        found: dict[str, list[dict[str, Any]]] = json.loads(printed)
        return found

    def healthy(self, application: str) -> list[str]:
        """Return the ids of the healthy executors."""
        return [
            row["executor_id"]
            for row in self.ledger(application)["executors"]
            if row["state"] == "HEALTHY"
        ]

    def recovery_of(self, application: str, executor_id: str) -> dict[str, Any]:
        """Return the newest ledger entry of an executor, or an empty one."""
        rows = self.ledger(application)["recoveries"]
        return next((row for row in rows if row["executor_id"] == executor_id), {})

    def console(self) -> Console:
        """Sign in."""
        return Console(self.urls[-1])


class Embedded(Conductor):
    """One process on SQLite, no services."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        self.urls = [f"http://127.0.0.1:{port}"]
        self.log_file = home / "conductor.log"
        own = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY")
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in own},
            "CONDUCTOR_DATA_DIR": str(home / "data"),
            "CONDUCTOR_EXECUTOR_TIMEOUT_SECS": str(TIMEOUT_SECS),
            "PORT": str(port),
        }
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "conductor_site.server"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.web_pids = [self.process.pid]
        wait_until("Conductor answers", lambda: answers(self.urls[0]), secs=60)
        self.key = self.provision()

    def manage(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment | {"LOG_LEVEL": "ERROR"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

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

    def post(self, path: str, **fields: Any) -> httpx.Response:
        """Send a form; fail with the page's text if it is refused."""
        token = self.http.cookies["conductor_csrf"]
        page = self.http.post(
            path,
            data={**fields, "csrfmiddlewaretoken": token},
            headers={"Referer": f"{self.http.base_url}/"},
        )
        assert page.status_code == 200, f"{page.status_code} {page.text[-3000:]}"
        return page

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
        labels = self.page("/orgs/acme/keys/new/").split("<label")
        ids = [
            match[1]
            for label in labels
            for application in applications
            if f">{application}<" in label
            and (match := re.search(r'name="applications" value="(\d+)"', label))
        ]
        assert len(ids) == len(applications)
        page = self.post(
            "/orgs/acme/keys/new/",
            name=name,
            permissions=permission,
            applications=ids,
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

    def rejected_times(self, key_name: str) -> list[int]:
        """Return how many attempts each row about a key counts."""
        rows = self.rejections().split("<tr>")
        return [
            int(re.findall(r'class="num">([\d,]+)<', row)[1].replace(",", ""))
            for row in rows
            if f"with key {key_name}:" in row
        ]
