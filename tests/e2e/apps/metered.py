"""A DBOS application whose work touches every metric, all the time (Python 3.2).

Queue `slow` is full: two workflows of it run, the others wait until it ends.
"""

from __future__ import annotations

import os
import time
from typing import Any

from dbos import DBOS

config: Any = {
    "name": os.environ["APP"],
    "system_database_url": os.environ["APP_DATABASE_URL"],
    "application_version": os.environ["APP_VERSION"],
    "conductor_url": os.environ["CONDUCTOR_URL"],
    "conductor_key": os.environ["CONDUCTOR_KEY"],
}
WAITING = int(os.environ.get("WAITING", "3"))
PAUSE_SECS = float(os.environ.get("PAUSE_SECS", "0.5"))
DBOS(config=config)


@DBOS.step()
def pack(secs: float) -> None:
    time.sleep(secs)


@DBOS.step()
def refuse() -> None:
    raise ValueError("no such luck")


@DBOS.workflow()
def ship() -> None:
    pack(0.02)


@DBOS.workflow()
def broken() -> None:
    refuse()


@DBOS.workflow()
def given_up() -> None:
    for _ in range(10):
        pack(0.1)


@DBOS.workflow()
def long() -> None:
    time.sleep(3_600)


DBOS.launch()
DBOS.register_queue("fast", polling_interval_sec=0.2)
DBOS.register_queue("slow", worker_concurrency=2, polling_interval_sec=0.2)
for _ in range(2 + WAITING):
    DBOS.enqueue_workflow("slow", long)
while True:
    DBOS.start_workflow(ship)
    DBOS.enqueue_workflow("fast", ship)
    DBOS.start_workflow(broken)
    DBOS.cancel_workflow(DBOS.start_workflow(given_up).workflow_id)
    time.sleep(PAUSE_SECS)
