"""The embedded Conductor stopped, and killed, under real executors."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.checks import (
    assert_a_killed_executor_is_recovered,
    assert_all_came_back,
)
from tests.chaos.rig import FULL, SCALE, BreakableEmbedded, Crew

pytestmark = [pytest.mark.e2e, pytest.mark.services]


def test_embedded_outage(tmp_path: Path, home: Path) -> None:
    with ExitStack() as stack:
        conductor = BreakableEmbedded(tmp_path)
        stack.callback(conductor.stop)
        crew = Crew(conductor, "outages", home)
        stack.callback(crew.stop)
        crew.start(SCALE.executors)
        for at_once in (False, True) if FULL else (True,):
            secs = SCALE.timeout_secs + 4 if at_once else SCALE.conductor_away_secs
            crew.begin_through(secs)
            before = set(crew.ids())

            conductor.take_away(at_once=at_once)
            time.sleep(secs)
            conductor.bring_back()

            assert_all_came_back(conductor, crew, before)
        assert_a_killed_executor_is_recovered(conductor, crew)
