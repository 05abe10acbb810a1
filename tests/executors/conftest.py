"""These tests are the only process: it holds every socket there is."""

from __future__ import annotations

import pytest

from apps.executors import bus


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no other process, whatever the settings say, but in tests of the bus."""
    if "real_bus" not in request.keywords:
        monkeypatch.setattr(bus, "is_local", lambda: True)
