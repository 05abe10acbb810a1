"""One breakable Conductor for all outage tests; every test leaves it whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.rig import BreakableServices, breakable_services


@pytest.fixture(scope="session")
def services() -> Iterator[BreakableServices]:
    with breakable_services() as conductor:
        yield conductor


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for an application's files."""
    return tmp_path
