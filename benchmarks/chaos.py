"""Kills a server under a fleet and checks that nobody is recovered who lives.

1. Two web processes hold a fleet; one is killed with SIGKILL. All executors must come
   back and none may be recovered.
2. The same with 50 executors killed at the same moment: exactly those 50 must be
   recovered, each ordered once.

Prints one line of JSON per round and exits 1 if a round failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from stack import Stack, end, free_port, wait_until

APPLICATION = "chaos"
TIMEOUT_SECS = 10


def main() -> int:
    """Run both rounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--dead", type=int, default=50)
    options = parser.parse_args()
    with Stack(organization="chaos") as stack:
        key = stack.provision(APPLICATION)
        stack.set_timeout(APPLICATION, TIMEOUT_SECS)
        rounds = [
            play(stack, key, count=options.count, dead=dead)
            for dead in (0, options.dead)
        ]
    for result in rounds:
        print(json.dumps(result))
    return int(not all(result["ok"] for result in rounds))


def play(stack: Stack, key: str, *, count: int, dead: int) -> dict[str, object]:
    """Hold a fleet on two servers, kill one (and some executors), judge."""
    ports = (free_port(), free_port())
    doomed, other = (stack.start_web(port) for port in ports)
    if len(stack.processes) == 2:
        stack.start_background(workers=2)
    fleet = stack.fleet(*ports, application=APPLICATION, key=key, count=count)
    wait_until(
        "the fleet is registered",
        lambda: stack.healthy(APPLICATION) >= count,
        secs=120,
    )
    fleet.do(do="reset")
    recovered_before = recoveries(stack)
    killed = fleet.do(do="kill", count=dead)
    end(doomed, at_once=True)
    ids = set(killed["killed"])
    # Long enough for the instance to be given up and for the timeout to pass twice.
    observed_until = time.monotonic() + 4 * TIMEOUT_SECS + 20
    back_s = None
    started = time.monotonic()
    while time.monotonic() < observed_until:
        stats = fleet.do(do="stats")
        if back_s is None and stats["introduced"] == count - dead:
            back_s = round(time.monotonic() - started, 2)
        time.sleep(0.2)
    stats = fleet.do(do="stats")
    orders = fleet.do(do="orders")["orders"]
    healthy = stack.healthy(APPLICATION)
    confirmed = stack.count(
        "SELECT count(*) FROM executors_recovery WHERE state = 'CONFIRMED'"
        " AND executor_id = ANY(%s)",
        list(ids),
    )
    written = recoveries(stack) - recovered_before
    complaints = stack.complaints()
    fleet.stop()
    end(other)
    stack.sql.execute("DELETE FROM executors_recoveryattempt")
    stack.sql.execute("DELETE FROM executors_recovery")
    stack.sql.execute("DELETE FROM executors_executor")
    return {
        "ok": (
            set(orders) == ids
            and all(len(order) == 1 for order in orders.values())
            and stats["introduced"] == healthy == count - dead
            and confirmed == written == dead
            and not complaints
        ),
        "executors": count,
        "killed": dead,
        "all_back_s": back_s,
        "healthy": healthy,
        "ordered": len(orders),
        "ordered_of_the_living": len(set(orders) - ids),
        "ordered_more_than_once": sum(len(o) > 1 for o in orders.values()),
        "recoveries": written,
        "confirmed": confirmed,
        "complaints": complaints[:10],
    }


def recoveries(stack: Stack) -> int:
    """Count recovery rows."""
    return stack.count("SELECT count(*) FROM executors_recovery")


if __name__ == "__main__":
    sys.exit(main())
