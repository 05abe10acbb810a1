"""What depends on the database is tested on SQLite too, whichever the test run uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    "registry/test_audit.py",
    "workflows/test_snapshots.py",
    "workflows/test_sync.py",
)


def test_on_sqlite(tmp_path: Path) -> None:
    if settings.CONDUCTOR_EMBEDDED:
        pytest.skip("this whole run is on SQLite")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in {"DATABASE_URL", "REDIS_URL"}
    }
    done = subprocess.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(ROOT / "tests" / name) for name in FILES),
        ],
        cwd=ROOT,
        env={**environment, "CONDUCTOR_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-4_000:]
