"""The budget of messages that are being received: bounded, fair, and never stuck."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from conductor_site.receiving import FREE_BYTES, STEP_BYTES, Budget, Reservation
from tests.site.test_server import Running, probe, raw_websocket

KIB, MIB = 2**10, 2**20
LARGEST = 16 * MIB


def nothing() -> None:
    """What these tests ask for themselves."""


@pytest.fixture
def budget() -> Budget:
    return Budget(size=8 * LARGEST, share=2 * LARGEST, largest=LARGEST)


def whole(budget: Budget, owner: str, size: int) -> Reservation:
    """Ask for the room of a message in one frame."""
    reservation = Reservation(owner, nothing)
    granted = budget.reserve(reservation, size, is_whole=True)
    assert granted is not reservation.waits
    return reservation


def test_one_owner_has_no_more_than_its_share(budget: Budget) -> None:
    hostile = [whole(budget, "hostile", 12 * MIB) for _ in range(30)]

    assert [one.waits for one in hostile] == [False] * 2 + [True] * 28
    assert budget.held == 24 * MIB
    assert not whole(budget, "other", LARGEST).waits


def test_all_owners_have_no_more_than_there_is(budget: Budget) -> None:
    all_of_them = [whole(budget, f"owner {n}", LARGEST) for n in range(30)]

    assert budget.held == 8 * LARGEST
    assert [one.waits for one in all_of_them] == [False] * 8 + [True] * 22


def test_a_message_over_the_share_comes_alone() -> None:
    budget = Budget(size=0, share=0, largest=LARGEST)

    first, second = whole(budget, "a", LARGEST), whole(budget, "b", LARGEST)
    assert (first.waits, second.waits) == (False, True)
    budget.release(first)
    assert not second.waits


def test_first_come_first_served(budget: Budget) -> None:
    served: list[int] = []

    def ask(number: int, size: int) -> Reservation:
        reservation = Reservation("a", lambda: served.append(number))
        budget.reserve(reservation, size, is_whole=True)
        return reservation

    first = ask(0, LARGEST)
    asked = [ask(n, LARGEST if n % 2 else MIB) for n in range(1, 8)]
    for one in (first, *asked):
        budget.release(one)

    assert served == list(range(8))
    assert budget.held == 0


def test_who_holds_least_is_served_first(budget: Budget) -> None:
    held = [whole(budget, f"hostile {n // 2}", LARGEST) for n in range(8)]
    waiting = [whole(budget, f"hostile {n % 4}", LARGEST) for n in range(40)]
    late = whole(budget, "late", LARGEST)
    assert all(one.waits for one in (*waiting, late))

    budget.release(held[0])

    assert not late.waits
    assert all(one.waits for one in waiting)


def test_small_ones_do_not_overtake_a_large_one_for_ever() -> None:
    budget = Budget(size=2 * LARGEST, share=2 * LARGEST, largest=LARGEST)
    small = [whole(budget, "small", MIB) for _ in range(20)]
    large = whole(budget, "large", LARGEST)
    more = [whole(budget, "small", MIB) for _ in range(20)]
    assert large.waits
    assert all(one.waits for one in more)

    for one in small[:4]:
        budget.release(one)

    assert not large.waits


def test_what_stops_waiting_lets_those_behind_it_pass(budget: Budget) -> None:
    held = whole(budget, "a", 20 * MIB)
    gone = whole(budget, "a", LARGEST)
    behind = whole(budget, "a", MIB)
    assert not held.waits
    assert gone.waits
    assert behind.waits

    budget.release(gone)

    assert not behind.waits
    budget.release(gone)  # Nothing is freed twice.
    assert budget.held == 21 * MIB


def grow(budget: Budget, one: Reservation, size: int, *, ends: bool = False) -> bool:
    return budget.reserve(one, size, is_whole=ends)


def test_half_received_messages_do_not_hold_each_other_up(budget: Budget) -> None:
    messages = [Reservation("a", nothing) for _ in range(10)]
    sizes = Counter[Reservation]()
    for size in range(STEP_BYTES, LARGEST + 1, STEP_BYTES):
        for one in messages:
            if not one.waits:
                sizes[one] = size
                grow(budget, one, size)

    assert budget.held <= 2 * LARGEST
    ended = 0
    while messages:
        going = [one for one in messages if not one.waits]
        assert going, "every message waits for another"
        for one in going:
            if sizes[one] == LARGEST:
                budget.release(one)
                messages.remove(one)
                ended += 1
            else:
                sizes[one] += STEP_BYTES
                grow(budget, one, sizes[one], ends=sizes[one] == LARGEST)

    assert ended == 10
    assert budget.held == 0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_it_is_bounded_and_goes_on(seed: int) -> None:
    """Messages of every size, whole and in fragments, of owners by chance; some break
    off. Each step is one that a connection that is being read can take."""
    dice = random.Random(seed)
    share, size = dice.choice([(16, 16), (32, 128), (20, 40)])
    budget = Budget(size=size * MIB, share=share * MIB, largest=LARGEST)
    # Of each: its length, and how much of it has come.
    messages: dict[Reservation, tuple[int, int]] = {}
    begun = ended = 0
    while begun < 300 or messages:
        if begun < 300 and len(messages) < 40 and dice.random() < 0.5:
            one = Reservation(dice.randrange(6), nothing)
            length = dice.randint(FREE_BYTES + 1, dice.choice([MIB, LARGEST]))
            come = length if dice.random() < 0.5 else FREE_BYTES + 1
            messages[one] = (length, come)
            budget.reserve(one, come, is_whole=come == length)
            begun += 1
        going = [one for one in messages if not one.waits]
        assert going or not messages, "every message waits for another"
        for one in going:
            length, come = messages[one]
            if come == length or dice.random() < 0.02:
                del messages[one]
                budget.release(one)
                ended += 1
            else:
                come = min(come + dice.randint(1, MIB), length)
                messages[one] = (length, come)
                budget.reserve(one, come, is_whole=come == length)
        held = Counter[int]()
        for one, (_, come) in messages.items():
            assert one.waits or one.held >= come
            held[one.owner] += one.held  # type: ignore[index]
        assert budget.held == held.total() <= size * MIB
        assert all(part <= share * MIB for part in held.values())

    assert ended == begun
    assert budget.held == 0


def test_a_crowd_that_waits_costs_little(budget: Budget) -> None:
    begun = time.monotonic()
    crowd = [whole(budget, "crowd", LARGEST) for _ in range(30_000)]
    for one in crowd:
        budget.release(one)

    assert budget.held == 0
    assert time.monotonic() - begun < 20  # It takes a fraction of a second.


# --- On the real server, which has room for one large message


SIZE = 900_000
TEXT = "y" * SIZE
# A frame's head: text, or a fragment of it, with a mask of zeros.
FINAL, FIRST, MORE, LAST = 0x81, 0x01, 0x00, 0x80


def frame(kind: int, payload: bytes, *, length: int | None = None) -> bytes:
    """Return a client's frame, or the beginning of one that is `length` long."""
    length = length or len(payload)
    code, size = (126, 2) if length < 2**16 else (127, 8)
    head = bytes((kind, 0x80 | code)) + length.to_bytes(size, "big")
    return head + bytes(4) + payload


