"""How long a window is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.monitoring import windows
from tests.monitoring.conftest import NOON


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize(
    ("period", "length"),
    [(0.5, 1), (1, 1), (5, 5), (7, 6), (59, 30), (60, 60), (90, 60)],
)
def test_window_is_a_whole_part_of_a_minute(
    settings: Any, period: float, length: int
) -> None:
    settings.CONDUCTOR_METRICS_PERIOD_SECS = period

    assert windows.length() == seconds(length)
    assert windows.end_of(NOON) == NOON + seconds(length)
    assert windows.begin_of(NOON - seconds(0.1)) == NOON - seconds(length)
