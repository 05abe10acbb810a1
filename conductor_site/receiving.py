"""How much of the large messages that are being received is in memory at a time.

A message over `FREE_BYTES` needs room, of its owner's share and of what this process
has in all, before it is read. Until there is some its connection is not read, so that
TCP holds its sender up.

How long a message in fragments becomes is unknown until the last of them, so its room
grows in steps. The one that grew first can always have as much as any message may need:
else several could hold what none of them can end with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

FREE_BYTES = 64 * 1024
STEP_BYTES = 256 * 1024


class Reservation:
    """The room of one message. `go_on` is called whenever it gets some."""

    __slots__ = ("go_on", "grows", "held", "owner", "wanted")

    def __init__(self, owner: Hashable, go_on: Callable[[], None]) -> None:
        self.owner = owner
        self.go_on = go_on
        self.held = self.wanted = 0
        self.grows = False

    @property
    def waits(self) -> bool:
        """Whether it has less than it asked for."""
        return self.wanted > self.held


class _Bound:
    """So many bytes, and who holds some of them."""

    def __init__(self, size: int, largest: int) -> None:
        self.size, self.largest = size, largest
        self.held = 0
        # In the order in which they got their first room.
        self.growing: dict[Reservation, None] = {}

    def has_room(self, reservation: Reservation) -> bool:
        first = next(iter(self.growing), reservation if reservation.grows else None)
        kept = 0
        if first is not None:
            has = first.wanted if first is reservation else first.held
            kept = self.largest - has
        more = reservation.wanted - reservation.held
        return self.held + more + kept <= self.size

    def grant(self, reservation: Reservation) -> None:
        self.held += reservation.wanted - reservation.held
        if reservation.grows:
            self.growing[reservation] = None

    def free(self, reservation: Reservation) -> None:
        self.held -= reservation.held
        self.growing.pop(reservation, None)


class Budget:
    """The room of all messages: `size` bytes, of which one owner has at most `share`.
    Neither is less than `largest`, the limit of one message."""

    def __init__(self, *, size: int, share: int, largest: int) -> None:
        self.share, self.largest = max(share, largest), largest
        self._all = _Bound(max(size, largest), largest)
        self._owners: dict[Hashable, _Bound] = {}
        # Those that wait and hold nothing, in the order in which they came. In a plain
        # dict the first is looked for behind all that were deleted before it.
        self._waiting: dict[Hashable, OrderedDict[Reservation, None]] = {}

    @property
    def held(self) -> int:
        """How many bytes are reserved in all."""
        return self._all.held

    def reserve(self, reservation: Reservation, size: int, *, is_whole: bool) -> bool:
        """Ask for room for `size` bytes of a message, which are all of it or not;
        return whether there is."""
        if size <= reservation.held:
            return True
        steps = -(-size // STEP_BYTES)
        reservation.wanted = size if is_whole else min(steps * STEP_BYTES, self.largest)
        owner = reservation.owner
        self._owners.setdefault(owner, _Bound(self.share, self.largest))
        if not reservation.held:
            reservation.grows = not is_whole
            self._waiting.setdefault(owner, OrderedDict())[reservation] = None
        self._serve()
        return not reservation.waits

    def release(self, reservation: Reservation) -> None:
        """Free what a message holds, and let others have it."""
        bound = self._owners.get(reservation.owner)
        if bound is None:
            return
        self._stop_waiting(reservation)
        for one in (bound, self._all):
            one.free(reservation)
        reservation.held = reservation.wanted = 0
        if not bound.held and reservation.owner not in self._waiting:
            del self._owners[reservation.owner]
        self._serve()

    def _serve(self) -> None:
        while (reservation := self._next()) is not None:
            self._stop_waiting(reservation)
            for one in (self._owners[reservation.owner], self._all):
                one.grant(reservation)
            reservation.held = reservation.wanted
            reservation.go_on()

    def _next(self) -> Reservation | None:
        """Return whose turn it is: of those that hold some room, for they free it; then
        of the owner that holds least."""
        for reservation in self._all.growing:
            if reservation.waits and self._fits(reservation):
                return reservation
        for owner in sorted(self._waiting, key=lambda one: self._owners[one].held):
            reservation = next(iter(self._waiting[owner]))
            if self._owners[owner].has_room(reservation):
                # Nobody overtakes it: else small ones could hold up a large one.
                return reservation if self._all.has_room(reservation) else None
        return None

    def _fits(self, reservation: Reservation) -> bool:
        bounds = (self._owners[reservation.owner], self._all)
        return all(bound.has_room(reservation) for bound in bounds)

    def _stop_waiting(self, reservation: Reservation) -> None:
        waiting = self._waiting.get(reservation.owner)
        if waiting is not None:
            waiting.pop(reservation, None)
            if not waiting:
                del self._waiting[reservation.owner]
