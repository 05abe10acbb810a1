"""`listMetrics` and `/v1/metrics`: what was collected, for who may read it."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from apps.executors.models import Executor
from apps.monitoring import openmetrics
from apps.monitoring.models import MetricCollection, MetricWindow
from apps.registry import callers, services
from apps.registry.models import Application
from tests.monitoring.conftest import NOON, Clock, api, key_of
from tests.world import World

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
METRICS = "/v2/orgs/acme/apps/orders/metrics"
LABELS = {"application": "orders", "workflow_name": "ship", "queue_name": "q1"}
WINDOW_END = NOON.timestamp()


def keep_window(application: Application, at: datetime, **values: Any) -> None:
    MetricWindow.objects.create(application=application, starts_at=at, **values)


def keep_everything(world: World) -> None:
    """One minute, and something in flight."""
    keep_window(
        world.application,
        NOON - timedelta(minutes=1),
        workflows=[
            {
                "name": "ship",
                "queue": "q1",
                "started": 60,
                "dequeued": 30,
                "succeeded": 15,
                "failed": 6,
                "cancelled": 3,
                "max_queue_wait_ms": 250,
                "max_total_latency_ms": 1_500,
            },
            {"name": 'odd "\n\\ name', "queue": "", "started": 6},
        ],
        steps=[{"name": "pack", "succeeded": 12, "failed": 6, "max_duration_ms": 70}],
    )
    MetricCollection.objects.create(
        application=world.application,
        next_window_at=NOON,
        due_at=NOON,
        in_flight_at=NOON,
        in_flight=[
            {
                "name": "ship",
                "queue": "q1",
                "enqueued": 7,
                "pending": 2,
                "oldest_enqueued_ms": 1_000,
                "oldest_pending_ms": 3_000,
            },
            {"name": "ship", "queue": "", "pending": 1, "oldest_pending_ms": 2_000},
        ],
    )


def scrape(client: Client, **query: Any) -> dict[tuple[str, ...], Any]:
    """Family and label values → value, timestamp."""
    response = client.get("/v1/metrics", query, headers={"Accept": OPENMETRICS})
    assert response.status_code == 200, response.content
    text = response.content.decode()
    assert text.endswith("# EOF\n")
    return {
        (
            sample.name.removeprefix(openmetrics.PREFIX),
            *(v for k, v in sorted(sample.labels.items()) if k != "application"),
        ): (sample.value, sample.timestamp and float(sample.timestamp))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- /v1/metrics -------------------------------------------------------------------


def test_every_family_says_what_was_collected(world: World, clock: Clock) -> None:
    keep_everything(world)

    found = scrape(api(key_of(world)))

    of_minute = {
        ("workflow_started_rate", "q1", "ship"): 1.0,
        ("workflow_dequeued_rate", "q1", "ship"): 0.5,
        ("workflow_success_rate", "q1", "ship"): 0.25,
        ("workflow_failed_rate", "q1", "ship"): 0.1,
        ("workflow_cancelled_rate", "q1", "ship"): 0.05,
        ("workflow_max_queue_wait_seconds", "q1", "ship"): 0.25,
        ("workflow_max_total_latency_seconds", "q1", "ship"): 1.5,
        ("workflow_started_rate", "", 'odd "\n\\ name'): 0.1,
        ("workflow_success_rate", "", 'odd "\n\\ name'): 0.0,
        ("step_success_rate", "pack"): 0.2,
        ("step_failed_rate", "pack"): 0.1,
        ("step_max_duration_seconds", "pack"): 0.07,
    }
    of_now = {
        ("workflow_enqueued_count", "q1", "ship"): 7.0,
        ("workflow_pending_count", "ship"): 3.0,
        ("workflow_pending_count", 'odd "\n\\ name'): 0.0,
        ("workflow_oldest_enqueued_timestamp_seconds", "q1", "ship"): 1.0,
        ("workflow_oldest_pending_timestamp_seconds", "ship"): 2.0,
        ("executor_count", "v1", "HEALTHY"): 1.0,
    }
    for key, value in of_minute.items():
        assert found[key] == (value, WINDOW_END), key
    for key, value in of_now.items():
        assert found[key] == (value, None), key
    assert ("workflow_max_queue_wait_seconds", "", 'odd "\n\\ name') not in found
    assert ("workflow_enqueued_count", "", "ship") not in found


def test_all_fifteen_families_are_gauges_even_without_samples(
    world: World, clock: Clock
) -> None:
    Executor.objects.all().delete()
    response = api(key_of(world)).get("/v1/metrics", headers={"Accept": OPENMETRICS})

    text = response.content.decode()
    assert len(openmetrics.FAMILIES) == 15
    for family in openmetrics.FAMILIES:
        assert f"# TYPE {openmetrics.PREFIX}{family.name} gauge\n" in text
    assert not [line for line in text.splitlines() if not line.startswith("#")]


def test_the_answer_is_of_the_type_that_is_accepted(world: World, clock: Clock) -> None:
    keep_everything(world)
    client = api(key_of(world))

    for accept, content_type in (
        (OPENMETRICS, openmetrics.OPENMETRICS_TYPE),
        (f"text/html, {OPENMETRICS};q=0.5", openmetrics.OPENMETRICS_TYPE),
        ("application/openmetrics-text;version=nonsense", openmetrics.OPENMETRICS_TYPE),
        ("text/plain;version=0.0.4", openmetrics.TEXT_TYPE),
        ("*/*", openmetrics.TEXT_TYPE),
    ):
        response = client.get("/v1/metrics", headers={"Accept": accept})
        assert response["Content-Type"] == content_type
        end = round(WINDOW_END)
        stamp = f" {end}\n" if "openmetrics" in content_type else f" {end * 1000}\n"
        assert stamp in response.content.decode()


def test_what_is_old_is_not_told(world: World, clock: Clock) -> None:
    keep_everything(world)
    clock.time = NOON + timedelta(minutes=5)

    found = scrape(api(key_of(world)))

    assert {key[0] for key in found} == {"executor_count"}


def test_filters_are_repeatable(world: World, clock: Clock) -> None:
    keep_everything(world)
    client = api(key_of(world))

    assert {key[0] for key in scrape(client, applications=["billing"])} == set()
    rates = ["workflow_started_rate", f"{openmetrics.PREFIX}workflow_failed_rate"]
    assert {key[0] for key in scrape(client, metrics=rates)} == {
        "workflow_started_rate",
        "workflow_failed_rate",
    }
    names = ["ship", "other"]
    found = scrape(client, workflow_names=names, applications=["billing", "orders"])
    assert ("workflow_started_rate", "q1", "ship") in found
    assert ("step_success_rate", "pack") in found
    assert ("workflow_started_rate", "", 'odd "\n\\ name') not in found
    assert client.get("/v1/metrics?metrics=nonsense").status_code == 400


def test_a_key_reads_its_own_applications_only(world: World, clock: Clock) -> None:
    billing = Application.objects.create(organization=world.acme, name="billing")
    Executor.objects.create(application=billing, executor_id="b1")
    foreign = Application.objects.create(
        organization=world.users["mallory"].memberships.get().organization,
        name="secret",
    )
    Executor.objects.create(application=foreign, executor_id="f1")

    def applications(client: Client) -> set[str]:
        text = client.get("/v1/metrics").content.decode()
        names = ("orders", "billing", "secret")
        return {name for name in names if f'application="{name}"' in text}

    assert applications(api(key_of(world))) == {"orders", "billing"}
    scoped = key_of(world, application_names=["billing"])
    assert applications(api(scoped)) == {"billing"}


def test_who_may_not_read_gets_a_problem(world: World) -> None:
    for client, status in (
        (api(), 401),
        (api("dbos_nonsense_key"), 401),
        (api(key_of(world, "application.read", "organization.read")), 403),
    ):
        response = client.get("/v1/metrics")
        assert response.status_code == status
        assert response["Content-Type"] == "application/problem+json"


def test_a_person_reads_the_one_organization_they_belong_to(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_everything(world)
    alice = world.users["alice"]
    monkeypatch.setattr(callers, "find_user_by_token", lambda _: alice)

    assert ("step_success_rate", "pack") in scrape(api("a-token"))
    services.create_organization(user=alice, name="second")
    assert api("another-token").get("/v1/metrics").status_code == 400


def test_without_accounts_everybody_reads_what_is_local(
    world: World, settings: Any
) -> None:
    settings.CONDUCTOR_AUTH = "none"

    response = api().get("/v1/metrics")

    assert response.status_code == 200
    assert b"orders" not in response.content


def test_many_scrapes_read_the_store_once(
    world: World, clock: Clock, django_assert_max_num_queries: Any
) -> None:
    keep_everything(world)
    client = api(key_of(world))
    with django_assert_max_num_queries(9):
        first = client.get("/v1/metrics").content

    with django_assert_max_num_queries(0):
        assert client.get("/v1/metrics").content == first


@pytest.mark.services
def test_promtool_accepts_it(world: World, clock: Clock, promtool: str) -> None:
    keep_everything(world)
    text = api(key_of(world)).get("/v1/metrics").content

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )

    complaints = checked.stderr.decode().splitlines()
    # The names are the contract's.
    own = [line for line in complaints if '"_count" suffix' not in line]
    assert own == []
    assert checked.returncode in (0, 3)


# --- listMetrics -------------------------------------------------------------------


def list_metrics(client: Client, start: datetime, end: datetime) -> Any:
    query = {"startTime": start.isoformat(), "endTime": end.isoformat()}
    return client.get(METRICS, query)


def test_counts_are_listed_by_minute(world: World) -> None:
    counts = [["workflow_count", "ship", 4], ["recovery_count", "recovery", 1]]
    keep_window(world.application, NOON, counts=counts)
    keep_window(world.application, NOON + timedelta(hours=1), counts=counts)
    response = list_metrics(api(key_of(world)), NOON, NOON + timedelta(hours=1))

    ours = {"appId": str(world.application.pk), "granularity": 60}
    at = {"timeBucket": "2026-11-26T12:00:00Z"}
    assert response.json() == [
        {
            "metricType": "workflow_count",
            "metricName": "ship",
            "value": 4,
            **ours,
            **at,
        },
        {
            "metricType": "recovery_count",
            "metricName": "recovery",
            "value": 1,
            **ours,
            **at,
        },
    ]


@pytest.mark.parametrize(
    ("hours", "granularity", "buckets"), [(6, 60, 60), (24, 300, 12), (360, 3_600, 1)]
)
def test_the_longer_the_range_the_larger_the_buckets(
    world: World, hours: int, granularity: int, buckets: int
) -> None:
    for minute in range(60):
        keep_window(
            world.application,
            NOON + timedelta(minutes=minute),
            counts=[["step_count", "pack", 2]],
        )

    found = list_metrics(api(key_of(world)), NOON, NOON + timedelta(hours=hours)).json()

    assert {row["granularity"] for row in found} == {granularity}
    assert len(found) == buckets
    assert sum(row["value"] for row in found) == 120


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("startTime=2026-11-26T12:00:00Z", 422),
        ("startTime=yesterday&endTime=now", 422),
        ("startTime=2026-11-26T12:00:00&endTime=2026-11-26T13:00:00", 422),
        ("startTime=2026-11-26T12:00:00Z&endTime=2026-11-26T12:00:00Z", 400),
        ("startTime=2026-11-26T13:00:00Z&endTime=2026-11-26T12:00:00Z", 400),
        ("startTime=0001-01-01T00:00:00Z&endTime=9999-12-31T23:59:59Z", 400),
        ("startTime=9999-12-31T22:00:00Z&endTime=9999-12-31T23:59:59-23:59", 422),
        ("startTime=0001-01-01T00:00:00%2B23:59&endTime=0001-01-01T00:00:00Z", 422),
    ],
)
def test_ranges_are_validated(world: World, query: str, status: int) -> None:
    response = api(key_of(world)).get(f"{METRICS}?{query}")

    assert response.status_code == status
    assert response["Content-Type"] == "application/problem+json"


def test_nobody_else_reads_the_list(world: World) -> None:
    Application.objects.create(organization=world.acme, name="billing")
    for secret, status in (
        (key_of(world, "application.read"), 403),
        (key_of(world, application_names=["billing"]), 403),
        (None, 401),
    ):
        response = list_metrics(api(secret), NOON, NOON + timedelta(hours=1))
        assert response.status_code == status
