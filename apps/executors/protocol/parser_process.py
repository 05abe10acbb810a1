"""The process that parses long replies, so that the server's own stays responsive.

It reads blocks from its standard input, a pickled request and the text of its reply by
turns, and writes pickled pairs of a kind and a value to its standard output. Started
and driven by `apps.executors.parsers`. It knows neither Django nor any secret.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import resource
import select
import signal
import struct
import sys
from collections.abc import Iterator
from typing import IO, Any

from apps import errors
from apps.executors.protocol import codec
from apps.executors.protocol.messages import Request

# What a piece may hold, so that reading one keeps nobody waiting for long.
ROWS_PER_PIECE = 500
NICENESS = 5
# Without a reply for so long, it ends and gives its memory back.
IDLE_SECS = 10.0
_LENGTH = struct.Struct(">Q")

# The kinds of a pair: the reply without its longest list; the list's name; some of its
# rows; what was wrong; and the end.
REPLY, NAME, ROWS, PROBLEM, END = "reply", "name", "rows", "problem", "end"


def write_block(stream: IO[bytes], data: bytes) -> None:
    """Write a block behind its length in bytes."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)


def read_block(stream: IO[bytes]) -> bytes:
    """Return the next block. Raises: EOFError at the end of the stream."""
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    return _read(stream, length)


def _read(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main(memory_bytes: int) -> None:
    """Parse until the input ends or nothing comes, in at most so much memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server's to handle
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    while select.select([sys.stdin.buffer], [], [], IDLE_SECS)[0]:
        try:
            # Only requests are pickled here; what an executor sent is text.
            request = pickle.loads(read_block(sys.stdin.buffer))
        except EOFError:
            return
        for pair in _answer(request, read_block(sys.stdin.buffer)):
            write_block(sys.stdout.buffer, pickle.dumps(pair, pickle.HIGHEST_PROTOCOL))
        sys.stdout.buffer.flush()


def _answer(request: Request, data: bytes) -> Iterator[tuple[str, Any]]:
    try:
        yield from _pieces(codec.parse_reply(request, data.decode()))
    except errors.ProtocolError as exc:
        yield PROBLEM, exc.message
    except MemoryError:
        yield PROBLEM, "The executor's reply needs too much memory."
    yield END, None


def _pieces(reply: Any) -> Iterator[tuple[str, Any]]:
    """Take the reply's longest list out of it, and cut that into pieces."""
    lists = {
        field.name: value
        for field in dataclasses.fields(reply)
        if isinstance(value := getattr(reply, field.name), list)
    }
    if not lists:
        yield REPLY, reply
        return
    name = max(lists, key=lambda one: len(lists[one]))
    yield REPLY, dataclasses.replace(reply, **{name: []})
    yield NAME, name
    rows = lists[name]
    for start in range(0, len(rows), ROWS_PER_PIECE):
        yield ROWS, rows[start : start + ROWS_PER_PIECE]


if __name__ == "__main__":
    main(int(sys.argv[1]))
