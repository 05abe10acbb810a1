"""A rolling upgrade as an autoscaler sees it, with real executors of two versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import Application, Conductor, needs

pytestmark = [
    *(pytest.mark.e2e, pytest.mark.services, needs("python")),
    pytest.mark.parametrize("conductor", ["services"], indirect=True),
]

APP = "scaled"


@dataclass
class Scaler:
    """What KEDA and the operator of Kubernetes do."""

    base: str
    key: str

    def call(self, method: str, path: str, **body: Any) -> Any:
        answer = httpx.request(
            method,
            f"{self.base}/v2/orgs/acme/apps/{APP}/{path}",
            headers={"Authorization": f"Bearer {self.key}"},
            json=body or None,
            timeout=30,
        )
        return answer.status_code if answer.is_error else answer.json()

    def desired(self, path: str = "autoscale") -> Any:
        found = self.call("GET", path)
        if isinstance(found, int):
            return found
        rows = found if isinstance(found, list) else [found]
        return [
            (row["applicationVersion"], row["desiredExecutors"], row["queueDepth"])
            for row in rows
        ]


@pytest.fixture
def application(conductor: Conductor, home: Path) -> Iterator[Application]:
    made = Application(conductor, APP, "python", "3.2.0", home, program="metered")
    yield made
    made.stop()


def test_a_rolling_upgrade(conductor: Conductor, application: Application) -> None:
    reader, writer = (
        Scaler(url, conductor.provision(APP, permission=permission))
        for url, permission in zip(
            conductor.urls, ("application.read", "application.write"), strict=True
        )
    )

    def set_policy(queue: str = "slow", **rollout: int) -> Any:
        return writer.call("PUT", "autoscaling-policy", queue=queue, rollout=rollout)

    assert reader.desired() == 404
    assert set_policy() == 503
    # Two processes that write all the time keep each other off one SQLite file.
    once = {"PAUSE_SECS": "3600"}
    old = application.start_connected(WAITING="3", **once)
    assert set_policy("nowhere") == set_policy("fast") == 400
    wait_until("its queues are there", lambda: set_policy() != 400, secs=20)

    # Two at once of five.
    wait_until("v1 is busy", lambda: reader.desired() == [("v1", 3, 5)], secs=20)
    application.start_connected(WAITING="5", APP_VERSION="v2", **once)
    wait_until("v2 is busy", lambda: reader.desired() == [("v2", 4, 7)], secs=45)
    set_policy(maxOldApplicationVersions=1)
    both = [("v2", 4, 7), ("v1", 3, 5)]
    wait_until("v1 is drained", lambda: reader.desired() == both, secs=20)
    set_policy(maxOldApplicationVersions=1, maxExecutorsForOldApplicationVersions=2)
    capped = [("v2", 4, 7), ("v1", 2, 5)]
    wait_until("v1 is capped", lambda: reader.desired() == capped, secs=20)

    assert reader.desired("autoscale/versions/latest") == [("v2", 4, 7)]
    assert reader.desired("autoscale/versions/v1") == [("v1", 2, 5)]
    assert reader.desired("autoscale/versions/v0") == 404
    assert writer.call("GET", "autoscale") == 403

    application.stop()
    assert not old.is_alive()
    wait_until("nobody can tell", lambda: reader.desired() == 503, secs=20)
