"""An executor that is frozen is noticed; one that is only slow is left in peace."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.stack import wait_until
from tests.chaos.rig import BreakableServices, Crew

pytestmark = [pytest.mark.e2e, pytest.mark.services]

# Shorter than a ping may stay unanswered, whenever it is sent.
SLOW_SECS = 8
NOTICED_SECS = 25
# What a busy machine may take more.
SLACK_SECS = 5


def test_a_frozen_executor_is_noticed_and_a_slow_one_is_not(
    services: BreakableServices, home: Path
) -> None:
    crew = Crew(services, "frozen", home)
    try:
        # Nobody else runs these versions: nothing is taken over while one is frozen.
        (frozen,) = crew.start(1, APP_VERSION="frozen")
        (slow,) = crew.start(1, APP_VERSION="slow")
        crew.begin([frozen, slow], steps=15, secs=1)
        connection = connection_of(services, slow.executor_id)

        for process in (frozen, slow):
            os.killpg(process.popen.pid, signal.SIGSTOP)
        started = time.monotonic()
        time.sleep(SLOW_SECS)
        os.killpg(slow.popen.pid, signal.SIGCONT)
        wait_until(
            "the frozen one is noticed",
            lambda: services.state(crew.name, frozen.executor_id) != "HEALTHY",
            secs=NOTICED_SECS + SLACK_SECS,
        )
        print(f"noticed after {time.monotonic() - started:.1f} s")

        os.killpg(frozen.popen.pid, signal.SIGCONT)
        wait_until(
            "it is back with the same id",
            lambda: services.state(crew.name, frozen.executor_id) == "HEALTHY",
            secs=30,
        )
        assert connection_of(services, slow.executor_id) == connection
        assert services.orders(crew.name) == 0
        crew.wait_finished(secs=90)
        crew.assert_ran_once()
    finally:
        crew.stop()


def connection_of(services: BreakableServices, executor_id: str) -> str:
    ((connection_id,),) = services.query(
        "SELECT connection_id FROM executors_executor"
        " WHERE executor_id = ? AND state = 'HEALTHY'",
        executor_id,
    )
    return str(connection_id)
