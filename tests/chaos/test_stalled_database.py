"""One server's database connections hang while its sockets live: nobody dies of it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from benchmarks.stack import wait_until
from tests.chaos.rig import SCALE, BreakableServices

pytestmark = [pytest.mark.services]

APPLICATION = "stalled"
COUNT = 20
# An instance whose beats stay away is given up after 8 s.
STALLED_SECS = 8 + SCALE.timeout_secs + 6


def test_executors_of_a_server_without_its_database_are_not_taken_for_dead(
    services: BreakableServices,
) -> None:
    services.provision(APPLICATION)
    fleet = services.stack.fleet(
        *services.ports, application=APPLICATION, key=services.key, count=COUNT
    )
    wait_until(
        "all are healthy", lambda: states(services) == {"HEALTHY": COUNT}, secs=60
    )
    before = connections(services)

    backends = services.idle_backends_of(services.ports[0])
    assert backends
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(
            "its executors seem to be gone",
            lambda: states(services).get("DISCONNECTED") == COUNT // 2,
            secs=30,
        )
        time.sleep(STALLED_SECS)
        assert set(states(services)) == {"HEALTHY", "DISCONNECTED"}
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)

    wait_until(
        "all are healthy", lambda: states(services) == {"HEALTHY": COUNT}, secs=30
    )
    assert connections(services) == before
    assert services.recoveries(APPLICATION) == []
    assert fleet.do(do="orders")["orders"] == {}
    fleet.stop()


def states(services: BreakableServices) -> dict[str, int]:
    rows = services.query(
        "SELECT e.state, count(*) FROM executors_executor e"
        " JOIN registry_application a ON a.id = e.application_id"
        " WHERE a.name = ? GROUP BY e.state",
        APPLICATION,
    )
    return {str(state): int(count) for state, count in rows}


def connections(services: BreakableServices) -> set[str]:
    rows = services.query(
        "SELECT e.connection_id FROM executors_executor e"
        " JOIN registry_application a ON a.id = e.application_id WHERE a.name = ?",
        APPLICATION,
    )
    return {str(row[0]) for row in rows}
