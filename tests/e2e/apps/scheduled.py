"""A DBOS application with a schedule and a queue; obeys lines on stdin.

`start ID STEPS SECS` starts a workflow, `fail ID` one that fails. `enqueue PREFIX
COUNT` puts so many workflows into the queue `line`, behind one that holds it up.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime
from typing import Any

from dbos import DBOS, SetWorkflowID

DBOS(
    config={
        "name": os.environ["APP"],
        "system_database_url": os.environ["APP_DATABASE_URL"],
        "application_version": os.environ["APP_VERSION"],
        "conductor_url": os.environ["CONDUCTOR_URL"],
        "conductor_key": os.environ["CONDUCTOR_KEY"],
    }
)


@DBOS.step()
def work(number: int, secs: float) -> int:
    time.sleep(secs)
    return number


@DBOS.workflow()
def job(steps: int, secs: float) -> str:
    for number in range(steps):
        work(number, secs)
    return f"{steps} steps done"


@DBOS.workflow()
def broken() -> None:
    work(0, 0)
    raise ValueError("no such luck")


@DBOS.workflow()
def tick(scheduled_at: datetime, context: Any) -> str:
    return f"ticked for {context}"


DBOS.launch()
line = DBOS.register_queue("line", worker_concurrency=1, global_concurrency=4)
DBOS.create_schedule(
    schedule_name="nightly",
    workflow_fn=tick,
    schedule="0 3 * * *",
    context={"made_by": "test"},
)
for order in sys.stdin:
    match order.split():
        case ["start", workflow_id, steps, secs]:
            with SetWorkflowID(workflow_id):
                DBOS.start_workflow(job, int(steps), float(secs))
        case ["fail", workflow_id]:
            with SetWorkflowID(workflow_id):
                DBOS.start_workflow(broken)
        case ["enqueue", prefix, count]:
            with SetWorkflowID(f"{prefix}-hold"):
                line.enqueue(job, 600, 1.0)
            for number in range(int(count)):
                with SetWorkflowID(f"{prefix}-{number}"):
                    line.enqueue(job, 1, 0.0)
while True:
    time.sleep(1)
