"""The pool of database connections: how long one waits, and that none gets lost."""

from __future__ import annotations

import threading
import time

from conductor_site.database.base import Permits


def test_the_wait_for_a_permit_is_bounded() -> None:
    permits = Permits(1)
    assert permits.acquire(0)

    began = time.monotonic()
    assert not permits.acquire(0.05)

    assert time.monotonic() - began < 5
    permits.release()
    assert permits.acquire(0)


def test_whoever_waits_longest_is_served_first() -> None:
    permits = Permits(1)
    permits.acquire(0)
    served: list[int] = []

    def wait(number: int) -> None:
        if permits.acquire(30):
            served.append(number)
            permits.release()

    threads = []
    for number in range(5):
        thread = threading.Thread(target=wait, args=(number,))
        thread.start()
        threads.append(thread)
        while len(permits._waiting) <= number:
            time.sleep(0.001)
    permits.release()
    for thread in threads:
        thread.join(30)

    assert served == list(range(5))
    assert permits.free == 1
