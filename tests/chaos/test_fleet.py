"""One of two servers dies under a fleet: all who live come back, and only they."""

from __future__ import annotations

import time
from typing import Any

import pytest

from benchmarks.stack import Child, wait_until
from tests.chaos.rig import FULL, SCALE, BreakableServices

pytestmark = [pytest.mark.services]

APPLICATION = "fleet"
# An instance is given up after this long; then its executors' time begins.
GIVEN_UP_SECS = 8


@pytest.mark.parametrize(
    "killed", [0, SCALE.fleet_killed] if FULL else [SCALE.fleet_killed]
)
def test_one_of_two_servers_is_killed(services: BreakableServices, killed: int) -> None:
    application = f"{APPLICATION}-{killed}"
    services.provision(application)
    fleet = services.stack.fleet(
        *services.ports,
        application=application,
        key=services.key,
        count=SCALE.fleet,
    )
    wait_healthy(services, application, SCALE.fleet)

    fleet.do(do="reset")
    dead = set(fleet.do(do="kill", count=killed)["killed"])
    doomed = services.webs[services.ports[0]]
    doomed.kill()
    doomed.wait()
    started = time.monotonic()
    wait_until("the loss is felt", lambda: fleet.do(do="stats")["losses"], secs=10)
    wait_until(
        "all who live are back",
        lambda: fleet.do(do="stats")["introduced"] == SCALE.fleet - killed,
        secs=60,
    )
    print(f"all back after {time.monotonic() - started:.1f} s")
    wait_healthy(services, application, SCALE.fleet - killed)
    services.bring_back()
    wait_until(
        "the dead are recovered",
        lambda: confirmed(services, application) == dead,
        secs=GIVEN_UP_SECS + SCALE.timeout_secs + 30,
    )
    # Whoever was wrongly given up would be ordered by then.
    time.sleep(max(GIVEN_UP_SECS + SCALE.timeout_secs + 4 - elapsed(started), 0))

    orders = fleet.do(do="orders")["orders"]
    assert set(orders) == dead
    assert all(len(given) == 1 for given in orders.values())
    assert {row[0] for row in services.recoveries(application)} == dead
    assert healthy_and_introduced(services, fleet, application) == (
        SCALE.fleet - killed,
        SCALE.fleet - killed,
    )
    fleet.stop()


def elapsed(since: float) -> float:
    return time.monotonic() - since


def wait_healthy(services: BreakableServices, application: str, count: int) -> None:
    wait_until(
        f"{count} executors are healthy",
        lambda: len(services.healthy(application)) == count,
        secs=90,
        every=0.2,
    )


def confirmed(services: BreakableServices, application: str) -> set[str]:
    rows = services.recoveries(application)
    return {row[0] for row in rows if row[1] == "CONFIRMED"}


def healthy_and_introduced(
    services: BreakableServices, fleet: Child, application: str
) -> tuple[int, int]:
    stats: dict[str, Any] = fleet.do(do="stats")
    return len(services.healthy(application)), stats["introduced"]
