"""What tells an executor's system database from another; see docs/adr/0006.

A *mark* is something that lies in the database and nowhere else. Application versions
are the best: each row has a random id, and no SDK removes one. An SDK that cannot list
them names its oldest workflows instead.
"""

from __future__ import annotations

import hashlib
from typing import Any

from apps.executors.protocol import codec, messages
from apps.executors.protocol.messages import Request

TIMEOUT_S = 3.0
# Longer answers are not read: the database stays unknown.
ANSWER_CHARS = 1_000_000
MARKS_LIMIT = 1_000
OLDEST_WORKFLOWS = 20
# After a question without an answer, and on a database that is still empty.
ASK_AGAIN_FIRST_S, ASK_AGAIN_LAST_S = 5.0, 300.0
VERSION, WORKFLOW = "v", "w"


def question(peer: codec.Peer) -> Request:
    """Return what to ask an executor of this SDK version."""
    if codec.supports(peer, messages.ListApplicationVersions):
        return messages.ListApplicationVersions()
    return messages.ListWorkflows(
        limit=OLDEST_WORKFLOWS, load_input=False, load_output=False
    )


def read_marks(asked: Request, reply: Any) -> tuple[str, ...]:
    """Return the marks that a reply holds, the oldest first; none for an error."""
    output = reply.output or []
    if isinstance(asked, messages.ListApplicationVersions):
        kind = VERSION
        found = [(row.created_at, row.version_id) for row in output]
    else:
        kind = WORKFLOW
        found = [
            (row.created_at, f"{row.workflow_id} {row.created_at.timestamp():.3f}")
            for row in output[:OLDEST_WORKFLOWS]
            if row.workflow_id and row.created_at is not None
        ]
    found.sort(key=lambda one: (one[0] is not None, one[0] or 0, one[1]))
    return tuple(f"{kind}:{digest(name)}" for _, name in found[:MARKS_LIMIT])


def digest(text: str) -> str:
    """Return a short name of a text, whatever a stranger put into it."""
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()
