"""The main job with real SDK processes, as `make demo` shows it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.stack import free_port
from tests.e2e.world import needs

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ["python", "typescript"]

pytestmark = [pytest.mark.e2e, pytest.mark.services]


def start(language: str, **environment: str) -> subprocess.Popen[str]:
    own = ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "REDIS_URL")
    inherited = {k: v for k, v in os.environ.items() if k not in own}
    return subprocess.Popen(
        [sys.executable, "scripts/demo.py", language],
        cwd=ROOT,
        env={**inherited, "PORT": str(free_port()), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def demos() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Both demos, run at the same time."""
    demos = {language: start(language, DEMO_ONCE="1") for language in LANGUAGES}
    yield demos
    for demo in demos.values():
        demo.send_signal(signal.SIGTERM)
        demo.wait(30)


@pytest.mark.parametrize(
    "language", [pytest.param(one, marks=needs(one)) for one in LANGUAGES]
)
def test_a_killed_executors_workflows_are_completed_by_another(
    demos: dict[str, subprocess.Popen[str]], language: str
) -> None:
    output, _ = demos[language].communicate(timeout=300)

    assert demos[language].returncode == 0, output
    result = json.loads(output.splitlines()[-1])
    assert result["completed"] == result["workflows"] > 36
    assert result["pending_left"] == 0
    assert result["completed_steps_run_again"] == 0
    assert result["taken_over_by"] != result["killed"]
    assert 10 <= result["detected_s"] <= result["ordered_s"] <= 13
    assert result["ordered_s"] <= result["confirmed_s"]


@needs("typescript")
def test_the_end_leaves_no_process_behind() -> None:
    demo = start("typescript")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "work on orders" in line:
            break
    family = psutil.Process(demo.pid).children(recursive=True)
    names = {process.name() for process in family}

    # Twice, as an impatient person does.
    demo.send_signal(signal.SIGINT)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=60)

    assert {"node", "postgres"} <= names
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_taken_port_is_said() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        demo = start("python", PORT=port)
        output, _ = demo.communicate(timeout=60)

    assert demo.returncode == 1
    assert f"Port {port} is taken" in output
