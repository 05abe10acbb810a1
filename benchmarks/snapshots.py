"""Reading a million workflow snapshots: what each filter of the page costs.

    python scripts/services.py -- python benchmarks/snapshots.py [--rows 1000000]

Fills a database of its own on the PostgreSQL of DATABASE_URL, reads each page and count
many times, and drops it again. Times are the medians of the query as the page makes it,
beside a floor measured in the same run: one row by its primary key. `deep` is the page
after two thousand rows. A page whose plan needs the whole table fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conductor_site.settings")

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402

from apps.registry.models import Application, Organization  # noqa: E402
from apps.workflows import selectors  # noqa: E402
from apps.workflows.live.order import Position  # noqa: E402
from apps.workflows.models import WorkflowSnapshot  # noqa: E402
from apps.workflows.selectors import Filters  # noqa: E402

START = datetime(2026, 1, 1, tzinfo=UTC)
READS = 40
NAMES = [f"workflow-{number}" for number in range(40)]
COLUMNS = (
    "application_id",
    "workflow_id",
    "status",
    "name",
    "class_name",
    "config_name",
    "application_version",
    "executor_id",
    "queue_name",
    "created_at",
    "updated_at",
    "priority",
    "parent_workflow_id",
    "forked_from",
    "was_forked_from",
    "schedule_name",
    "authenticated_user",
    "deduplication_id",
    "attributes",
)
# Of a thousand rows; the rest succeeded.
STATUSES = (("ERROR", 30), ("CANCELLED", 9), ("PENDING", 8), ("ENQUEUED", 2))


def rows(applications: list[int], count: int) -> Iterator[tuple[Any, ...]]:
    """Half of all are the first application's; one second holds twenty of them."""
    chance = random.Random(1)
    for number in range(count):
        at = START + timedelta(milliseconds=50 * number)
        draw = chance.randrange(1_000)
        status = "SUCCESS"
        for name, share in STATUSES:
            if draw < share:
                status = name
                break
            draw -= share
        # A few names are most of the work, and each version follows the one before.
        name = NAMES[min(int(chance.expovariate(0.3)), len(NAMES) - 1)]
        yield (
            applications[0] if number % 2 else chance.choice(applications[1:]),
            f"{chance.choice(('order', 'mail', 'sync'))}-{chance.getrandbits(64):016x}",
            status,
            name,
            "",
            "",
            f"v{number * 10 // count}",
            f"executor-{chance.randrange(50)}",
            "mail" if number % 3 else "",
            at,
            at,
            0,
            "",
            "",
            False,
            "",
            "",
            "",
            "",
        )


def fill(count: int) -> Application:
    organization = Organization.objects.create(name="bench")
    applications = [
        Application.objects.create(organization=organization, name=f"app-{number}")
        for number in range(10)
    ]
    table = WorkflowSnapshot._meta.db_table
    ids = [application.pk for application in applications]
    with connection.cursor() as cursor:
        into = f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN"
        with cursor.copy(into) as copy:
            for row in rows(ids, count):
                copy.write_row(row)
        cursor.execute(f"VACUUM ANALYZE {table}")
    return applications[0]


def p50_ms(*reads: Callable[[], object]) -> list[float]:
    """The medians of several reads, taken in turn: a busy moment slows them alike."""
    times: list[list[float]] = [[] for _ in reads]
    for turn in range(READS + 1):
        for read, taken in zip(reads, times, strict=True):
            began = time.perf_counter()
            read()
            if turn:
                taken.append((time.perf_counter() - began) * 1_000)
    return [statistics.median(taken) for taken in times]


