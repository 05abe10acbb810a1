"""Starting and stopping Conductor: checks, embedded mode, the process tree."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from conductor_site import embedded, server, supervisor

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert server.is_loopback(host) is loopback


def test_no_authentication_refuses_an_open_door(settings: Settings) -> None:
    settings.CONDUCTOR_AUTH = "none"
    settings.CONDUCTOR_ALLOW_INSECURE = False

    server.refuse_open_door("127.0.0.1")
    with pytest.raises(server.StartError, match="CONDUCTOR_ALLOW_INSECURE=1"):
        server.refuse_open_door("0.0.0.0")

    settings.CONDUCTOR_ALLOW_INSECURE = True
    server.refuse_open_door("0.0.0.0")


def test_taken_port_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(server.StartError, match=f"cannot listen on .*:{port}"):
            server.bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port"), [("203.0.113.9", 8090), ("no.such.invalid", 1), ("::1", 70000)]
)
def test_impossible_address_is_said_in_words(host: str, port: int) -> None:
    with pytest.raises(server.StartError, match="cannot listen"):
        server.bind(host, port)


def test_data_directory_belongs_to_one_server(tmp_path: Path) -> None:
    with embedded.lock_data_dir(tmp_path), pytest.raises(embedded.AlreadyRunning):
        embedded.lock_data_dir(tmp_path)

    embedded.lock_data_dir(tmp_path).close()


def test_missing_service_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETRY_SECS", 0.01)
    problems = iter(["refused", "refused", ""])

    server.wait_for("the database", lambda: next(problems))

    assert next(problems, "asked no more") == "asked no more"


def test_service_that_never_comes_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "RETRY_SECS", 0.01)
    monkeypatch.setattr(server, "WAIT_SECS", 0.05)

    with pytest.raises(server.StartError, match=r"the database did not.*: refused"):
        server.wait_for("the database", lambda: "refused")


def test_only_one_service_is_refused(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "conductor_site.server"],
        cwd=ROOT,
        env=environment(tmp_path, 8090) | {"REDIS_URL": "redis://127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert "needs both DATABASE_URL and REDIS_URL" in result.stderr
    assert "Traceback" not in result.stderr


# --- The process tree ---


def supervised(seconds: dict[str, float | str]) -> subprocess.Popen[str]:
    """Supervise children that sleep, or run the statement given."""
    commands = {
        name: (
            sys.executable,
            "-c",
            task if isinstance(task, str) else f"import time; time.sleep({task})",
        )
        for name, task in seconds.items()
    }
    script = (
        "import sys; from conductor_site.supervisor import supervise;"
        f"sys.exit(supervise({commands!r}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_tree_ends_with_the_code_of_the_child_that_ended() -> None:
    started = time.monotonic()
    with supervised({"web": 60, "beat": "raise SystemExit(7)"}) as tree:
        assert tree.wait(10) == 7
    assert time.monotonic() - started < supervisor.STOP_SECS


def test_child_that_ends_well_still_ends_the_tree() -> None:
    with supervised({"web": 60, "beat": "pass"}) as tree:
        assert tree.wait(10) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_every_child(number: signal.Signals) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with supervised({"web": child, "beat": child}) as tree:
        assert tree.stdout is not None
        pids = [int(tree.stdout.readline()) for _ in range(2)]
        tree.send_signal(number)

        assert tree.wait(10) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_killed_supervisor_takes_its_children_along() -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with supervised({"web": child}) as tree:
        assert tree.stdout is not None
        pid = int(tree.stdout.readline())
        tree.kill()
        # The pipe ends when the last process that holds it is gone.
        assert tree.stdout.read() == ""
    deadline = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
                break
            os.kill(pid, 0)


# --- Embedded mode, whole ---


def environment(data_dir: Path, port: int) -> dict[str, str]:
    services = {"DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}
    inherited = {k: v for k, v in os.environ.items() if k not in services}
    return inherited | {"CONDUCTOR_DATA_DIR": str(data_dir), "PORT": str(port)}


@contextlib.contextmanager
def conductor(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = (data_dir / "log").open("w+")
    with subprocess.Popen(
        [sys.executable, "-m", "conductor_site.server"],
        cwd=ROOT,
        env=environment(data_dir, port),
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while "Conductor is at" not in (data_dir / "log").read_text():
                assert process.poll() is None, (data_dir / "log").read_text()
                assert time.monotonic() < deadline, (data_dir / "log").read_text()
                time.sleep(0.1)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            log.close()


def test_embedded_server_starts_and_stops(tmp_path: Path) -> None:
    with conductor(tmp_path) as (process, url):
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.status == 200
        started = time.monotonic()
        process.terminate()

        assert process.wait(6) == 0
        assert time.monotonic() - started < 5
    text = (tmp_path / "log").read_text()
    assert "Embedded mode" in text
    assert f"Data: {tmp_path}" in text
    assert "/accounts/signup/" in text
    assert "Traceback" not in text
