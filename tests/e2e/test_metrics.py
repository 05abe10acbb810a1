"""A real Prometheus reads what real executors' databases say, minute by minute.

`METRICS_SCRAPE_SECS` is how long it scrapes; the test needs one whole minute that the
application saw, so shorter than its rest is no shorter.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from apps.monitoring.openmetrics import FAMILIES, PREFIX
from benchmarks.stack import end, free_port, wait_until
from tests.e2e.world import TOOLS, Application, Conductor, Database, needs
from tests.monitoring.conftest import promtool  # noqa: F401

pytestmark = [
    *(pytest.mark.e2e, pytest.mark.services, needs("python")),
    pytest.mark.parametrize("conductor", ["services"], indirect=True),
]

SCRAPE_SECS = float(os.environ.get("METRICS_SCRAPE_SECS", "20"))
APP, OTHER_APP = "metered", "metered-typescript"
POINTS = ("_count", "_timestamp_seconds")
# Label values by name → value.
Series = dict[tuple[str, ...], float]

CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: conductor
    metrics_path: /v1/metrics
    authorization: {{credentials: {key}}}
    static_configs: [{{targets: ["{target}"]}}]
"""


@dataclass
class Prometheus:
    """A real one, and what it was told."""

    url: str

    def query(self, expression: str, at: float) -> list[dict[str, Any]]:
        """Return the series of a range vector, with the samples themselves."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression, "time": at}
        ).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def samples(
        self, family: str, at: float, *, secs: int = 1, app: str = APP
    ) -> Series:
        """Return the newest sample of each series, within so many seconds before."""
        found = self.query(f'{PREFIX}{family}{{application="{app}"}}[{secs}s]', at)
        labels = ("workflow_name", "queue_name", "step_name", "status")
        return {
            tuple(one["metric"].get(name, "") for name in labels): float(
                one["values"][-1][1]
            )
            for one in found
        }


@dataclass
class Scraped:
    prometheus: Prometheus
    database: Database
    base: str
    key: str
    # The ends of the minutes that are to be compared, in epoch seconds.
    minutes: list[int]
    scraped_until: float
    conductor: Conductor
    # Of the application in TypeScript, where it can run.
    other_database: Database | None


@pytest.fixture(scope="module")
def scraped(
    conductor: Conductor,
    tmp_path_factory: pytest.TempPathFactory,
    promtool: str,  # noqa: F811
) -> Iterator[Scraped]:
    home = tmp_path_factory.mktemp("metrics")
    with ExitStack() as stack:
        reader = conductor.provision(APP, OTHER_APP, permission="metric.read")
        application = Application(
            conductor, APP, "python", "3.2.0", home, program="metered"
        )
        stack.callback(application.stop)
        application.start_connected()
        other_database = None
        if shutil.which(TOOLS["typescript"]):
            other = Application(conductor, OTHER_APP, "typescript", "5.2.11", home)
            stack.callback(other.stop)
            process = other.start_connected()
            for number in range(3):
                process.begin(f"job-{number}", steps=2, secs=0.05)
                process.begin_failing(f"broken-{number}")
            other_database = other.database
        prometheus = start_prometheus(stack, home, conductor.urls[0], reader)
        began = time.time()
        # The minute in which the work is under way: collected just after its end.
        minute = int(time.time() + 3) // 60 * 60 + 60
        await_minute(prometheus, minute)
        time.sleep(max(began + SCRAPE_SECS - time.time(), 0))
        last = max(minute, int(time.time()) // 60 * 60 - 60)
        await_minute(prometheus, last)
        yield Scraped(
            prometheus=prometheus,
            database=application.database,
            base=conductor.urls[0],
            key=reader,
            minutes=list(range(minute, last + 1, 60)),
            scraped_until=time.time(),
            conductor=conductor,
            other_database=other_database,
        )


def await_minute(prometheus: Prometheus, minute: int) -> None:
    wait_until(
        "the minute is collected and scraped",
        lambda: prometheus.samples("workflow_started_rate", minute),
        secs=max(minute - time.time(), 0) + 40,
        every=0.5,
    )


def start_prometheus(stack: ExitStack, home: Path, base: str, key: str) -> Prometheus:
    config, port = home / "prometheus.yml", free_port()
    target = base.removeprefix("http://")
    config.write_text(CONFIG.format(key=key, target=target))
    program = shutil.which("prometheus")
    assert program is not None
    with (home / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={home / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    stack.callback(end, process)
    found = Prometheus(f"http://127.0.0.1:{port}")

    def is_ready() -> bool:
        try:
            return httpx.get(f"{found.url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    wait_until("Prometheus is ready", is_ready, secs=30)
    return found


# --- What the application's own database says ----------------------------------------

WORKFLOW = "name, coalesce(queue_name, '')"


def truth(database: Database, what: str, table: str, group: str, where: str) -> Series:
    sql = f"{table} WHERE {where} GROUP BY {group}"
    return {
        tuple(row[:-1]): float(row[-1])
        for row in database.rows(f"{group}, {what}", sql)
        if row[-1] is not None
    }


def expected(database: Database, family: str, minute: int) -> Series:
    """A windowed family, for the minute that ends then; labels as of `samples`."""

    def within(column: str) -> str:
        return f"{column} >= {(minute - 60) * 1000} AND {column} < {minute * 1000}"

    created, dequeued = within("created_at"), within("started_at_epoch_ms")
    completed = within("completed_at")
    step = within("completed_at_epoch_ms")
    rate = "count(*) / 60.0"
    steps = "operation_outputs", "function_name"
    workflows = "workflow_status", WORKFLOW
    what, (table, group), where = {
        "workflow_started_rate": (rate, workflows, created),
        "workflow_dequeued_rate": (rate, workflows, dequeued),
        "workflow_success_rate": (rate, workflows, f"{completed} AND status='SUCCESS'"),
        "workflow_failed_rate": (rate, workflows, f"{completed} AND status='ERROR'"),
        "workflow_cancelled_rate": (
            rate,
            workflows,
            f"{completed} AND status='CANCELLED'",
        ),
        "workflow_max_queue_wait_seconds": (
            "max(started_at_epoch_ms - created_at) / 1000.0",
            workflows,
            dequeued,
        ),
        "workflow_max_total_latency_seconds": (
            "max(completed_at - created_at) / 1000.0",
            workflows,
            f"{completed} AND status='SUCCESS'",
        ),
        "step_success_rate": (rate, steps, f"{step} AND error IS NULL"),
        "step_failed_rate": (rate, steps, f"{step} AND error IS NOT NULL"),
        "step_max_duration_seconds": (
            "max(completed_at_epoch_ms - started_at_epoch_ms) / 1000.0",
            steps,
            f"{step} AND error IS NULL",
        ),
    }[family]
    found = truth(database, what, table, group, where)
    if table == "operation_outputs":
        return {("", "", name, ""): value for (name,), value in found.items()}
    return {(*key, "", ""): value for key, value in found.items()}


WINDOWED = [one.name for one in FAMILIES if not one.name.endswith(POINTS)]


@pytest.mark.parametrize("family", WINDOWED)
def test_a_minute_is_what_the_database_says(scraped: Scraped, family: str) -> None:
    for minute in scraped.minutes:
        told = scraped.prometheus.samples(family, minute)

        wanted = expected(scraped.database, family, minute)
        assert wanted
        # Where nothing happened, a rate may say zero.
        known = {k: v for k, v in told.items() if v or k in wanted}
        assert known == pytest.approx(wanted)


def test_a_minute_of_another_sdk_is_what_its_database_says(scraped: Scraped) -> None:
    database = scraped.other_database
    if database is None:
        pytest.skip("npm is not installed")
    ((created_ms,),) = database.rows("min(created_at)", "workflow_status")
    minute = int(created_ms) // 60_000 * 60 + 60

    for family in WINDOWED:
        told = scraped.prometheus.samples(family, minute, app=OTHER_APP)
        wanted = expected(database, family, minute)
        assert wanted or family != "workflow_started_rate"
        assert {k: v for k, v in told.items() if v or k in wanted} == pytest.approx(
            wanted
        ), family


def test_what_waits_and_runs_is_what_the_database_says(scraped: Scraped) -> None:
    def told(family: str) -> Series:
        found = scraped.prometheus.samples(family, scraped.scraped_until, secs=10)
        return {key: value for key, value in found.items() if key[0] == "long"}

    def oldest(status: str) -> float:
        rows = scraped.database.rows(
            "min(created_at)",
            f"workflow_status WHERE name = 'long' AND status = '{status}'",
        )
        return float(rows[0][0]) / 1000

    slow, no_queue = ("long", "slow", "", ""), ("long", "", "", "")
    assert told("workflow_enqueued_count") == {slow: 3}
    assert told("workflow_pending_count") == {no_queue: 2}
    assert told("workflow_oldest_enqueued_timestamp_seconds") == {
        slow: oldest("ENQUEUED")
    }
    assert told("workflow_oldest_pending_timestamp_seconds") == {
        no_queue: oldest("PENDING")
    }


def test_executors_are_counted(scraped: Scraped) -> None:
    found = scraped.prometheus.samples("executor_count", scraped.scraped_until, secs=10)

    assert found == {("", "", "", "HEALTHY"): 1}


def test_every_scrape_was_accepted_and_every_family_is_there(scraped: Scraped) -> None:
    for family in FAMILIES:
        found = scraped.prometheus.query(
            f"{PREFIX}{family.name}[10m]", scraped.scraped_until
        )
        assert found, family.name
    (up,) = scraped.prometheus.query('up{job="conductor"}[10m]', scraped.scraped_until)
    assert {value for _, value in up["values"]} == {"1"}


def test_promtool_accepts_the_scrape(scraped: Scraped, promtool: str) -> None:  # noqa: F811
    headers = {"Authorization": f"Bearer {scraped.key}"}
    text = httpx.get(f"{scraped.base}/v1/metrics", headers=headers).content

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False
    )

    complaints = checked.stderr.decode().splitlines()
    # The names are the contract's.
    assert [line for line in complaints if '"_count" suffix' not in line] == []


def test_every_minute_was_collected_once(scraped: Scraped) -> None:
    rows = scraped.conductor.rows(
        "SELECT starts_at FROM monitoring_metricwindow w"
        " JOIN registry_application a ON a.id = w.application_id"
        f" WHERE a.name = '{APP}' ORDER BY starts_at"
    )

    minutes = [row[0].timestamp() for row in rows]
    assert minutes == [minutes[0] + 60 * n for n in range(len(minutes))]
    assert minutes[-1] >= scraped.minutes[-1] - 60


def test_the_counts_are_listed(scraped: Scraped) -> None:
    minute = scraped.minutes[-1]
    starts, ends = (
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(minute - ago))
        for ago in (60, 0)
    )
    listed = httpx.get(
        f"{scraped.base}/v2/orgs/acme/apps/{APP}/metrics",
        params={"startTime": starts, "endTime": ends},
        headers={"Authorization": f"Bearer {scraped.key}"},
    ).json()

    wanted = expected(scraped.database, "workflow_started_rate", minute)
    by_name: dict[str, float] = {}
    for (name, *_), rate in wanted.items():
        by_name[name] = by_name.get(name, 0) + rate * 60
    assert {
        row["metricName"]: row["value"]
        for row in listed
        if row["metricType"] == "workflow_count"
    } == pytest.approx(by_name)
    assert {row["timeBucket"] for row in listed} == {starts}
