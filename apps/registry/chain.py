"""The chain of an audit log, as arithmetic: what the hash of an entry and the seal of a
chain are.

Anybody can check the hashes of a log that they hold. That nobody rewrote the whole of
it needs the seal, which only who knows SECRET_KEY can make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from django.conf import settings
from django.utils.crypto import constant_time_compare, salted_hmac

# What an entry's hash is of: all that it says, and the hash of the one before it.
COLUMNS = (
    "organization_id",
    "sequence",
    "emitted_at",
    "operation",
    "outcome",
    "subject_type",
    "subject_id",
    "subject_display",
    "actor_key",
    "target_type",
    "target_id",
    "source_ip",
    "request_id",
    "user_agent",
    "details",
    "previous_hash",
)
ENDS = ("organization_id", "sequence", "hash", "removed_sequence", "removed_hash")
_STRING_CHARS = 512
_ITEMS = 1_000
_DEPTH = 8


def digest(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an entry's columns, as JSON in one way only."""
    at = entry["emitted_at"].astimezone(UTC).isoformat(timespec="microseconds")
    columns = {name: entry[name] for name in COLUMNS} | {"emitted_at": at}
    return hashlib.sha256(_canonical(columns).encode()).hexdigest()


def seal(chain: Mapping[str, Any]) -> str:
    """Return what proves that Conductor wrote the ends of a chain."""
    return _seal(chain, settings.SECRET_KEY)


def is_sealed(chain: Mapping[str, Any]) -> bool:
    """Whether the seal is right, by SECRET_KEY or one of its predecessors."""
    known = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return any(
        constant_time_compare(chain["seal"], _seal(chain, secret)) for secret in known
    )


def _seal(chain: Mapping[str, Any], secret: str) -> str:
    ends = _canonical({name: chain[name] for name in ENDS})
    made = salted_hmac("conductor.audit", ends, secret, algorithm="sha256")
    return made.hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# --- What both databases give back as it was put in ----------------------------------


def storable_text(text: str, limit: int = _STRING_CHARS) -> str:
    """PostgreSQL stores no NUL and no half of a character."""
    cleaned = text.replace("\0", "").encode("utf-8", "replace").decode()
    return cleaned if len(cleaned) <= limit else f"{cleaned[: limit - 1]}…"


def storable_details(value: Any, depth: int = 0) -> Any:
    """Return details as JSON that is bounded and read as it was written. A fraction is
    text: PostgreSQL writes some in another way."""
    if value is None or isinstance(value, bool | int):
        return value
    if depth == _DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {
            storable_text(str(key)): storable_details(one, depth + 1)
            for key, one in list(value.items())[:_ITEMS]
        }
    if isinstance(value, list | tuple | set | frozenset):
        items = [storable_details(one, depth + 1) for one in list(value)[:_ITEMS]]
        more = len(value) - _ITEMS
        return [*items, f"… and {more:,} more"] if more > 0 else items
    return storable_text(str(value))
