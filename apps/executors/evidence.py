"""What speaks against a proof: signs that the witness works on another database.

"Nothing is pending" is as true of a stranger's database as of one where all is done. So
a witness that cannot be told to work on the dead executor's database must show some of
its work, and nobody may be ignorant of a workflow that was pending there.
Source: docs/adr/0006.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from apps.executors import gateway
from apps.executors.gateway import Target
from apps.executors.models import Recovery
from apps.executors.protocol import codec, messages
from apps.executors.protocol.rows import WorkflowRow

TIMEOUT_S = 10.0
KNOWN_PENDING_LIMIT = 100
# An old SDK ignores the filter by executor, so some more are read.
SHOWN_LIMIT = 100

PendingSource = Callable[[Recovery, int], Sequence[str]]
_pending_sources: list[PendingSource] = []


def add_pending_source(source: PendingSource) -> None:
    """Have `source` say which workflows were last seen pending on a dead executor, up
    to a limit. Registered by the apps above, when they are ready."""
    _pending_sources.append(source)


def objection(recovery: Recovery, witness: Target, *, knows_work: bool) -> str:
    """Return why this witness' "nothing is pending" proves nothing, in a sentence for a
    person; empty where nothing speaks against it. `knows_work`: that it works on the
    dead executor's database is known already. Raises: what `gateway.ask` raises."""
    if not knows_work and not _shows_work(recovery, witness):
        return (
            "It is not known which database the dead executor worked on, and executor "
            f"{witness.executor_id} shows no workflow of it."
        )
    for source in _pending_sources:
        ids = list(source(recovery, KNOWN_PENDING_LIMIT))
        known = {row.workflow_id for row in _list_by_id(recovery, witness, ids)}
        for workflow_id in ids:
            if workflow_id not in known:
                return (
                    f"Executor {witness.executor_id} does not know workflow "
                    f"{workflow_id[:60]}, which was pending on the dead executor: it "
                    "probably works on another database. If the workflow was deleted, "
                    "delete it here too."
                )
    return ""


def _shows_work(recovery: Recovery, witness: Target) -> bool:
    request = messages.ListWorkflows(
        executor_id=(recovery.executor_id,), limit=SHOWN_LIMIT, sort_desc=True
    )
    rows = codec.refilter(request, witness.peer, _ask(recovery, witness, request))
    return any(row.executor_id == recovery.executor_id for row in rows)


def _list_by_id(
    recovery: Recovery, witness: Target, ids: Sequence[str]
) -> list[WorkflowRow]:
    rows: list[WorkflowRow] = []
    for part in codec.id_parts(ids):
        request = messages.ListWorkflows(workflow_uuids=part, limit=len(part))
        rows += _ask(recovery, witness, request)
    wanted = set(ids)
    return [row for row in rows if row.workflow_id in wanted]


def _ask(
    recovery: Recovery, witness: Target, request: messages.ListWorkflows
) -> list[WorkflowRow]:
    reply = gateway.ask(
        recovery.application,
        request,
        timeout_s=TIMEOUT_S,
        executor_id=witness.executor_id,
    )
    rows: list[WorkflowRow] = reply.output
    return rows
