"""A psycopg connection that notes whether PostgreSQL can be reached."""

from __future__ import annotations

import time
from typing import Any

import psycopg


class RecordedConnection(psycopg.Connection[Any]):
    """Notes when connecting failed last: the pool itself only tries again."""

    failed_at: float | None = None

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        """Connect as psycopg does."""
        try:
            connection = super().connect(*args, **kwargs)
        except psycopg.Error:
            RecordedConnection.failed_at = time.monotonic()
            raise
        RecordedConnection.failed_at = None
        return connection
