"""What must hold after every outage."""

from __future__ import annotations

import time

from benchmarks.stack import wait_until
from tests.chaos.rig import FULL, SCALE, Breakable, Crew

BACK_SECS = 60


def assert_all_came_back(conductor: Breakable, crew: Crew, before: set[str]) -> None:
    """All are HEALTHY under the ids they had; none was recovered; nothing ran twice."""
    ordered = conductor.orders(crew.name)
    started = time.monotonic()
    wait_until(
        "all executors are back",
        lambda: set(conductor.healthy(crew.name)) == before,
        secs=BACK_SECS,
        every=0.2,
    )
    print(f"all {len(before)} back after {time.monotonic() - started:.1f} s")
    # Whoever was taken for dead would be declared and ordered by now.
    time.sleep(SCALE.timeout_secs + 4)
    assert set(conductor.healthy(crew.name)) == before
    assert conductor.orders(crew.name) == ordered
    assert {row[0] for row in conductor.recoveries(crew.name)}.isdisjoint(before)
    crew.wait_finished(secs=120)
    crew.assert_ran_once()


def assert_a_killed_executor_is_recovered(conductor: Breakable, crew: Crew) -> None:
    """Kill one executor at work; another does the rest."""
    victim = crew.processes()[0]
    (workflow_id,) = crew.begin([victim], steps=4, secs=0.5)
    wait_until(
        "it is at work",
        lambda: f"{workflow_id} 0" in crew.application.notes(),
        secs=30,
    )
    victim.kill()
    conductor.wait_confirmed(
        crew.name, victim.executor_id, secs=SCALE.timeout_secs + 30
    )
    crew.wait_finished(secs=60)
    assert crew.application.database.statuses()[workflow_id] == "SUCCESS"
    crew.forget(workflow_id)
    if FULL:
        crew.start(1)
