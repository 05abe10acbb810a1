"""Changes that begin at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, connections

from apps import errors

_Mark = Callable[[Any], Any]


def race(test: Any) -> Any:
    """Mark a test of changes that meet in the database."""
    marks: tuple[_Mark, ...] = (
        pytest.mark.django_db(transaction=True),
        pytest.mark.skipif(
            connection.vendor != "postgresql", reason="SQLite has one writer at a time"
        ),
    )
    for mark in marks:
        test = mark(test)
    return test


def ensure_roles() -> None:
    """An earlier test of this kind emptied every table."""
    for name, step in (
        ("0002_builtin_roles", "create"),
        ("0007_workflow_import", "grant"),
    ):
        migration = import_module(f"apps.registry.migrations.{name}")
        getattr(migration, step)(apps, None)


def at_once(*calls: Callable[[], object]) -> int:
    """Return how many of these calls, begun at the same time, succeeded. The others
    were refused in words; anything else fails the test."""
    barrier = threading.Barrier(len(calls))
    results: list[object] = []

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except Exception as exc:
            results.append(exc)
        else:
            results.append(None)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert result is None or isinstance(result, errors.ConductorError), result
    return results.count(None)
