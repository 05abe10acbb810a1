"""How many wrong tokens each address has sent to this process's HTTP API lately."""

from __future__ import annotations

from apps import errors
from apps.registry.limits import WINDOW_SECS, AddressLimit

LIMIT = 60

__all__ = ["LIMIT", "WINDOW_SECS", "count", "forget"]

_limit = AddressLimit(LIMIT)


def count(address: str) -> None:
    """Count one more. Raises: TooManyRequests past the limit."""
    if wait := _limit.count(address):
        raise errors.TooManyRequests(
            "Too many wrong tokens came from your address, and this one is wrong too.",
            retry_after_secs=wait,
        )


def forget() -> None:
    """Start all over."""
    _limit.clear()
