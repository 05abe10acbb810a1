"""The main job with real SDK processes, as `make demo` shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
def test_a_killed_executors_workflows_are_completed_by_another() -> None:
    environment = {**os.environ, "DEMO_ONCE": "1"}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    done = subprocess.run(
        [sys.executable, "scripts/demo.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["completed"] == result["workflows"] > 0
    assert result["pending_left"] == 0
    assert result["completed_steps_run_again"] == 0
    assert result["taken_over_by"] != result["killed"]
