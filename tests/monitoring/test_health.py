"""Conductor's own health: for who runs it, and only for them."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from apps.executors import meters
from apps.executors.models import Executor, Instance, Recovery
from apps.executors.sockets import TimedOut
from apps.monitoring.models import MetricCollection
from tests.monitoring.conftest import NOON, Clock, api, key_of
from tests.world import World

TOKEN = "a-token-of-the-settings"


@pytest.fixture
def token(settings: Any) -> str:
    settings.CONDUCTOR_METRICS_TOKEN = TOKEN
    return TOKEN


def health(token: str) -> dict[tuple[str, ...], float]:
    accept = {"Accept": "application/openmetrics-text"}
    text = api(token).get("/metrics", headers=accept).content.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_who_has_no_token_finds_nothing(world: World, token: str) -> None:
    assert api().get("/metrics").status_code == 404
    assert api("another-token").get("/metrics").status_code == 404
    assert api(key_of(world)).get("/metrics").status_code == 404
    assert world.client("alice").get("/metrics").status_code == 404
    assert world.client("sam").get("/metrics").status_code == 200
    assert api(token).get("/metrics").status_code == 200


def test_no_token_of_the_settings_is_no_empty_token(
    world: World, settings: Any
) -> None:
    settings.CONDUCTOR_METRICS_TOKEN = ""
    client = api()

    for value in ("Bearer ", "Bearer", "", "Bearer \u00fc"):
        answer = client.get("/metrics", headers={"Authorization": value})
        assert answer.status_code == 404


def test_it_tells_of_processes_executors_and_recoveries(
    world: World, token: str, clock: Clock
) -> None:
    Instance.objects.update(beat_at=clock.time)
    Instance.objects.create(id="gone", beat_at=clock.time - timedelta(minutes=1))
    Executor.objects.create(
        application=world.application, executor_id="x9", state="DEAD"
    )
    Recovery.objects.update(
        dead_at=clock.time - timedelta(seconds=90),
        next_try_at=clock.time - timedelta(seconds=60),
    )

    found = health(token)

    assert found["conductor_instances",] == 1
    assert found["conductor_sockets", "h0", "i1"] == 1
    assert found["conductor_executors", "HEALTHY"] == 1
    assert found["conductor_executors", "DISCONNECTED"] == 0
    assert found["conductor_executors", "DEAD"] == 1
    assert found["conductor_recoveries_open", "WAITING"] == 1
    assert found["conductor_recovery_oldest_open_age_seconds",] == 90
    assert found["conductor_recoveries_overdue",] == 1


def test_it_tells_how_the_collection_goes(
    world: World, token: str, clock: Clock
) -> None:
    assert health(token)["conductor_metrics_lag_seconds",] == 0
    row = MetricCollection.objects.create(
        application=world.application,
        next_window_at=NOON - timedelta(minutes=3),
        due_at=NOON,
        failures=2,
        folded_names=7,
    )

    found = health(token)

    assert found["conductor_metrics_lag_seconds",] == 130
    assert found["conductor_metrics_failing",] == 1
    assert found["conductor_metrics_folded_names",] == 7
    MetricCollection.objects.filter(pk=row.pk).update(failures=0, error="cannot tell")
    assert health(token)["conductor_metrics_incomplete",] == 1


def test_it_counts_what_executors_were_asked(world: World, token: str) -> None:
    def count(outcome: str) -> float:
        name = "conductor_gateway_asks_total"
        return health(token).get((name, "get_metrics", outcome), 0)

    before = count("answered"), count("timed_out")
    with meters.asking("get_metrics"):
        pass
    with pytest.raises(TimedOut), meters.asking("get_metrics"):
        raise TimedOut

    assert (count("answered"), count("timed_out")) == (before[0] + 1, before[1] + 1)


@pytest.mark.services
def test_promtool_accepts_it(world: World, token: str, promtool: str) -> None:
    text = api(token).get("/metrics").content

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )

    own = [line for line in checked.stderr.decode().splitlines() if "conductor" in line]
    assert own == []
    assert checked.returncode in (0, 3)
