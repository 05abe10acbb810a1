"""`manage.py provision`, as it is typed, on databases that nobody prepared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.world import ROOT, make_database

Environment = dict[str, str]


def environment(**more: str) -> Environment:
    own = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "SECRET_KEY")
    return {k: v for k, v in os.environ.items() if k not in own} | more


@pytest.fixture(params=["embedded", "services"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Environment:
    """A database in which nothing is."""
    if request.param == "embedded":
        return environment(CONDUCTOR_DATA_DIR=str(tmp_path))
    if not os.environ.get("DATABASE_URL"):
        pytest.skip("needs PostgreSQL")
    return environment(
        DATABASE_URL=make_database("provision"),
        REDIS_URL=os.environ["REDIS_URL"],
        SECRET_KEY="a secret of this test",
        CONDUCTOR_DATA_DIR=str(tmp_path),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("provision")


def provision(env: Environment, *more: str) -> tuple[int, Any]:
    """Run it; return its exit code, and what it made or why it did not."""
    done = subprocess.run(
        [
            *(sys.executable, "manage.py", "provision", "--org=acme"),
            *("--email=A@Example.com", "--password=correct horse", "--json", *more),
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def test_provision_without_a_server_and_again(fresh: Environment) -> None:
    code, made = provision(fresh, "--app=orders", "--key-name=k1")

    assert code == 0
    assert (made["org"], made["apps"]) == ("acme", ["orders"])
    assert made["key"].startswith("dbos_")

    code, again = provision(fresh, "--app=orders", "--app=billing", "--key-name=k2")
    assert code == 0
    assert again["key"] != made["key"]

    code, why = provision(fresh, "--app=third", "--key-name=k1")
    assert code == 1
    assert "An API key named 'k1' exists already" in why

    # What failed left nothing behind: the application is made now.
    code, made = provision(fresh, "--app=third")
    assert (code, made["key"]) == (0, None)


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("--app=Not A Name", "Use 3 to 256 lowercase letters"),
        ("--email=nobody", "is no e-mail address"),
        ("--org=Not A Name", "Use 3 to 30 lowercase letters"),
    ],
)
def test_what_cannot_be_made_is_said(home: Path, argument: str, why: str) -> None:
    code, text = provision(environment(CONDUCTOR_DATA_DIR=str(home)), argument)

    assert code == 1
    assert why in text


def test_database_that_is_away_is_said(tmp_path: Path) -> None:
    code, text = provision(
        environment(
            DATABASE_URL="postgres://nobody@127.0.0.1:1/none",
            REDIS_URL="redis://127.0.0.1:1",
            SECRET_KEY="a secret of this test",
            CONDUCTOR_DATA_DIR=str(tmp_path),
        )
    )

    assert code == 1
    assert "database" in text
