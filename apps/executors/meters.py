"""What this process counts of its own talking to executors, for `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Histogram

from apps.executors.sockets import Lost, NotSent, TimedOut

_ASKS = Counter(
    "conductor_gateway_asks",
    "Messages that this process sent to executors, by what came of them.",
    ["message", "outcome"],
)
_ASK_SECONDS = Histogram(
    "conductor_gateway_ask_seconds",
    "How long executors took to answer this process.",
    ["message"],
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 30),
)
# A rejection for a key that was not sent; the others are the model's reasons.
MISSING_KEY = "missing_key"
_REJECTED = Counter(
    "conductor_rejected_connections",
    "Handshakes of executors that this process did not accept, by reason.",
    ["reason"],
)


def count_rejected(reason: str) -> None:
    """Count one handshake that was not accepted."""
    _REJECTED.labels(reason).inc()


@contextmanager
def asking(message: str) -> Iterator[None]:
    """Meter one message to one executor."""
    began, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "answered"
    except NotSent:
        outcome = "not_sent"
        raise
    except TimedOut:
        outcome = "timed_out"
        raise
    except Lost:
        outcome = "lost"
        raise
    finally:
        _ASKS.labels(message, outcome).inc()
        if outcome == "answered":
            _ASK_SECONDS.labels(message).observe(time.perf_counter() - began)
