"""An outage of ours harms nobody: everyone comes back, nothing runs twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.checks import (
    assert_a_killed_executor_is_recovered,
    assert_all_came_back,
)
from tests.chaos.rig import FULL, SCALE, BreakableServices, Crew

pytestmark = [pytest.mark.e2e, pytest.mark.services]

Outage = Callable[[BreakableServices], None]


def conductor_is_away(services: BreakableServices) -> None:
    services.take_away(at_once=False)
    time.sleep(SCALE.conductor_away_secs)
    services.bring_back()


def conductor_is_killed(services: BreakableServices) -> None:
    services.take_away(at_once=True)
    time.sleep(SCALE.timeout_secs + 4)
    services.bring_back()


def redis_is_away(services: BreakableServices) -> None:
    services.redis.stop()
    time.sleep(SCALE.redis_away_secs)
    services.redis.start()


def postgres_is_away(services: BreakableServices) -> None:
    services.postgres.stop()
    time.sleep(SCALE.postgres_away_secs)
    services.postgres.start()


OUTAGES: list[tuple[Outage, float]] = [
    (conductor_is_away, SCALE.conductor_away_secs),
    # At the small scale the embedded Conductor is the one that is killed.
    *([(conductor_is_killed, SCALE.timeout_secs + 4)] if FULL else []),
    (redis_is_away, SCALE.redis_away_secs),
    (postgres_is_away, SCALE.postgres_away_secs),
]


@pytest.fixture(scope="module")
def crew(
    services: BreakableServices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crew]:
    crew = Crew(services, "outages", tmp_path_factory.mktemp("outages"))
    crew.start(SCALE.executors)
    yield crew
    crew.stop()


@pytest.mark.parametrize(
    ("outage", "secs"), OUTAGES, ids=[outage.__name__ for outage, _ in OUTAGES]
)
def test_services_outage(
    services: BreakableServices,
    crew: Crew,
    outage: Outage,
    secs: float,
) -> None:
    crew.begin_through(secs)
    before = set(crew.ids())

    outage(services)

    assert_all_came_back(services, crew, before)
    assert services.processes() == services.started()
    assert_everything_works_again(services, crew)


def assert_everything_works_again(services: BreakableServices, crew: Crew) -> None:
    """Asking across processes, the sweep, beat and recovery."""
    # Two executors hang on each server; whoever is asked, by whichever server.
    console = services.console()
    for url in services.urls:
        for workflow_id in list(crew.expected)[-2 * len(crew.ids()) :][:8]:
            path = f"/orgs/acme/apps/{crew.name}/workflows/{workflow_id}/"
            page = console.http.get(url + path)
            assert page.status_code == 200
            assert "As of" not in page.text, "answered from memory, not by an executor"
    assert_a_killed_executor_is_recovered(services, crew)
