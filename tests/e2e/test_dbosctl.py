"""The official CLI, every command of it, against a real server and a real executor.

In three ways: with an API key; after `dbosctl login`, as the person who approved it;
and against a Conductor without accounts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from apps.registry.models import Permission
from benchmarks.stack import wait_until
from tests.e2e.world import ROOT, Embedded, Process, install_sdk

pytestmark = pytest.mark.e2e

VERSION = "v0.9.0"
MODULE = "github.com/dbos-inc/dbos-ctl/cmd/dbosctl"
HOME = ROOT / ".cache" / f"dbosctl-{VERSION}"
STEP_SECS = 1.0
MODES = ("key", "login", "no accounts")
# Of the shell, not of Conductor.
NOT_OURS = {("completion",), ("help",)}


@pytest.fixture(scope="module")
def binary() -> Path:
    """The CLI, from the Go module proxy into the project's cache, once."""
    if not (HOME / "dbosctl").exists():
        if shutil.which("go") is None:
            pytest.skip("go is not installed, so neither is dbosctl")
        settings = {"GOBIN": str(HOME), "GOFLAGS": "-buildvcs=false"}
        done = subprocess.run(
            ["go", "install", f"{MODULE}@{VERSION}"],
            env=os.environ | settings,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            # Not every module proxy serves it; there is nothing that we could mend.
            pytest.skip(f"dbosctl cannot be installed: {done.stderr.strip()[-300:]}")
    return HOME / "dbosctl"


class Cli:
    """dbosctl with a home of its own; keeps what was run."""

    def __init__(self, binary: Path, home: Path, **environment: str) -> None:
        self.binary = binary
        self.environment = {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "PATH": os.environ["PATH"],
            **environment,
        }
        self.credentials = home / "config" / "dbos" / "credentials.json"
        self.was_run: set[tuple[str, ...]] = set()

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """Run a command that ends with `code`; return what it prints."""
        done = subprocess.run(
            [str(self.binary), *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        self.was_run |= {arguments[:1], arguments[:2]}
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json"))

    def table(self, *arguments: str) -> list[dict[str, str]]:
        """The rows of a table by the names of its columns, at which they begin."""
        head, *lines = self.run(*arguments).splitlines()
        names = re.findall(r"\S+", head)
        starts = [head.index(name) for name in names]
        ends = [*starts[1:], None]
        return [
            {
                name: line[start:end].strip()
                for name, start, end in zip(names, starts, ends, strict=True)
            }
            for line in lines
        ]

    def commands(self, *parents: str) -> set[tuple[str, ...]]:
        """Every command there is that does something."""
        done = subprocess.run(
            [str(self.binary), *parents, "--help"], capture_output=True, text=True
        )
        block = done.stdout.partition("Available Commands:\n")[2].partition("\n\n")[0]
        found = {(*parents, line.split()[0]) for line in block.splitlines()}
        if not found:
            return {parents}
        return set().union(*(self.commands(*one) for one in found - NOT_OURS))

    def login(self, approve: Callable[[str], object]) -> None:
        """`dbosctl login`; `approve` is given the code that it shows."""
        login = subprocess.Popen(
            [str(self.binary), "login"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert login.stderr is not None
        shown = ""
        while "confirm the code" not in shown:
            line = login.stderr.readline()
            assert line, shown
            shown += line
        approve(shown.split()[-1])
        assert login.wait(30) == 0
        login.communicate()
        self.was_run.add(("login",))


class Setting:
    """One way of using the CLI: a server, an application with an executor, the CLI."""

    def __init__(
        self, mode: str, conductor: Embedded, binary: Path, home: Path
    ) -> None:
        self.mode, self.conductor = mode, conductor
        self.app = app = f"shop-of-{mode.split()[-1]}"
        self.cli = Cli(binary, home)
        url = conductor.urls[0]
        profile = ("config", "set", "here", "--url", url, "--app", app)
        if mode == "key":
            key = conductor.provision(app, permission=" ".join(ALL_BUT_TOKEN_WRITE))
            self.cli.environment["DBOS_TOKEN"] = key
            self.cli.run(*profile, "--auth", "bearer", "--org", "acme")
        elif mode == "login":
            conductor.provision(app)
            self.cli.run(*profile, "--issuer", url, "--client-id", "dbosctl")
        else:
            self.cli.run(*profile)
        self.cli.run("config", "use", "here")
        if mode == "login":
            self.log_in()
        if mode == "no accounts":
            self.cli.run("app", "register", app)
        self.process = self._start(home)

    def log_in(self) -> None:
        console = self.conductor.console()
        self.cli.login(
            lambda code: console.post("/device/", code=code, decision="approve")
        )

    def _start(self, home: Path) -> Process:
        process = Process(
            [
                str(install_sdk("python", "3.2.0") / "bin" / "python"),
                *("-u", str(ROOT / "examples" / "python" / "app.py"), "--load"),
            ],
            home / "executor.log",
            {
                "DBOS_APP_NAME": self.app,
                "DBOS_DATABASE": str(home / "app.sqlite"),
                "CONDUCTOR_URL": self.conductor.urls[0].replace("http", "ws", 1),
                "CONDUCTOR_KEY": self.conductor.key,
                "STEP_NOTES": str(home / "steps.log"),
                "STEP_SECS": str(STEP_SECS),
                "LOAD": "6",
            },
        )
        healthy = wait_until(
            "it connects", lambda: self.conductor.healthy(self.app), secs=60
        )
        process.executor_id = healthy[0]
        return process

    def order(self, number: int) -> str:
        """The id of a workflow; number 0 runs to its end, nobody touches it."""
        return f"order-{self.process.executor_id[:8]}-{number}"

    def status(self, workflow_id: str) -> str:
        found: str = self.cli.json("workflow", "get", workflow_id)["status"]
        return found


ALL_BUT_TOKEN_WRITE = [p for p in Permission.values if p != Permission.TOKEN_WRITE]


@pytest.fixture(scope="module")
def settings(
    binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Setting]]:
    """Every mode at once, so that their metrics are collected meanwhile."""
    with ExitStack() as stack:
        conductors = {}
        for auth in ("password", "none"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CONDUCTOR_AUTH", auth)
                patch.setenv("CONDUCTOR_METRICS_PERIOD_SECS", "1")
                conductors[auth] = Embedded(tmp_path_factory.mktemp(auth))
            stack.callback(conductors[auth].stop)
        made = {}
        for mode in MODES:
            conductor = conductors["none" if mode == "no accounts" else "password"]
            home = tmp_path_factory.mktemp("dbosctl")
            made[mode] = Setting(mode, conductor, binary, home)
            stack.callback(made[mode].process.kill)
        yield made


@pytest.fixture(params=MODES)
def setting(request: pytest.FixtureRequest, settings: dict[str, Setting]) -> Setting:
    return settings[request.param]


@pytest.fixture
def cli(setting: Setting) -> Cli:
    return setting.cli


def is_time(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text) is not None


# --- Itself ------------------------------------------------------------------------


def test_profiles_and_version(cli: Cli, setting: Setting) -> None:
    assert "here" in cli.run("config", "list")
    assert setting.conductor.urls[0] in cli.run("config", "show", "here")
    assert "dbosctl" in cli.run("version")


def test_whoami(cli: Cli, setting: Setting) -> None:
    if setting.mode == "key":
        # A key is nobody.
        cli.run("whoami", code=1)
    elif setting.mode == "login":
        assert cli.json("whoami")["orgName"] == "acme"
        assert "admin@example.com" in cli.run("whoami")
    else:
        assert cli.json("whoami") == {"name": "local", "orgName": "local"}


# --- Applications ------------------------------------------------------------------


def test_applications(cli: Cli, setting: Setting) -> None:
    name = f"bare-{setting.app}"
    cli.run("app", "register", name)
    assert {"NAME": name, "STATUS": "UNAVAILABLE", "LANGUAGE": ""} in cli.table(
        "app", "list"
    )
    shop = next(r for r in cli.table("app", "list") if r["NAME"] == setting.app)
    assert (shop["STATUS"], shop["LANGUAGE"]) == ("AVAILABLE", "python")
    assert cli.json("app", "executors", name) == []

    cli.run("app", "update", name, "--executor-timeout-secs", "42", "--private-mode")
    found = cli.json("app", "get", name)
    assert (found["executorTimeoutSecs"], found["privateMode"]) == (42, True)
    assert "UNAVAILABLE" in cli.run("app", "get", name)

    cli.run("app", "delete", name, code=1)
    cli.run("app", "delete", name, "--force")
    cli.run("app", "get", name, code=4)


def test_executors(cli: Cli, setting: Setting) -> None:
    (row,) = cli.table("app", "executors", setting.app)

    assert row["EXECUTOR"] == setting.process.executor_id
    assert (row["STATUS"], row["LANGUAGE"]) == ("HEALTHY", "python")
    assert row["VERSION"] == "1.0.0"
    assert row["HOSTNAME"]
    assert is_time(row["UPDATED"])
    assert cli.json("app", "executors", setting.app)[0]["dbosVersion"] == "3.2.0"


def test_versions(cli: Cli, setting: Setting) -> None:
    (row,) = cli.table("app", "versions", setting.app)

    assert row["NAME"] == "1.0.0"
    assert row["ID"]
    assert is_time(row["TIMESTAMP"])
    assert is_time(row["CREATED"])
    cli.run("app", "set-version", setting.app, "1.0.0")
    cli.run("app", "set-version", setting.app, "no such version", code=4)


# --- Workflows: reading ------------------------------------------------------------


def test_workflow_that_ran(cli: Cli, setting: Setting) -> None:
    order = setting.order(0)
    wait_until("it ends", lambda: setting.status(order) == "SUCCESS", secs=60)

    assert "process_order" in cli.run("workflow", "get", order)
    rows = cli.table("workflow", "steps", order)
    assert [row["STEP"] for row in rows] == [str(n + 1) for n in range(len(rows))]
    names = {row["NAME"]: row for row in rows}
    assert {"reserve", "charge"} <= set(names)
    assert is_time(names["reserve"]["STARTED"])
    assert is_time(names["reserve"]["COMPLETED"])
    assert sum(bool(row["CHILD"]) for row in rows) >= 2
    (event,) = cli.table("workflow", "events", order)
    assert event["KEY"] == "progress"
    assert "done" in event["VALUE"]


def test_workflow_that_failed(cli: Cli, setting: Setting) -> None:
    bad = f"bad-{setting.process.executor_id[:8]}"
    wait_until("it fails", lambda: setting.status(bad) == "ERROR", secs=30)

    assert "no address" in cli.json("workflow", "get", bad)["error"]
    (step,) = cli.table("workflow", "steps", bad)
    assert "no address" in step["ERROR"]


def test_list_of_workflows(cli: Cli, setting: Setting) -> None:
    order = setting.order(0)
    (row,) = cli.table("workflow", "list", "--id", order)
    assert row["WORKFLOW-ID"] == order
    assert row["NAME"] == "process_order"
    assert row["STATUS"]
    assert is_time(row["CREATED"])

    def ids(*filters: str) -> list[str]:
        return cli.run("workflow", "list", *filters, "-o", "ids").split()

    every = ids()
    assert len(every) >= 7
    assert ids("--name", "bad_order") == [f"bad-{setting.process.executor_id[:8]}"]
    assert ids("--status", "ERROR") == ids("--name", "bad_order")
    assert len(ids("--limit", "2")) == 2
    assert ids("--since", "1h", "--name", "bad_order")
    assert ids("--until", "1h") == []
    assert ids("--app-version", "none of these") == []
    orders = cli.json("workflow", "list", "--name", "process_order")
    oldest_first = [one["workflowId"] for one in orders]
    # Those of one moment (a second, on an old SQLite) are ordered by id either way.
    orders.sort(key=lambda one: datetime.fromisoformat(one["createdAt"]), reverse=True)
    newest_first = [one["workflowId"] for one in orders]
    assert len(orders) >= 6
    assert ids("--name", "process_order") == oldest_first
    assert ids("--desc", "--name", "process_order") == newest_first
    assert ids("--offset", "1", "--name", "process_order") == oldest_first[1:]
    assert cli.json("workflow", "list", "--queue", "no such queue") == []
    assert isinstance(cli.json("workflow", "list", "--queued"), list)
    assert isinstance(cli.json("workflow", "list", "--user", "nobody"), list)


# --- Workflows: ordering -----------------------------------------------------------


def test_cancel_resume_and_delete_one(cli: Cli, setting: Setting) -> None:
    order = fork(setting)
    cli.run("workflow", "cancel", order, "--children")
    assert setting.status(order) == "CANCELLED"

    cli.run("workflow", "resume", order)
    wait_until("it ends", lambda: setting.status(order) == "SUCCESS", secs=60)
    cli.run("workflow", "delete", order, "--children")
    cli.run("workflow", "get", order, code=4)


def test_cancel_resume_and_delete_many(cli: Cli, setting: Setting) -> None:
    orders = [fork(setting), fork(setting)]
    cli.run("workflow", "cancel", *orders)
    assert {setting.status(order) for order in orders} == {"CANCELLED"}

    # As in a pipeline: ids come from a list.
    cli.run("workflow", "resume", "-", stdin="\n".join(orders))
    assert "CANCELLED" not in {setting.status(order) for order in orders}
    cli.run("workflow", "cancel", *orders)
    cli.run("workflow", "delete", *orders)
    for order in orders:
        cli.run("workflow", "get", order, code=4)


def fork(setting: Setting) -> str:
    """Start a copy of an order that takes seconds; return its id."""
    return setting.cli.run("workflow", "fork", setting.order(1)).strip()


def test_fork(cli: Cli, setting: Setting) -> None:
    name = f"fork of {setting.order(1)}/1?"
    arguments = ("--new-id", name, "--start-step", "0", "--app-version", "1.0.0")
    found = cli.json("workflow", "fork", setting.order(1), *arguments)

    assert found["workflowId"] == name
    assert cli.json("workflow", "get", name)["forkedFrom"] == setting.order(1)
    queued = cli.run("workflow", "fork", setting.order(1), "--queue", "packing").strip()
    assert cli.json("workflow", "get", queued)["queueName"] == "packing"
    cli.run("workflow", "cancel", name, queued)


# --- Queues and schedules ----------------------------------------------------------


def test_queues(cli: Cli) -> None:
    row = next(r for r in cli.table("queue", "list") if r["NAME"] == "packing")

    assert row["CONCURRENCY"] == "4"
    assert float(row["POLLING"]) > 0
    assert row["PRIORITY"] == "true"
    assert cli.json("queue", "get", "packing")["concurrency"] == 4
    assert "concurrency" in cli.run("queue", "get", "packing")
    cli.run("queue", "get", "no such queue", code=4)


def test_schedules(cli: Cli) -> None:
    (row,) = cli.table("schedule", "list")
    assert row["NAME"] == "tidy"
    assert row["STATUS"] == "ACTIVE"
    assert row["CRON"] == "* * * * *"
    assert row["WORKFLOW"].endswith("tidy")

    cli.run("schedule", "pause", "tidy")
    assert cli.json("schedule", "get", "tidy")["status"] == "PAUSED"
    cli.run("schedule", "resume", "tidy")
    assert "ACTIVE" in cli.run("schedule", "get", "tidy")

    triggered = cli.run("schedule", "trigger", "tidy").strip()
    assert cli.json("workflow", "get", triggered)["workflowName"].endswith("tidy")
    window = ("--since", "5m", "--until", "1m")
    filled = cli.run("schedule", "backfill", "tidy", *window).split()
    assert 3 <= len(filled) <= 5
    assert cli.json("workflow", "get", filled[0])["status"]
    cli.run("schedule", "get", "no such schedule", code=4)


# --- Keys and permissions ----------------------------------------------------------


def test_permissions(cli: Cli) -> None:
    rows = {row["PERMISSION"] for row in cli.table("permission", "list")}

    assert rows == set(Permission.values)
    assert set(cli.json("permission", "list")) == rows


def test_api_keys(cli: Cli, setting: Setting) -> None:
    if setting.mode == "key":
        assert "token.write" in cli.run("api-key", "create", "k2", code=1)
        cli.run("api-key", "delete", "k2", code=1)
        assert cli.table("api-key", "list")
        return
    name = f"made by {setting.mode}"
    scope = ("--app", setting.app, "--permission", "application.read")
    secret = cli.run("api-key", "create", name, *scope).strip()
    assert secret.startswith("dbos_")
    assert cli.json("api-key", "create", "plain")["token"].startswith("dbos_")

    rows = {row["NAME"]: row for row in cli.table("api-key", "list")}
    assert rows[name]["PERMISSIONS"] == "application.read"
    assert rows[name]["APPS"] not in ("", rows["plain"]["APPS"])
    assert rows["plain"]["PERMISSIONS"] == "websocket.connect"
    assert is_time(rows[name]["CREATED"])
    if setting.mode == "login":
        other = Cli(cli.binary, cli.credentials.parent, DBOS_TOKEN=secret)
        target = ("--url", setting.conductor.urls[0], "--org", "acme")
        assert other.run("app", "get", setting.app, *target)

    for each in (name, "plain"):
        cli.run("api-key", "delete", each)
    assert name not in {row["NAME"] for row in cli.table("api-key", "list")}


# --- Exit codes --------------------------------------------------------------------


def test_exit_codes(cli: Cli, setting: Setting) -> None:
    cli.run("app", "list", "--no-such-flag", code=2)
    assert "No such application" in cli.run("app", "get", "no-such-app", code=4)
    cli.run("workflow", "get", "no such workflow", code=4)
    cli.run("workflow", "steps", "no such workflow", code=4)
    cli.run("app", "list", "--org", "other", code=4)
    cli.run("app", "register", "No Such Name", code=1)
    if setting.mode != "no accounts":
        wrong = Cli(cli.binary, cli.credentials.parent, DBOS_TOKEN="dbos_wrong")
        target = ("--url", setting.conductor.urls[0], "--org", "acme")
        assert "dbosctl login" in wrong.run("app", "list", *target, code=3)


# --- After the login ---------------------------------------------------------------


@pytest.fixture
def signed_in(settings: dict[str, Setting]) -> Setting:
    return settings["login"]


def test_expired_token_is_renewed(signed_in: Setting) -> None:
    cli = signed_in.cli
    kept = json.loads(cli.credentials.read_text())
    kept["here"]["expiresAt"] = int(time.time()) - 1
    cli.credentials.write_text(json.dumps(kept))

    assert cli.json("app", "list")
    renewed = json.loads(cli.credentials.read_text())["here"]
    assert renewed["token"] != kept["here"]["token"]
    assert renewed["organization"] == "acme"


def test_signed_out_device_is_refused_within_seconds(signed_in: Setting) -> None:
    console = signed_in.conductor.console()
    for pk in re.findall(r"/devices/(\d+)/sign-out/", console.page("/devices/")):
        console.post(f"/devices/{pk}/sign-out/")

    refused = signed_in.cli.run("app", "list", code=3)
    assert "dbosctl login" in refused
    signed_in.log_in()
    assert signed_in.cli.json("app", "list")


# Late: the first minute has to be over.
def test_metrics(cli: Cli, setting: Setting) -> None:
    rows = wait_until(
        "metrics are collected",
        lambda: cli.table("app", "metrics", setting.app, "--since", "1h"),
        secs=90,
        every=1,
    )

    for row in rows:
        assert row["METRIC"]
        assert row["TYPE"]
        assert int(row["VALUE"]) >= 0
        assert is_time(row["BUCKET"])
        assert int(row["GRANULARITY"]) > 0


def test_logout(cli: Cli, setting: Setting) -> None:
    cli.run("logout")
    if setting.mode == "login":
        cli.run("app", "list", code=1)


# Last: what stands above has run them all.
def test_every_command_was_run(cli: Cli, setting: Setting) -> None:
    needless = set() if setting.mode == "login" else {("login",)}
    assert cli.commands() - cli.was_run == needless
