"""Whether an audit log is what was written: `manage.py audit verify`, and by the beat.

It finds every entry that was altered, removed, inserted or moved, and a tail that was
cut, unless whoever did it knows SECRET_KEY. What it cannot find is a log, with its
chain, put back to how it was some time ago: compare the last hash with one that you
keep elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import Subquery
from django.utils import timezone

from apps.registry import chain
from apps.registry.models import AuditChain, AuditEntry, Organization

BATCH = 2_000
_CHAIN = (*chain.ENDS, "seal")


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found: `entries` good ones in a row, then the first broken one, if any
    (its `sequence`, and what is wrong in a sentence)."""

    organization: str
    entries: int
    last_sequence: int
    last_hash: str
    broken_sequence: int | None = None
    finding: str = ""

    @property
    def is_good(self) -> bool:
        return not self.finding


class _Broken(Exception):
    def __init__(self, sequence: int, finding: str) -> None:
        super().__init__(finding)
        self.sequence = sequence


def verify(organization: Organization) -> Verification:
    """Read a whole log, in bounded memory, and note the result at its chain.

    The log may grow, and lose what is too old, meanwhile.
    """
    walk = _Walk(organization)
    broken: _Broken | None = None
    try:
        walk.to_the_end()
    except _Broken as exc:
        broken = exc
    AuditChain.objects.filter(organization=organization).update(
        verified_at=timezone.now(),
        verified_sequence=walk.sequence,
        finding=f"#{broken.sequence}: {broken}" if broken else "",
    )
    return Verification(
        organization=organization.name,
        entries=walk.entries,
        last_sequence=walk.sequence,
        last_hash=walk.hash,
        broken_sequence=broken.sequence if broken else None,
        finding=str(broken or ""),
    )


class _Walk:
    """Goes along one log; `sequence` and `hash` are of the last good entry."""

    def __init__(self, organization: Organization) -> None:
        self.of = {"organization": organization}
        self.entries = 0
        self.sequence = 0
        self.hash = ""

    def to_the_end(self) -> None:
        ends = self._ends()
        self.sequence, self.hash = ends["removed_sequence"], ends["removed_hash"]
        for entry in self._read(ends["sequence"]):
            self._step(entry)
        if self.sequence < ends["sequence"]:
            raise _Broken(self.sequence + 1, "It was removed, and all after it.")
        if self.hash != ends["hash"]:
            raise _Broken(self.sequence, "It is not what was written last.")
        self._check_seal(ends)
        self._look_for_strays()

    def _ends(self) -> dict[str, Any]:
        ends = AuditChain.objects.filter(**self.of).values(*_CHAIN).first()
        if ends is None:
            if AuditEntry.objects.filter(**self.of).exists():
                raise _Broken(0, "The log has lost its chain.")
            empty: dict[str, Any] = dict.fromkeys(chain.ENDS, 0)
            empty |= {"hash": "", "removed_hash": ""}
            return empty | {"seal": chain.seal(empty)}
        return dict(ends)

    @staticmethod
    def _check_seal(ends: dict[str, Any]) -> None:
        if not chain.is_sealed(ends):
            raise _Broken(
                ends["sequence"],
                "The ends of the chain are not as Conductor wrote them, or SECRET_KEY "
                "is another since.",
            )

    def _read(self, last: int) -> Iterator[dict[str, Any]]:
        entries = AuditEntry.objects.filter(**self.of, sequence__lte=last)
        ordered = entries.order_by("sequence").values(*chain.COLUMNS, "hash")
        while batch := list(ordered.filter(sequence__gt=self.sequence)[:BATCH]):
            yield from batch

    def _step(self, entry: dict[str, Any]) -> None:
        if entry["sequence"] != self.sequence + 1:
            self._skip_expired(entry["sequence"])
        if entry["previous_hash"] != self.hash:
            raise _Broken(
                entry["sequence"], "It does not follow the entry that is before it."
            )
        if chain.digest(entry) != entry["hash"]:
            raise _Broken(entry["sequence"], "It was altered.")
        self.entries += 1
        self.sequence, self.hash = entry["sequence"], entry["hash"]

    def _skip_expired(self, found: int) -> None:
        """Retention may have removed what comes next; nobody else may."""
        ends = self._ends()
        self._check_seal(ends)
        if ends["removed_sequence"] != found - 1:
            raise _Broken(self.sequence + 1, "It was removed.")
        self.sequence, self.hash = ends["removed_sequence"], ends["removed_hash"]

    def _look_for_strays(self) -> None:
        """One statement each: it sees the ends and the entries of one moment."""
        chains = AuditChain.objects.filter(**self.of)
        entries = AuditEntry.objects.filter(**self.of).order_by("sequence")
        stray = (
            entries.filter(sequence__gt=Subquery(chains.values("sequence"))).first()
            or entries.filter(
                sequence__lte=Subquery(chains.values("removed_sequence"))
            ).first()
        )
        if stray is not None:
            raise _Broken(stray.sequence, "It was inserted.")
