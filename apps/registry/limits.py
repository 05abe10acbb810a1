"""How often each address did something lately, in the memory of this process.

Decided before the database is asked, so that whoever exceeds a limit costs nothing.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict

WINDOW_SECS = 60.0
MAX_ADDRESSES = 10_000
IPV6_PREFIX = 64


class AddressLimit:
    """At most `limit` in a minute from each address. The table is bounded: the address
    whose minute began first makes room for another."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Address → when its minute began, and how many came since; the oldest first.
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def count(self, address: str) -> int:
        """Count one more; return 0, or past the limit the seconds until the end of the
        minute."""
        source, now = source_of(address), time.monotonic()
        began, before = self._counts.get(source, (now, 0))
        if now - began >= WINDOW_SECS:
            began, before = now, 0
        if before == 0:
            self._counts.pop(source, None)
            if len(self._counts) >= MAX_ADDRESSES:
                self._counts.popitem(last=False)
        self._counts[source] = (began, before + 1)
        return self._wait(began, before + 1, now)

    def wait_secs(self, address: str) -> int:
        """What `count` returned last, without counting."""
        now = time.monotonic()
        began, count = self._counts.get(source_of(address), (now, 0))
        return self._wait(began, count, now)

    def is_exceeded(self) -> bool:
        """Whether any address is past the limit now."""
        now = time.monotonic()
        return any(self._wait(*entry, now) for entry in list(self._counts.values()))

    def clear(self) -> None:
        """Start all over."""
        self._counts.clear()

    def _wait(self, began: float, count: int, now: float) -> int:
        left = began + WINDOW_SECS - now
        return math.ceil(left) if count > self.limit and left > 0 else 0


def source_of(address: str) -> str:
    """The address, or the network of an IPv6 address: one client has all of it."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if known.version == 4:
        return address
    return str(ipaddress.ip_network((known, IPV6_PREFIX), strict=False))
