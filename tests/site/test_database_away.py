"""Pages while the database is away: 503 and a sentence, not an error page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.stack import free_port

ROOT = Path(__file__).resolve().parents[2]
ASK = """
import django
django.setup()
from django.test import Client
for path, headers in (
    ("/orgs/acme/apps/", {}),
    ("/orgs/acme/apps/", {"HX-Request": "true"}),
    ("/healthz", {}),
    ("/v2/orgs/acme/apps", {"Authorization": f"Bearer dbos_{'x' * 8}_{'y' * 43}"}),
):
    # A cookie, so that the session is looked up.
    client = Client(headers=headers)
    client.cookies["conductor_session"] = "x" * 32
    answer = client.get(path)
    text = " ".join(answer.content.decode().split())
    print(answer.status_code, answer.headers.get("Retry-After"), text)
"""


@pytest.fixture(scope="module")
def answers() -> list[str]:
    """What a process says whose PostgreSQL and Redis are not there."""
    environment = {
        **os.environ,
        "DATABASE_URL": f"postgres://nobody@127.0.0.1:{free_port()}/none",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "SECRET_KEY": "for this test only",
        "ALLOWED_HOSTS": "testserver",
        "DJANGO_SETTINGS_MODULE": "conductor_site.settings",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_page_says_what_is_missing(answers: list[str]) -> None:
    assert answers[0].startswith("503 10 ")
    assert "Conductor cannot reach its database" in answers[0]


def test_a_polled_fragment_gets_one_sentence(answers: list[str]) -> None:
    assert (
        answers[1] == "503 10 Conductor cannot reach its database. Trying again helps."
    )


def test_health_names_what_fails(answers: list[str]) -> None:
    assert (
        answers[2] == '503 None {"status": "failing", "failing": ["database", "redis"]}'
    )


def test_the_api_answers_with_a_problem(answers: list[str]) -> None:
    assert answers[3].startswith('503 10 {"title":"Service Unavailable","status":503')
    assert "Conductor cannot reach its database" in answers[3]