def is_echoed(raw: socket.socket) -> bool:
    """Whether a whole large message comes back."""
    raw.settimeout(10)
    data = b""
    while not data.endswith(TEXT.encode()):
        data += raw.recv(2**20)
    return True


def begin(running: Running) -> socket.socket:
    """Send the beginning of a large message, which takes all the room."""
    raw = raw_websocket(running.port)
    raw.sendall(frame(FINAL, TEXT.encode()[:-9], length=SIZE))
    return raw


def have_wait(waiting: ClientConnection) -> None:
    """Send a large message, for which there is no room."""
    waiting.send(TEXT)
    with pytest.raises(TimeoutError):
        waiting.recv(timeout=0.5)


def test_who_waits_for_room_loses_nothing(tmp_path: Path) -> None:
    # Two seconds of silence end a connection; this one is not read for four.
    with (
        probe(tmp_path / "log", ping_secs=1) as running,
        begin(running) as held,
        running.connect("/echo") as waiting,
    ):
        have_wait(waiting)
        waiting.send("small")
        for _ in range(9):
            time.sleep(0.4)
            held.sendall(b"y")

        assert is_echoed(held)
        assert waiting.recv(timeout=10) == TEXT
        assert waiting.recv(timeout=10) == "small"


def test_room_is_free_again_when_a_connection_ends(tmp_path: Path) -> None:
    with (
        probe(tmp_path / "log") as running,
        begin(running) as held,
        running.connect("/echo") as waiting,
    ):
        have_wait(waiting)
        held.close()

        assert waiting.recv(timeout=10) == TEXT


def test_who_waits_too_long_loses_the_message_alone(tmp_path: Path) -> None:
    with (
        probe(tmp_path / "log", wait_secs=1) as running,
        begin(running),
        running.connect("/echo") as waiting,
    ):
        have_wait(waiting)
        waiting.send("small")

        assert waiting.recv(timeout=10) == "small"
        running.wait_for_log("had no room for too long", within_s=5)


def test_a_vanished_peer_is_noticed_while_it_waits(tmp_path: Path) -> None:
    with (
        probe(tmp_path / "log", ping_secs=1, wait_secs=1) as running,
        begin(running),
        running.connect("/echo") as waiting,
    ):
        have_wait(waiting)
        waiting.socket.shutdown(socket.SHUT_WR)

        running.wait_for_log("gone", within_s=10)


def test_who_dribbles_holds_no_room_for_long(tmp_path: Path) -> None:
    with (
        probe(tmp_path / "log", message_secs=2) as running,
        begin(running) as held,
        running.connect("/echo") as waiting,
    ):
        for _ in range(4):
            held.sendall(b"y" * 2)
            time.sleep(1)
        waiting.send(TEXT)

        assert waiting.recv(timeout=10) == TEXT
        # Of the message it dribbled nothing is left; the connection is.
        held.sendall(b"y" + frame(FINAL, TEXT.encode()))
        assert is_echoed(held)


def test_messages_in_fragments_go_on_by_turns(tmp_path: Path) -> None:
    data = TEXT.encode()
    parts = [data[start : start + 4096] for start in range(0, SIZE, 4096)]
    with (
        probe(tmp_path / "log") as running,
        raw_websocket(running.port) as one,
        raw_websocket(running.port) as other,
    ):
        for number, part in enumerate(parts):
            kind = FIRST if not number else LAST if number == len(parts) - 1 else MORE
            for raw in (one, other):
                raw.sendall(frame(kind, part))

        assert is_echoed(one)
        assert is_echoed(other)


def test_fragments_smaller_than_anybody_needs_close_the_connection(
    tmp_path: Path,
) -> None:
    with probe(tmp_path / "log") as running, running.connect("/echo") as websocket:
        with contextlib.suppress(ConnectionClosed):
            websocket.send("x" for _ in range(20_000))
        with pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)

        assert websocket.close_code == 1008
