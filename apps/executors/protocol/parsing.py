"""Bounds on the JSON that executors send, known before it is parsed.

`json.loads` keeps the interpreter to itself until it is through, and small values take
many times the memory of their text. So what a text holds is counted first: whoever
calls `codec.parse_reply` decides by `values_at_most` where that is done.
"""

from __future__ import annotations

import json
import re
from typing import Any

# A page of 500 workflows holds 20,000 values.
VALUES_LIMIT = 1_000_000
ROWS_LIMIT = 100_000
# It matches an unfinished string too, so that it never looks at anything twice.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class TooManyValues(ValueError):
    """It holds more values than any reply needs."""


def loads(text: str) -> Any:
    """Return what a JSON text holds. Raises: ValueError, RecursionError."""
    # What stands in strings is no value. They are taken out only where they matter.
    if (
        values_at_most(text) > VALUES_LIMIT
        and values_at_most(_STRING.sub("", text)) > VALUES_LIMIT
    ):
        raise TooManyValues(f"more than {VALUES_LIMIT:,} values")
    return json.loads(text)


def values_at_most(text: str) -> int:
    """Count what begins or separates values, also where it is part of a string."""
    return text.count(",") + text.count("[") + text.count("{")


def limit_rows(values: list[Any]) -> list[Any]:
    """Return the rows of a reply. Raises: TooManyValues."""
    if len(values) > ROWS_LIMIT:
        raise TooManyValues(f"more than {ROWS_LIMIT:,} rows")
    return values
