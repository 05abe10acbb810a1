"""Reading JSON of strangers in bounded time and memory.

`json.loads` keeps the interpreter to itself until it is through: 16 MiB that hold
nothing but small values take half a second, in which nobody else is served, whichever
thread reads them. So what may hold many values is read in pieces, between which other
threads run, and given up where it holds more than any real reply.
"""

from __future__ import annotations

import json
from typing import Any

import ijson
from ijson.common import ObjectBuilder

# Up to this length the worst text takes some 30 ms.
PLAIN_CHARS = 2**20
# So many values take some 50 ms. Real replies of any length stay below it, unless a
# text in them holds as many commas.
PLAIN_VALUES = 400_000
# Some 250 MB in memory at the worst; a page of 500 workflows holds 20,000.
VALUES_LIMIT = 1_000_000
PIECE_BYTES = 64 * 1024


class TooManyValues(ValueError):
    """It holds more values than any reply needs."""


def loads(text: str | bytes) -> Any:
    """Return what a JSON text holds. Raises: ValueError, RecursionError."""
    if len(text) <= PLAIN_CHARS or _values_at_most(text) <= PLAIN_VALUES:
        return json.loads(text)
    return _loads_in_pieces(text if isinstance(text, bytes) else text.encode())


def _values_at_most(text: str | bytes) -> int:
    """Count what begins or separates values, also where it is part of a string."""
    if isinstance(text, bytes):
        return text.count(b",") + text.count(b"[") + text.count(b"{")
    return text.count(",") + text.count("[") + text.count("{")


def _loads_in_pieces(data: bytes) -> Any:
    builder, events = ObjectBuilder(), ijson.sendable_list()
    reader = ijson.basic_parse_coro(events, use_float=True)
    count = 0
    for start in range(0, len(data), PIECE_BYTES):
        reader.send(data[start : start + PIECE_BYTES])
        count += len(events)
        if count > VALUES_LIMIT:
            raise TooManyValues(f"more than {VALUES_LIMIT:,} values")
        for event, value in events:
            builder.event(event, value)
        del events[:]
    reader.close()
    return builder.value
