"""How many sockets of pages are open in this process: by person and by address."""

from __future__ import annotations

from collections import Counter

from apps.registry.limits import source_of


class OpenPages:
    """Counts sockets. Used on the server's loop only."""

    def __init__(self, *, per_person: int, per_address: int) -> None:
        self.per_person, self.per_address = per_person, per_address
        self._of: dict[object, tuple[str, str]] = {}
        self._persons: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()

    def take(self, socket: object, person: str, address: str) -> bool:
        """Count one in; return False where there are too many. `person` may be empty,
        of somebody who is not signed in."""
        source = source_of(address)
        if person and self._persons[person] >= self.per_person:
            return False
        if self._sources[source] >= self.per_address:
            return False
        self._of[socket] = (person, source)
        self._persons[person] += 1
        self._sources[source] += 1
        return True

    def drop(self, socket: object) -> None:
        """Count one out, if it was counted in."""
        if socket not in self._of:
            return
        person, source = self._of.pop(socket)
        for counter, name in ((self._persons, person), (self._sources, source)):
            counter[name] -= 1
            if counter[name] <= 0:
                del counter[name]
