"""One server's database connections hang while its sockets live: nobody dies of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from benchmarks.stack import end, free_port, wait_until
from tests.chaos.rig import SCALE, BreakableServices, Relay
from tests.e2e.world import answers

pytestmark = [pytest.mark.services]

APPLICATION = "stalled"
COUNT = 20
# An instance whose beats stay away is given up after 8 s.
STALLED_SECS = 8 + SCALE.timeout_secs + 6


@pytest.fixture
def relay(services: BreakableServices) -> Iterator[Relay]:
    """The way of one more web process to the database."""
    relay = Relay(urlsplit(services.stack.own_url).port or 5432)
    yield relay
    relay.close()


@pytest.fixture
def port(services: BreakableServices, relay: Relay) -> Iterator[int]:
    """One more web process, whose database can be made to hang."""
    port = free_port()
    parts = urlsplit(services.stack.own_url)
    location = f"{parts.username}@127.0.0.1:{relay.port}"
    url = urlunsplit(parts._replace(netloc=location))
    process = services.stack.launch_web(port, DATABASE_URL=url)
    wait_until("it answers", lambda: answers(f"http://127.0.0.1:{port}"), secs=90)
    yield port
    end(process)


def test_executors_of_a_server_without_its_database_are_not_taken_for_dead(
    services: BreakableServices, relay: Relay, port: int
) -> None:
    services.provision(APPLICATION)
    fleet = services.stack.fleet(
        port, services.ports[0], application=APPLICATION, key=services.key, count=COUNT
    )
    wait_until(
        "all are healthy", lambda: states(services) == {"HEALTHY": COUNT}, secs=60
    )
    before = connections(services)

    relay.pause()
    try:
        wait_until(
            "its executors seem to be gone",
            lambda: states(services).get("DISCONNECTED") == COUNT // 2,
            secs=30,
        )
        time.sleep(STALLED_SECS)
        assert set(states(services)) == {"HEALTHY", "DISCONNECTED"}
    finally:
        relay.resume()

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
