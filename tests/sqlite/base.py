"""SQLite, emptied between tests: it knows no TRUNCATE and deletes row by row, which the
audit log allows only once its chains are gone.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.sqlite3 import base

CHAINS = "registry_auditchain"


class DatabaseOperations(base.DatabaseOperations):
    def sql_flush(self, style: Any, tables: Any, **options: Any) -> list[str]:
        in_order = sorted(tables, key=lambda table: table != CHAINS)
        return list(super().sql_flush(style, in_order, **options))


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations
