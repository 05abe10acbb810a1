"""A small shop on DBOS: steps, children, a queue, a schedule, events and a failure.

Several processes of it share one SQLite file. Each is an executor; Conductor watches
them. Every step notes that it ran in a file of its own, so that anyone can check
afterwards that no finished step ran twice.

    DBOS_DATABASE=shop.sqlite CONDUCTOR_URL=ws://127.0.0.1:8090 CONDUCTOR_KEY=dbos_… \
        python app.py --load
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime

from dbos import DBOS, DBOSConfig, SetWorkflowID

STEP_SECS = float(os.environ.get("STEP_SECS", "0.5"))
LOAD = int(os.environ.get("LOAD", "12"))
NOTES = os.environ.get("STEP_NOTES", "steps.log")

config: DBOSConfig = {
    "name": os.environ.get("DBOS_APP_NAME", "shop"),
    "system_database_url": f"sqlite:///{os.environ['DBOS_DATABASE']}",
    "application_version": os.environ.get("APP_VERSION", "1.0.0"),
    "conductor_url": os.environ["CONDUCTOR_URL"],
    "conductor_key": os.environ["CONDUCTOR_KEY"],
}
DBOS(config=config)


def note(step: str) -> None:
    """Append one short line; the operating system keeps such appends whole."""
    line = f"{DBOS.workflow_id} {step}\n"
    with open(NOTES, "ab", buffering=0) as file:
        file.write(line.encode())


@DBOS.step()
def reserve(order: int) -> str:
    time.sleep(STEP_SECS)
    note("reserve")
    return f"reservation-{order}"


@DBOS.step()
def charge(order: int) -> int:
    time.sleep(STEP_SECS)
    note("charge")
    return order * 100


@DBOS.step()
def pack(parcel: int) -> int:
    time.sleep(STEP_SECS)
    note(f"pack-{parcel}")
    return parcel


@DBOS.step()
def refuse(order: int) -> None:
    note("refuse")
    raise ValueError(f"order {order} has no address")


@DBOS.workflow()
def pack_parcel(order: int, parcel: int) -> int:
    return pack(parcel)


@DBOS.workflow()
def process_order(order: int) -> int:
    """One order: reserve, charge, and pack two parcels as children on a queue."""
    DBOS.set_event("progress", "reserving")
    reserve(order)
    paid = charge(order)
    DBOS.set_event("progress", "packing")
    packing = DBOS.retrieve_queue("packing")
    parcels = [packing.enqueue(pack_parcel, order, number) for number in range(2)]
    for parcel in parcels:
        parcel.get_result()
    DBOS.set_event("progress", "done")
    return paid


@DBOS.workflow()
def bad_order(order: int) -> None:
    """Always fails: something to look at in the console."""
    refuse(order)


@DBOS.workflow()
def tidy(scheduled_at: datetime, context: object) -> None:
    """Runs every minute."""


def main() -> None:
    DBOS.launch()
    DBOS.register_queue("packing", concurrency=4)
    if "--load" in sys.argv:
        DBOS.apply_schedules(
            [{"schedule_name": "tidy", "workflow_fn": tidy, "schedule": "* * * * *"}]
        )
        with SetWorkflowID(f"bad-{DBOS.executor_id[:8]}"):
            DBOS.start_workflow(bad_order, 13)
    if "--load" in sys.argv or "--orders" in sys.argv:
        for number in range(LOAD):
            with SetWorkflowID(f"order-{DBOS.executor_id[:8]}-{number}"):
                DBOS.start_workflow(process_order, number)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main()
