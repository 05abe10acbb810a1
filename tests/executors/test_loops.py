"""Waiting for what happens on the loop, from threads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.db import connection

from apps.executors import loops
from apps.executors.models import Executor


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_who_waits_long_holds_no_database_connection(transactional_db: Any) -> None:
    """Before, each of the threads that waited for an executor kept one."""
    assert not Executor.objects.exists()
    assert connection.connection is not None

    loops.run(_sleep(2 * loops.QUICK_S), timeout_s=10)

    assert connection.connection is None
    assert not Executor.objects.exists()


def test_a_quick_answer_keeps_the_connection(transactional_db: Any) -> None:
    assert not Executor.objects.exists()

    loops.run(_sleep(0), timeout_s=10)

    assert connection.connection is not None


def test_what_takes_too_long_is_given_up(transactional_db: Any) -> None:
    with pytest.raises(TimeoutError):
        loops.run(_sleep(30), timeout_s=2 * loops.QUICK_S)
