"""Work that hangs holds up only its owner's."""

from __future__ import annotations

import logging
import threading

import pytest

from apps.database import PoolExhausted
from apps.executors.lanes import Lanes

WAIT_SECS = 10


def test_an_owner_whose_work_hangs_holds_up_nobody_else() -> None:
    lanes = Lanes("test", per_owner=2, total=4)
    hang, done = threading.Event(), threading.Event()
    for _ in range(50):
        lanes.submit(1, lambda: hang.wait(WAIT_SECS))

    lanes.submit(2, done.set)

    assert done.wait(WAIT_SECS)
    hang.set()


def test_what_waits_for_a_free_thread_runs_in_order_and_once() -> None:
    lanes = Lanes("test", per_owner=1, total=1)
    order: list[int] = []
    begin, done = threading.Event(), threading.Event()
    lanes.submit(1, lambda: begin.wait(WAIT_SECS))
    for number in range(20):
        lanes.submit(1, lambda number=number: order.append(number))
    lanes.submit(2, lambda: order.append(-1))
    lanes.submit(1, done.set)
    begin.set()

    assert done.wait(WAIT_SECS)
    assert sorted(order) == list(range(-1, 20))
    assert [number for number in order if number >= 0] == list(range(20))


def test_work_that_fails_does_not_end_the_lane() -> None:
    lanes = Lanes("test", per_owner=1, total=1)
    done = threading.Event()

    lanes.submit(1, lambda: 1 / 0)
    lanes.submit(1, done.set)

    assert done.wait(WAIT_SECS)


def test_work_without_a_database_is_put_off_and_says_so_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before, each piece of work left a traceback in the log."""
    lanes = Lanes("test", per_owner=1, total=1)
    done = threading.Event()

    def work() -> None:
        raise PoolExhausted("every database connection of this process is in use")

    with caplog.at_level(logging.INFO, logger="apps.executors.lanes"):
        lanes.submit(1, work)
        lanes.submit(1, done.set)
        assert done.wait(WAIT_SECS)

    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert record.error == "every database connection of this process is in use"


def test_groups_whose_work_all_hangs_do_not_keep_a_newcomer_out() -> None:
    """Before, four owners with four threads each held all sixteen."""
    lanes = Lanes("test", per_owner=4, per_group=4, total=8, reserve=8)
    hang, done = threading.Event(), threading.Event()
    for group in range(10):
        for owner in range(10 * group, 10 * group + 10):
            lanes.submit(owner, lambda: hang.wait(WAIT_SECS), group=group)

    lanes.submit(1_000, done.set, group=1_000)

    assert done.wait(WAIT_SECS)
    hang.set()


def test_a_group_runs_no_more_than_its_share() -> None:
    lanes = Lanes("test", per_owner=4, per_group=3, total=8, reserve=8)
    hang, begun = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        hang.wait(WAIT_SECS)

    for owner in range(10):
        lanes.submit(owner, work, group=1)

    assert all(begun.acquire(timeout=WAIT_SECS) for _ in range(3))
    assert not begun.acquire(timeout=0.5)
    hang.set()
    assert all(begun.acquire(timeout=WAIT_SECS) for _ in range(7))
