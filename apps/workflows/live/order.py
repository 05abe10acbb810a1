"""The one order of workflows, and a position in it.

Executors order by creation time only, and PostgreSQL orders the workflows of one moment
anew in every query. So within a moment we order by id, by code points: live lists and
snapshots alike, so that a position stays right when the application leaves or returns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apps import errors
from apps.executors.protocol.rows import WorkflowRow

# A workflow without a creation time has this one: it comes last.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The first and the last that an executor can be asked for.
EARLIEST = EPOCH + timedelta(milliseconds=1)
LATEST = EPOCH + timedelta(milliseconds=253_402_300_799_000)
MILLISECOND = timedelta(milliseconds=1)
_POSITION = re.compile(r"([0-9]{1,15})-(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: after this workflow, whether or not it still exists. With an
    empty id: before all of this moment."""

    created_at: datetime
    workflow_id: str = ""

    @classmethod
    def of(cls, row: WorkflowRow) -> Position:
        return cls(moment_of(row), row.workflow_id)

    @classmethod
    def parse(cls, text: str) -> Position:
        """Raises: InvalidInput."""
        found = _POSITION.fullmatch(text)
        if found is None or int(found[1]) > (LATEST - EPOCH) // MILLISECOND:
            raise errors.InvalidInput("This link to a page is not complete.")
        return cls(EPOCH + int(found[1]) * MILLISECOND, found[2])

    def __str__(self) -> str:
        return f"{(self.created_at - EPOCH) // MILLISECOND}-{self.workflow_id}"


def moment_of(row: WorkflowRow) -> datetime:
    """Return the creation time, or EPOCH where there is none."""
    return row.created_at or EPOCH


def by_id(rows: Iterable[WorkflowRow]) -> list[WorkflowRow]:
    """Return those that have an id, each once, in the order within a moment."""
    unique = {row.workflow_id: row for row in rows if row.workflow_id}
    return [unique[workflow_id] for workflow_id in sorted(unique)]
