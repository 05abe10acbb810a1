"""Work that hangs holds up only its owner's."""

from __future__ import annotations

import threading

from apps.executors.lanes import Lanes

WAIT_SECS = 10


def test_an_owner_whose_work_hangs_holds_up_nobody_else() -> None:
    lanes = Lanes("test", per_owner=2, total=4)
    hang, done = threading.Event(), threading.Event()
    for _ in range(50):
        lanes.submit(1, lambda: hang.wait(WAIT_SECS), tenant=1)

    lanes.submit(2, done.set, tenant=1)

    assert done.wait(WAIT_SECS)
    hang.set()


def test_a_tenant_whose_work_hangs_in_many_owners_holds_up_no_other() -> None:
    lanes = Lanes("test", per_owner=2, total=4)
    hang, done = threading.Event(), threading.Event()
    for owner in range(20):
        lanes.submit(owner, lambda: hang.wait(WAIT_SECS), tenant=1)

    lanes.submit(100, done.set, tenant=2)

    assert done.wait(WAIT_SECS)
    hang.set()


def test_tenants_whose_work_hangs_take_only_so_many_threads() -> None:
    lanes = Lanes("test", per_owner=2, total=4, most=6)
    hang, begun = threading.Event(), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        hang.wait(WAIT_SECS)

    for owner in range(40):
        lanes.submit(owner, work, tenant=owner // 2)

    for _ in range(6):
        assert begun.acquire(timeout=WAIT_SECS)
    assert not begun.acquire(timeout=0.2)
    hang.set()
    for _ in range(34):
        assert begun.acquire(timeout=WAIT_SECS)


def test_what_waits_for_a_free_thread_runs_in_order_and_once() -> None:
    lanes = Lanes("test", per_owner=1, total=1)
    order: list[int] = []
    begin, done = threading.Event(), threading.Event()
    lanes.submit(1, lambda: begin.wait(WAIT_SECS), tenant=1)
    for number in range(20):
        lanes.submit(1, lambda number=number: order.append(number), tenant=1)
    lanes.submit(2, lambda: order.append(-1), tenant=1)
    lanes.submit(1, done.set, tenant=1)
    begin.set()

    assert done.wait(WAIT_SECS)
    assert sorted(order) == list(range(-1, 20))
    assert [number for number in order if number >= 0] == list(range(20))


def test_work_that_fails_does_not_end_the_lane() -> None:
    lanes = Lanes("test", per_owner=1, total=1)
    done = threading.Event()

    lanes.submit(1, lambda: 1 / 0, tenant=1)
    lanes.submit(1, done.set, tenant=1)

    assert done.wait(WAIT_SECS)