def measured(count: int) -> dict[str, Filters]:
    """Every combination of the page's filters, with common and rare values."""
    span = timedelta(milliseconds=50 * count)
    middle = {"created_from": START + span * 0.4, "created_to": START + span * 0.5}
    status: dict[str, tuple[str, ...]] = {
        "": (),
        "SUCCESS": ("SUCCESS",),
        "ENQUEUED": ("ENQUEUED",),
        "DELAYED (none)": ("DELAYED",),
        "PENDING, ENQUEUED": ("PENDING", "ENQUEUED"),
    }
    others: dict[str, dict[str, Any]] = {
        "": {},
        "common name": {"name": NAMES[0]},
        "rare name": {"name": NAMES[25]},
        "unknown name": {"name": "no such"},
        "latest version": {"version": "v9"},
        "oldest version": {"version": "v0"},
        "short prefix": {"id_prefix": "order-"},
        "long prefix": {"id_prefix": "order-0123"},
        "name, oldest version": {"name": NAMES[0], "version": "v0"},
        "rare name, oldest version": {"name": NAMES[25], "version": "v0"},
    }
    combinations = {
        ", ".join(part for part in (first, second) if part) or "all": Filters(
            status=statuses, **more
        )
        for first, statuses in status.items()
        for second, more in others.items()
    }
    for name in ("all", "SUCCESS, common name", "oldest version", "long prefix"):
        filters = combinations[name]
        combinations[f"{name}, a tenth of the time"] = Filters(
            filters.status, filters.name, filters.id_prefix, filters.version, **middle
        )
    return combinations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    if connection.vendor != "postgresql":
        sys.exit("DATABASE_URL must name a PostgreSQL; see the first lines.")
    with own_database():
        began = time.monotonic()
        application = fill(count)
        print(f"{count:,} rows filled in {time.monotonic() - began:.0f} s", flush=True)
        report(application, count)


class own_database:
    """A database beside the configured one, for the length of this run."""

    name = "conductor_bench_snapshots"

    def __enter__(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {self.name}")
            cursor.execute(f"CREATE DATABASE {self.name}")
        connection.close()
        self.configured = connection.settings_dict["NAME"]
        connection.settings_dict["NAME"] = self.name
        call_command("migrate", verbosity=0)

    def __exit__(self, *_: object) -> None:
        connection.close()
        connection.settings_dict["NAME"] = self.configured
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {self.name} WITH (FORCE)")


def report(application: Application, count: int) -> None:
    newest = WorkflowSnapshot.objects.order_by("-pk").values_list("pk", flat=True)[0]
    one = WorkflowSnapshot.objects.filter(pk=newest - count // 2)
    print(
        f"{'filters':46}{'floor ms':>9}{'page ms':>9}{'×':>6}"
        f"{'deep ms':>9}{'×':>6}{'count ms':>9}{'×':>6}"
    )
    results: dict[str, Any] = {"rows": count}
    unindexed = []
    for name, filters in measured(count).items():
        found = selectors.snapshots_matching(application, filters)
        page = selectors.newest_first(found)
        known = list(page[:2_000].values_list("created_at", "workflow_id"))
        cursor = Position(*known[-1]) if known else None
        deep = selectors.newest_first(selectors.older_than(found, cursor))
        capped = found.order_by()[: selectors.COUNT_LIMIT + 1]
        floor, *reads = p50_ms(
            lambda: list(one.all()),
            lambda page=page: list(page[: selectors.PAGE + 1]),
            lambda deep=deep: list(deep[: selectors.PAGE + 1]),
            lambda capped=capped: capped.count(),
        )
        plans = [query[: selectors.PAGE + 1].explain() for query in (page, deep)]
        # A capped count may read on in the table: of what is common it soon has enough.
        if any("Seq Scan" in plan for plan in plans):
            unindexed.append(name)
        columns = "".join(f"{ms:9.2f}{ms / floor:6.1f}" for ms in reads)
        print(f"{name:46}{floor:9.2f}{columns}", flush=True)
        results[name] = [round(ms / floor, 1) for ms in reads]
    print(json.dumps(results))
    if unindexed:
        sys.exit(f"read without an index: {', '.join(unindexed)}")


if __name__ == "__main__":
    main()
