"""A frozen server's executors are not given up while their sockets are open in it."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.stack import wait_until
from tests.chaos.rig import SCALE, BreakableServices
from tests.executors.test_fuzz_frames import honest

pytestmark = [pytest.mark.services]

APPLICATION = "frozen-server"
# An instance is given up after this long; then its executors' time begins.
GIVEN_UP_SECS = 8
# What a sweep, its roll call and a busy machine may take more.
SLACK_SECS = 8


class Peer:
    """An executor without workflows, which never pings."""

    def __init__(self, url: str, executor_id: str) -> None:
        self.executor_id = executor_id
        self.recovered: list[str] = []
        self.connection = connect(url, ping_interval=None, proxy=None, legacy=True)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        try:
            for text in self.connection:
                request = json.loads(text)
                if request["type"] == "recovery":
                    self.recovered += request["executor_ids"]
                self.connection.send(json.dumps(honest(request, self.executor_id)))
        except ConnectionClosed:
            return


def test_a_frozen_server_leads_to_no_takeover(services: BreakableServices) -> None:
    services.provision(APPLICATION)
    frozen_url, other_url = (
        f"{url.replace('http', 'ws', 1)}/websocket/{APPLICATION}/{services.key}"
        for url in services.urls
    )
    resident, heir = Peer(frozen_url, "resident"), Peer(other_url, "heir")
    wait_until(
        "both are healthy",
        lambda: set(services.healthy(APPLICATION)) == {"resident", "heir"},
        secs=30,
    )
    connection = connection_of(services, "resident")
    frozen = services.webs[services.ports[0]]

    frozen.send_signal(signal.SIGSTOP)
    try:
        wait_until(
            "the frozen server is missed",
            lambda: services.healthy(APPLICATION) == ["heir"],
            secs=GIVEN_UP_SECS + SLACK_SECS,
        )
        time.sleep(SCALE.timeout_secs + SLACK_SECS)
        state = services.state(APPLICATION, "resident")
    finally:
        frozen.send_signal(signal.SIGCONT)

    assert (state, services.recoveries(APPLICATION), heir.recovered) == (
        "DISCONNECTED",
        [],
        [],
    )
    wait_until(
        "it is healthy again, over the socket that it had",
        lambda: connection_of(services, "resident") == connection,
        secs=30,
    )
    # Whoever really dies is taken over as ever.
    resident.connection.close()
    services.wait_confirmed(APPLICATION, "resident", SCALE.timeout_secs + 20)
    assert heir.recovered == ["resident"]
    heir.connection.close()


def connection_of(services: BreakableServices, executor_id: str) -> str:
    found = services.query(
        "SELECT connection_id FROM executors_executor"
        " WHERE executor_id = ? AND state = 'HEALTHY'",
        executor_id,
    )
    return str(found[0][0]) if found else ""
