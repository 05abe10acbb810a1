"""Conductor as it is really run, once per way of running it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.stack import Stack
from tests.e2e.world import Conductor, Embedded, Services


@pytest.fixture(scope="package", params=["embedded", "services"])
def conductor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Conductor]:
    with ExitStack() as stack:
        if request.param == "embedded":
            embedded = Embedded(tmp_path_factory.mktemp("conductor"))
            stack.callback(embedded.stop)
            yield embedded
        else:
            processes = Stack(organization="acme", LOG_LEVEL="INFO")
            yield Services(stack.enter_context(processes))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for an application's files."""
    return tmp_path
