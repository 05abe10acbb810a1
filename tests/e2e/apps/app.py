"""A DBOS application for the tests, for every SDK version; obeys lines on stdin.

`start ID STEPS SECS` starts a workflow of so many steps of so many seconds. Each step
that finishes appends one line, `ID step`, to the notes file. `fail ID` starts one that
fails; `talk ID` one that sets an event, gets a message and writes a stream.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import version
from typing import Any

from dbos import DBOS, SetWorkflowID

config: Any = {
    "name": os.environ["APP"],
    "system_database_url": os.environ["APP_DATABASE_URL"],
    "application_version": os.environ["APP_VERSION"],
}
if os.environ.get("APP_METADATA_ONLY"):
    config["conductor_metadata_only_mode"] = True
conductor = {
    "conductor_url": os.environ["CONDUCTOR_URL"],
    "conductor_key": os.environ["CONDUCTOR_KEY"],
}
if version("dbos").startswith("1."):
    DBOS(config=config, **conductor)
else:
    DBOS(config={**config, **conductor})


@DBOS.step()
def work(number: int, secs: float) -> int:
    time.sleep(secs)
    with open(os.environ["NOTES"], "ab", buffering=0) as notes:
        notes.write(f"{DBOS.workflow_id} {number}\n".encode())
    return number


@DBOS.workflow()
def job(steps: int, secs: float) -> str:
    for number in range(steps):
        work(number, secs)
    return f"{steps} steps done"


@DBOS.workflow()
def broken() -> None:
    raise ValueError("no such luck")


@DBOS.workflow()
def talk() -> str:
    DBOS.set_event("progress", "half")
    message = DBOS.recv("news", 30)
    for word in ("one", "two"):
        DBOS.write_stream("words", word)
    return str(message)


DBOS.launch()
for line in sys.stdin:
    order, workflow_id, *arguments = line.split()
    with SetWorkflowID(workflow_id):
        if order == "fail":
            DBOS.start_workflow(broken)
        elif order == "talk":
            DBOS.start_workflow(talk)
        else:
            steps, secs = arguments
            DBOS.start_workflow(job, int(steps), float(secs))
    if order == "talk":
        DBOS.send(workflow_id, "hello", "news")
while True:
    time.sleep(1)
