"""How many wrong tokens each address has sent to this process's HTTP API lately."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict

from apps import errors

WINDOW_SECS = 60.0
LIMIT = 60
MAX_ADDRESSES = 10_000
IPV6_PREFIX = 64

# Address → when its window began, and how many came since; the oldest window first.
_counts: OrderedDict[str, tuple[float, int]] = OrderedDict()


def count(address: str) -> None:
    """Count one more. Raises: TooManyRequests past the limit."""
    source, now = _source(address), time.monotonic()
    began, before = _counts.get(source, (now, 0))
    if now - began >= WINDOW_SECS:
        began, before = now, 0
    if before == 0:
        _counts.pop(source, None)
        if len(_counts) >= MAX_ADDRESSES:
            _counts.popitem(last=False)
    _counts[source] = (began, before + 1)
    if before >= LIMIT:
        raise errors.TooManyRequests(
            "Too many wrong tokens came from your address, and this one is wrong too.",
            retry_after_secs=math.ceil(began + WINDOW_SECS - now),
        )


def forget() -> None:
    """Start all over."""
    _counts.clear()


def _source(address: str) -> str:
    """The address, or the network of an IPv6 address: one client has all of it."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((known, IPV6_PREFIX), strict=False))
