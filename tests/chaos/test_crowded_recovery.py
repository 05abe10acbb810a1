"""Thousands of dead executors of one tenant, behind one that hangs, keep no other
tenant's takeover request waiting.

Real processes: a web process, two workers and a beat on PostgreSQL and Redis. The dead
are rows only until the sweep finds them; that declares them dead and makes their
recoveries. `CHAOS=full` plays nine thousand.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.stack import Child, Stack, free_port, wait_until
from tests.chaos.rig import FULL

pytestmark = [pytest.mark.services]

DEAD = 9_000 if FULL else 3_000
TIMEOUT_SECS = 5
# Generous where others use the machine; the numbers are printed.
SLACK_SECS = 3.0 if FULL else 15.0
# How often the neighbour loses one while the crowd's requests hang and are tried again.
ROUNDS = 6 if FULL else 2


class HungExecutor:
    """Says who it is and which database it works on, then never anything again."""

    def __init__(self, url: str) -> None:
        self.heard: list[str] = []
        self.connection = connect(url, ping_interval=None, proxy=None, legacy=True)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            for text in self.connection:
                request = json.loads(text)
                self.heard.append(request["type"])
                answer = self._answer(request["type"])
                if answer:
                    reply = {key: request[key] for key in ("type", "request_id")}
                    self.connection.send(json.dumps(reply | answer))
        except ConnectionClosed:
            return

    def _answer(self, kind: str) -> dict[str, Any]:
        if kind == "executor_info":
            return {
                "executor_id": "hung",
                "application_version": "v1",
                "language": "python",
                "dbos_version": "3.2.0",
            }
        if kind == "list_application_versions":
            version = {
                "version_id": "crowded-version",
                "version_name": "v1",
                "version_timestamp": 1790000000000,
                "created_at": 1790000000000,
            }
            return {"output": [version]}
        return {}


class Neighbour:
    """The other tenant's executors, some of which are killed."""

    def __init__(self, stack: Stack, fleet: Child) -> None:
        self.stack, self.fleet = stack, fleet

    def lose_one(self) -> float:
        """Kill an executor; return how long it took until another one was asked to take
        its workflows over."""
        killed = self.fleet.do(do="kill", count=1)
        (executor_id,) = killed["killed"]

        def asked() -> list[Any]:
            orders: dict[str, list[Any]] = self.fleet.do(do="orders")["orders"]
            return orders.get(executor_id, [])

        (asked_at, _), *more = wait_until(
            "another is asked", asked, secs=TIMEOUT_SECS + SLACK_SECS + 60
        )
        assert not more
        requested_at = self.stack.count(
            "SELECT extract(epoch FROM requested_at) FROM executors_recovery"
            " WHERE executor_id = %s",
            executor_id,
        )
        # It is written first, then sent.
        assert killed["at"] + TIMEOUT_SECS - 1 < requested_at <= asked_at
        return float(asked_at - killed["at"])


@pytest.fixture
def stack() -> Iterator[Stack]:
    with Stack(
        organization="crowded",
        CONDUCTOR_EXECUTOR_TIMEOUT_SECS=str(TIMEOUT_SECS),
    ) as stack:
        yield stack


def let_die(stack: Stack, count: int) -> None:
    """Leave executors of the crowd that nobody has heard of for long."""
    stack.sql.execute(
        "INSERT INTO executors_executor (application_id, executor_id, database_id,"
        "  application_version, hostname, language, dbos_version, metadata, state,"
        "  connection_id, instance_id, remote_ip, connected_at, disconnected_at)"
        " SELECT application_id, 'dead-' || number, database_id, application_version,"
        "  'crowd', language, dbos_version, '{}', 'DISCONNECTED', 'gone-' || number,"
        "  instance_id, '', now() - interval '1 hour', now() - interval '1 minute'"
        " FROM executors_executor, generate_series(1, %s) AS number"
        " WHERE executor_id = 'hung' AND state = 'HEALTHY'",
        [count],
    )


def count_recoveries(stack: Stack, condition: str) -> int:
    return stack.count(
        "SELECT count(*) FROM executors_recovery"
        f" WHERE executor_id LIKE 'dead-%%' AND {condition}"
    )


def test_crowd_behind_a_hung_executor_delays_no_other_tenant(stack: Stack) -> None:
    crowded_key = stack.provision("crowd")
    stack.organization = "neighbour"
    neighbour_key = stack.provision("orders")
    port = free_port()
    stack.start_web(port)
    stack.start_background(workers=2)
    hung = HungExecutor(f"ws://127.0.0.1:{port}/websocket/crowd/{crowded_key}")
    count = ROUNDS + 3
    fleet = stack.fleet(port, application="orders", key=neighbour_key, count=count)
    neighbour = Neighbour(stack, fleet)
    wait_until(
        "all are healthy",
        lambda: stack.healthy("crowd") == 1 and stack.healthy("orders") == count,
        secs=60,
    )
    # From here on the workers are known to sweep.
    alone = neighbour.lose_one()

    let_die(stack, DEAD)
    began = time.monotonic()
    delays = [neighbour.lose_one()]
    wait_until(
        "the whole crowd is declared dead and its takeover requests hang",
        lambda: (
            count_recoveries(stack, "true") == DEAD
            and count_recoveries(stack, "state = 'REQUESTED'")
        ),
        secs=120,
        every=0.5,
    )
    declared_secs = time.monotonic() - began
    delays += [neighbour.lose_one() for _ in range(ROUNDS)]

    print(
        f"{DEAD} dead, all declared within {declared_secs:.1f} s, "
        f"{count_recoveries(stack, 'attempts > 0')} tried, "
        f"{count_recoveries(stack, 'attempts > 1')} more than once; "
        f"the neighbour's takeover was requested after {alone:.2f} s without them, then"
        f" after {', '.join(f'{secs:.2f}' for secs in delays)} s"
    )
    assert count_recoveries(stack, "state = 'CONFIRMED'") == 0
    assert max(delays) < TIMEOUT_SECS + SLACK_SECS
    assert stack.complaints() == []
    hung.connection.close()
