"""Asking while executors come and go: what was not sent is asked of somebody else."""

from __future__ import annotations

import pytest

from apps.executors import gateway
from apps.executors.models import Executor
from tests.workflows.conftest import Served
from tests.workflows.executor import ScriptedExecutor, wait_until, workflow


@pytest.fixture
def long_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is cached of who is healthy for the whole test."""
    monkeypatch.setattr(gateway, "DIRECTORY_SECS", 60.0)


def swap(served: Served) -> ScriptedExecutor:
    """Cache executor a, connect b behind the cache's back, and let a leave."""
    first = served.connect("a", rows=[workflow("w1", status="PENDING")])
    assert served.api().get("/workflows").status_code == 200
    url = f"{served.base}/websocket/orders/{served.key}"
    second = ScriptedExecutor(url, "b", rows=[workflow("w1", status="PENDING")])
    served.executors.append(second)
    wait_until(Executor.objects.filter(executor_id="b", state="HEALTHY").exists)
    first.close()
    return second


@pytest.mark.usefixtures("long_directory")
def test_a_read_reaches_whoever_is_healthy_now(served: Served) -> None:
    swap(served)

    answer = served.api().get("/workflows")

    assert answer.status_code == 200, answer.text
    assert [row["workflowId"] for row in answer.json()] == ["w1"]


@pytest.mark.usefixtures("long_directory")
def test_what_may_be_sent_once_only_is_sent_to_whoever_is_healthy_now(
    served: Served,
) -> None:
    second = swap(served)
    second.schedules["nightly"] = {"schedule_name": "nightly", "schedule": "* * * * *"}

    answer = served.api().post("/schedules/nightly/trigger")

    assert answer.is_success, answer.text
    assert second.count("trigger_schedule") == 1


@pytest.mark.usefixtures("long_directory")
def test_with_nobody_left_it_is_503(served: Served) -> None:
    swap(served).close()

    answer = served.api().get("/workflows")

    assert answer.status_code == 503, answer.text
