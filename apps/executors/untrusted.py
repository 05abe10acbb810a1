"""What executors send is text of strangers: made storable before it meets a database.

PostgreSQL takes no NUL in text or jsonb, and no lone surrogates; jsonb takes no NaN.
"""

from __future__ import annotations

import json
import math

METADATA_LIMIT_CHARS = 16_384


def storable_text(value: object, limit: int) -> str:
    """Return `value` as text of at most `limit` characters; None becomes empty."""
    if value is None:
        return ""
    text = str(value).replace("\x00", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", "replace").decode()[:limit]


def storable_json(value: dict[str, object]) -> dict[str, object]:
    """Return an object that every database stores, or a note where it is too large."""
    cleaned = _clean(value, depth=0)
    if len(json.dumps(cleaned)) > METADATA_LIMIT_CHARS:
        return {"conductor": "metadata larger than 16 KB is not kept"}
    assert isinstance(cleaned, dict)
    return cleaned


def _clean(value: object, *, depth: int) -> object:
    if depth > 20:
        return "…"
    match value:
        case dict():
            return {
                storable_text(k, 1000): _clean(v, depth=depth + 1)
                for k, v in value.items()
            }
        case list() | tuple():
            return [_clean(v, depth=depth + 1) for v in value]
        case str():
            return storable_text(value, METADATA_LIMIT_CHARS)
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float():
            return value
        case _:
            return storable_text(value, 1000)
