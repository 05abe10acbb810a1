"""Which SDK version knows what. Source: the protocol reference's support matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_NUMBERS = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")
_LANGUAGES = ("python", "typescript", "go", "java")
Version = tuple[int, int, int]
# `executor_info` names the version since Python 2.6, and no SDK older than that is told
# from another: take the newest it can be. What it lacks it answers as unknown.
UNSTATED: Version = (2, 5, 99)
NEWEST: Version = (10**6, 0, 0)


@dataclass(frozen=True, slots=True)
class Peer:
    """The SDK at the other end, as `executor_info` named it (absent on old ones)."""

    language: str | None
    dbos_version: str | None

    @property
    def version(self) -> Version:
        """As numbers. Absent means older than the field that says it; unreadable
        (a development build) means newest."""
        if not self.dbos_version:
            return UNSTATED
        found = _NUMBERS.match(self.dbos_version)
        if found is None:
            return NEWEST
        return int(found[1]), int(found[2]), int(found[3] or 0)

    def __str__(self) -> str:
        return f"{self.language or 'unknown'} {self.dbos_version or '(old)'}"


@dataclass(frozen=True, slots=True)
class Since:
    """First versions with something, as `python/typescript/go/java`; `-` is never."""

    text: str

    def of(self, language: str | None) -> Version | None:
        name = language if language in _LANGUAGES else "python"
        part = self.text.split("/")[_LANGUAGES.index(name)]
        if part == "-":
            return None
        major, minor, *patch = part.split(".")
        return int(major), int(minor), int(patch[0]) if patch else 0

    def known_by(self, peer: Peer) -> bool:
        return _knows(peer, self)

    def describe(self, language: str | None) -> str:
        first = self.of(language)
        if first is None:
            return f"no version of the {language} SDK has it"
        return f"it came with {language or 'python'} {first[0]}.{first[1]}"


@lru_cache(maxsize=4_096)  # asked for every attribute of every message
def _knows(peer: Peer, since: Since) -> bool:
    first = since.of(peer.language)
    return first is not None and peer.version >= first


ALWAYS = Since("0.0/0.0/0.0/0.0")
# Several values where one string stood before.
LISTS = Since("2.11/4.8/0.12/0.8")
BULK_IDS = Since("2.15/4.11/0.15/0.8")
