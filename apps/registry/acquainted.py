"""Whose credentials were good lately in this process.

A hint for sharing out what is scarce, never a verdict: each request is still
authenticated. Kept are fingerprints, in a bounded table.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT = 20_000

_known: OrderedDict[str, None] = OrderedDict()
# What to call when a credential is found to be good.
_awaited: dict[str, list[Callable[[], object]]] = {}


def fingerprint(credential: str) -> str:
    """Return what stands for a token or a session's key."""
    return hashlib.sha256(credential.encode()).hexdigest()


def note(fingerprint_: str) -> None:
    """Note that a credential was good."""
    _known[fingerprint_] = None
    _known.move_to_end(fingerprint_)
    if len(_known) > LIMIT:
        _known.popitem(last=False)
    for callback in _awaited.pop(fingerprint_, ()):
        callback()


@contextmanager
def awaited(fingerprint_: str, callback: Callable[[], object]) -> Iterator[None]:
    """Have `callback` called, in any thread, if the credential is found to be good
    meanwhile."""
    _awaited.setdefault(fingerprint_, []).append(callback)
    try:
        yield
    finally:
        callbacks = _awaited.get(fingerprint_, [])
        if callback in callbacks:
            callbacks.remove(callback)
            if not callbacks:
                _awaited.pop(fingerprint_, None)


def is_known(fingerprint_: str) -> bool:
    """Whether a credential was good lately."""
    return fingerprint_ in _known


def clear() -> None:
    """Start all over."""
    _known.clear()
