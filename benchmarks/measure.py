"""Doing one thing over and over, and timing it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def measure(
    act: Callable[[int], Awaitable[None]], *, concurrency: int, secs: float
) -> dict[str, Any]:
    """Do one thing over and over, so many at a time, and time each."""
    took: list[float] = []
    failures: dict[str, int] = {}
    number = 0
    end_at = time.perf_counter() + secs

    async def lane() -> None:
        nonlocal number
        while (started := time.perf_counter()) < end_at:
            number += 1
            try:
                await act(number)
            except Exception as exc:
                name = f"{type(exc).__name__}: {exc}"[:160]
                failures[name] = failures.get(name, 0) + 1
            else:
                took.append((time.perf_counter() - started) * 1000)

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return {
        **times(took),
        "concurrency": concurrency,
        "per_s": round(len(took) / (time.perf_counter() - started), 1),
        "failures": failures,
    }


def times(took_ms: list[float]) -> dict[str, float | None]:
    """Return the middle and the slowest hundredth."""
    ordered = sorted(took_ms)
    return {"p50_ms": _quantile(ordered, 0.5), "p99_ms": _quantile(ordered, 0.99)}


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3)
