"""The stretches of time that metrics are collected for.

A window is as long as the collection's period, a minute at most. Its length divides the
minute, so that whole windows make each bucket of a list, and windows end where the
clock's minutes do. After the setting changed, the first window ends at the next
boundary of the new length: windows never overlap, and each row says how long it is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings

MINUTE_SECS = 60
# What was committed in a window is there so much after its end, also where the
# application's clock is a little behind.
SETTLE = timedelta(seconds=5)


def length() -> timedelta:
    """Return the longest divisor of a minute that is no longer than the period."""
    period = settings.CONDUCTOR_METRICS_PERIOD_SECS
    divisors = (n for n in range(MINUTE_SECS, 0, -1) if MINUTE_SECS % n == 0)
    return timedelta(seconds=next((n for n in divisors if n <= period), 1))


def begin_of(moment: datetime) -> datetime:
    """Return when the window that a moment is in begins."""
    seconds = int(length().total_seconds())
    epoch = int(moment.timestamp())
    return datetime.fromtimestamp(epoch - epoch % seconds, UTC)


def end_of(start: datetime) -> datetime:
    """Return when a window that begins here ends: at the next boundary."""
    return begin_of(start) + length()


def settle() -> timedelta:
    """Return how long after its end a window is asked about: less for short ones."""
    return min(SETTLE, length() / 4)


def next_turn(now: datetime) -> datetime:
    """Return when the next window that ends has settled. Where the period is longer
    than a window, several are collected at once."""
    window_secs = length().total_seconds()
    period = float(settings.CONDUCTOR_METRICS_PERIOD_SECS)
    step = period if window_secs == MINUTE_SECS else window_secs
    passed = (now - settle()).timestamp() % step
    return now + timedelta(seconds=step - passed)
