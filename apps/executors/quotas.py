"""How many executors may be connected to this server process at a time.

Counted in memory, for one application, one key and one organization, so that whoever
dials without end takes neither the memory nor the sockets of everybody else.
"""

from __future__ import annotations

from collections import Counter

from django.conf import settings

from apps.executors.admission import Admitted

_open: Counter[tuple[str, int]] = Counter()


def take(admitted: Admitted) -> str:
    """Count one connection; return why it is one too many, else nothing."""
    for what, number, limit in _limits(admitted):
        if _open[what, number] >= limit:
            return (
                f"This {what} has {limit:,} connections to this server already, which "
                "is its limit. Close some, or have CONDUCTOR_MAX_CONNECTIONS_PER_"
                f"{what.upper()} raised."
            )
    _open.update(_places(admitted))
    return ""


def give_back(admitted: Admitted) -> None:
    """Uncount a connection that `take` counted."""
    for place in _places(admitted):
        _open[place] -= 1
        if _open[place] <= 0:
            del _open[place]


def _limits(admitted: Admitted) -> list[tuple[str, int, int]]:
    return [
        (
            "application",
            admitted.application_id,
            settings.CONDUCTOR_MAX_CONNECTIONS_PER_APPLICATION,
        ),
        ("key", admitted.api_key_id or 0, settings.CONDUCTOR_MAX_CONNECTIONS_PER_KEY),
        (
            "organization",
            admitted.organization_id,
            settings.CONDUCTOR_MAX_CONNECTIONS_PER_ORGANIZATION,
        ),
    ]


def _places(admitted: Admitted) -> list[tuple[str, int]]:
    return [(what, number) for what, number, _ in _limits(admitted)]
