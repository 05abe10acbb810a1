"""Parsing the replies of executors so that nobody else waits for it.

A short reply is parsed at once. A longer one takes a turn in a thread, and one that
takes longer still in a process of its own, with bounded memory, time and priority.
Turns are shared out fairly between organizations.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from apps import errors
from apps.executors.lanes import Lanes
from apps.executors.protocol import codec, parser_process, parsing
from apps.executors.protocol.messages import Request

ROOT = Path(__file__).resolve().parents[2]
# Up to these, a reply takes some 10 ms at the worst: a page of 50 workflows does.
SHORT_CHARS, SHORT_VALUES = 64 * 1024, 2_000
# Up to these, the interpreter is kept for some 5 ms at a time: a page of 500 does.
MIDDLE_CHARS, MIDDLE_VALUES = 2**20, 20_000
MIDDLE_AT_ONCE, LONG_AT_ONCE = 4, 2
# Real replies of 16 MiB take less than a second on a busy machine.
LONG_SECS = 20.0
BASE_MEMORY_BYTES = 256 * 2**20
# Then a process is used again; a little later it ends.
KEPT_SECS = parser_process.IDLE_SECS - 2
# A process is not used again after a longer reply, which made it large.
RETIRING_CHARS = 4 * 2**20

_middle = Lanes(
    "reply-parser",
    per_owner=2,
    per_group=MIDDLE_AT_ONCE // 2,
    total=MIDDLE_AT_ONCE,
    keeps_threads=True,
)
_long = Lanes(
    "long-reply-parser",
    per_owner=1,
    per_group=1,
    total=LONG_AT_ONCE,
    keeps_threads=True,
)
_waiting_chars: Counter[int] = Counter()
# With the moment since when each is idle.
_idle: list[tuple[float, _Process]] = []
_lock = threading.Lock()
# A forked worker has no use for its parent's processes.
os.register_at_fork(after_in_child=_idle.clear)


async def parse(
    request: Request, text: str, *, application_id: int, organization_id: int
) -> Any:
    """Return the request's `Reply`.

    Raises: ProtocolError; EveryExecutorFailed where too many long replies of the
    organization wait for their turn.
    """
    if is_short(text):
        return codec.parse_reply(request, text)
    is_middle = _is_within(text, MIDDLE_CHARS, MIDDLE_VALUES)
    lanes, function = (_middle, codec.parse_reply) if is_middle else (_long, _parse)
    chars = len(text)
    _count_waiting(organization_id, chars)
    running = lanes.begin(
        application_id,
        lambda: _finish(function, request, text),
        group=organization_id,
    )
    running.add_done_callback(lambda _: _count_done(organization_id, chars))
    reply = await asyncio.wrap_future(running)
    if isinstance(reply, errors.ProtocolError):
        # Raised out here: the traceback of one raised there would keep the text.
        raise errors.ProtocolError(reply.message)
    return reply


def is_short(text: str) -> bool:
    """Whether the event loop may parse this reply."""
    return _is_within(text, SHORT_CHARS, SHORT_VALUES)


def _is_within(text: str, chars: int, values: int) -> bool:
    return len(text) <= chars and parsing.values_at_most(text) <= values


def _count_waiting(organization_id: int, chars: int) -> None:
    limit = 4 * settings.CONDUCTOR_MAX_MESSAGE_BYTES
    with _lock:
        if _waiting_chars[organization_id] + chars > limit:
            raise errors.EveryExecutorFailed(
                "Too many long replies of this organization's executors wait to be "
                "read. Try again."
            )
        _waiting_chars[organization_id] += chars


def _count_done(organization_id: int, chars: int) -> None:
    with _lock:
        _waiting_chars[organization_id] -= chars
        if not _waiting_chars[organization_id]:
            del _waiting_chars[organization_id]


def _finish(
    function: Callable[[Request, str], Any], request: Request, text: str
) -> Any:
    """Return the reply, or the ProtocolError that it is."""
    try:
        return function(request, text)
    except errors.ProtocolError as exc:
        return exc.with_traceback(None)


def _parse(request: Request, text: str) -> Any:
    """Parse in another process. Raises: ProtocolError."""
    process = _take_idle() or _Process()
    try:
        reply = process.parse(request, text)
    except (OSError, EOFError):
        process.stop()
        raise errors.ProtocolError(
            "The executor's reply takes too long, or too much memory, to read."
        ) from None
    if len(text) > RETIRING_CHARS:
        process.stop()
    else:
        with _lock:
            _idle.append((time.monotonic(), process))
    if isinstance(reply, errors.ProtocolError):
        raise reply
    return reply


def _take_idle() -> _Process | None:
    """Return a process that is not about to end."""
    with _lock:
        newest = _idle.pop() if _idle else None
    if newest is None:
        return None
    since, process = newest
    if time.monotonic() - since < KEPT_SECS:
        return process
    process.stop()
    stop()  # The others are idle for longer.
    return None


def stop() -> None:
    """End the processes that wait for the next long reply."""
    with _lock:
        idle = list(_idle)
        _idle.clear()
    for _, process in idle:
        process.stop()


class _Process:
    """One parser process, used by one thread at a time."""

    def __init__(self) -> None:
        limit = BASE_MEMORY_BYTES + 16 * settings.CONDUCTOR_MAX_MESSAGE_BYTES
        self._process = subprocess.Popen(
            [sys.executable, "-m", parser_process.__name__, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            # No secret: what it reads is untrusted.
            env={
                name: os.environ[name]
                for name in ("PATH", "LD_LIBRARY_PATH")
                if name in os.environ
            },
        )

    def parse(self, request: Request, text: str) -> Any:
        """Return the reply, or the ProtocolError that it is. Raises: OSError, EOFError
        where the process ended, by itself or because its time was up."""
        timer = threading.Timer(LONG_SECS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            return self._exchange(request, text)
        finally:
            timer.cancel()

    def _exchange(self, request: Request, text: str) -> Any:
        assert self._process.stdin and self._process.stdout
        parser_process.write_block(self._process.stdin, pickle.dumps(request))
        parser_process.write_block(self._process.stdin, text.encode())
        self._process.stdin.flush()
        reply: Any = None
        name, rows = "", list[Any]()
        while True:
            block = parser_process.read_block(self._process.stdout)
            kind, value = pickle.loads(block)
            match kind:
                case parser_process.REPLY:
                    reply = value
                case parser_process.NAME:
                    name = value
                case parser_process.ROWS:
                    rows += value
                case parser_process.PROBLEM:
                    reply = errors.ProtocolError(value)
                case parser_process.END:
                    return dataclasses.replace(reply, **{name: rows}) if name else reply

    def stop(self) -> None:
        """End the process; what it was doing is lost."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # What was still to be written has no reader any more.
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()
