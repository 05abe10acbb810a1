"""Workers and beat: killed, starved, and held up by executors that hang."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from benchmarks.stack import wait_until
from tests.chaos.rig import FULL, SCALE, BreakableServices, Crew

pytestmark = [pytest.mark.e2e, pytest.mark.services]

# recovery's lease, and what it takes to sweep and prove.
LEASE_SECS = 60


def test_executors_that_hang_hold_up_nobody_else(
    services: BreakableServices, home: Path
) -> None:
    assert services.beat is not None
    for process in (services.beat, *services.workers[:1]):
        process.kill()
        process.wait()
    services.bring_back()
    hanging, swift = Crew(services, "hanging", home), Crew(services, "swift", home)
    try:
        victims, heirs = hanging.start(2), hanging.start(2)
        (other,), _ = swift.start(1), swift.start(1)
        started = [*hanging.begin(victims, steps=6, secs=0.5)]
        (quick,) = swift.begin([other], steps=6, secs=0.5)
        wait_until(
            "all are at work",
            lambda: (
                {f"{i} 0" for i in started} <= set(hanging.application.notes())
                and f"{quick} 0" in swift.application.notes()
            ),
            secs=30,
        )

        # Whoever is to take over does not answer, and its socket stays open.
        for heir in heirs:
            os.killpg(heir.popen.pid, signal.SIGSTOP)
        for process in (*victims, other):
            process.kill()
        services.wait_confirmed("swift", other.executor_id, SCALE.timeout_secs + 12)
        states = {row[1] for row in services.recoveries("hanging")}
        assert "CONFIRMED" not in states

        if FULL:
            wait_until(
                "orders are on their way",
                lambda: services.orders("hanging") == len(victims),
                secs=30,
            )
            for worker in services.workers:
                worker.kill()
                worker.wait()
            services.bring_back()
        for heir in heirs:
            os.killpg(heir.popen.pid, signal.SIGCONT)
        for victim in victims:
            services.wait_confirmed("hanging", victim.executor_id, LEASE_SECS + 40)
        for crew in (hanging, swift):
            crew.wait_finished(secs=60)
        attempts = dict(
            hanging.application.database.rows(
                "workflow_uuid, recovery_attempts", "workflow_status"
            )
        )
        # Taken over once, however often it was ordered.
        assert attempts == dict.fromkeys(started, 2)
        assert services.processes() == services.started()
    finally:
        hanging.stop()
        swift.stop()
