"""Series: measures by name, added up, bounded in number, and safe to store.

A series is identified by its key, a workflow's name and queue or a step's name. Its
measures are whole numbers; how two values of one measure become one is in its name:
`max_…` keeps the greater, `oldest_…` the lesser, everything else is added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from apps.executors.untrusted import storable_text

Key = tuple[str, ...]
Measures = dict[str, int]
Series = dict[Key, Measures]

# Series of one application in one minute; all others share one.
LIMIT = 200
OVERFLOW = "__other__"
NAME_CHARS = 255
MAX_VALUE = 2**53


def key(*names: str | None) -> Key:
    return tuple(storable_text(name, NAME_CHARS) for name in names)


def make() -> Series:
    return defaultdict(dict)


def add(into: Measures, measure: str, value: int | None) -> None:
    """Take one value in; None is no value."""
    if value is None:
        return
    value = min(max(value, 0), MAX_VALUE)
    if measure not in into:
        into[measure] = value
    elif measure.startswith("max_"):
        into[measure] = max(into[measure], value)
    elif measure.startswith("oldest_"):
        into[measure] = min(into[measure], value)
    else:
        into[measure] = min(into[measure] + value, MAX_VALUE)


def merge(into: Measures, more: Mapping[str, int]) -> None:
    for measure, value in more.items():
        add(into, measure, value)


def fold(series: Series, limit: int = LIMIT) -> tuple[Series, int]:
    """Keep the first `limit` by name, so that the same ones stay from one minute to the
    next; return them with one for the rest, and how many the rest are."""
    ordered = sorted(series)
    folded = make()
    for one in ordered[:limit]:
        folded[one] = series[one]
    rest = ordered[limit:]
    for one in rest:
        merge(folded[(OVERFLOW, *[""] * (len(one) - 1))], series[one])
    return folded, len(rest)


def written(series: Series, *names: str) -> list[dict[str, Any]]:
    """As JSON: `names` are what the parts of the key are called."""
    return [
        {**dict(zip(names, one, strict=True)), **measures}
        for one, measures in series.items()
    ]


def read(
    stored: Iterable[Mapping[str, Any]] | None, *names: str
) -> list[tuple[Key, Measures]]:
    """What `written` wrote."""
    return [
        (
            tuple(one[name] for name in names),
            {k: v for k, v in one.items() if k not in names},
        )
        for one in stored or ()
    ]
