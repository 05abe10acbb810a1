"""What the audit log costs: entries a second of writers at once, the latency of each
filter in a long log, and its verification.

    python scripts/services.py -- python -m benchmarks.audit --entries 1000000
"""

from __future__ import annotations

import argparse
import os
import resource
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conductor_site.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, connections, transaction  # noqa: E402
from django.utils import timezone  # noqa: E402

from apps.registry import chain, selectors, services, verification  # noqa: E402
from apps.registry.auth import system_actor  # noqa: E402
from apps.registry.models import AuditChain, AuditEntry, Organization  # noqa: E402
from apps.registry.operations import Operation, TargetType  # noqa: E402
from apps.registry.selectors import AuditFilter  # noqa: E402

OPERATIONS = list(Operation)


def fill(organization: Organization, entries: int) -> None:
    """Write a chain as `record_audit` does, many entries at a time."""
    begun = timezone.now() - timedelta(days=80)
    ends = AuditChain(organization=organization)
    for first in range(0, entries, 5_000):
        batch = []
        for number in range(first, min(first + 5_000, entries)):
            columns: dict[str, Any] = dict.fromkeys(chain.COLUMNS, "") | {
                "organization_id": organization.pk,
                "sequence": number + 1,
                "emitted_at": begun + timedelta(seconds=number * 6),
                "operation": OPERATIONS[number % len(OPERATIONS)].value,
                "outcome": "success",
                "subject_type": "user",
                "subject_id": str(number % 50),
                "subject_display": f"person{number % 50}@example.com",
                "target_type": "workflow",
                "target_id": f"workflow-{number % 20_000}",
                "details": {"application_name": "orders", "number": number},
                "previous_hash": ends.hash,
            }
            ends.sequence, ends.hash = number + 1, chain.digest(columns)
            batch.append(AuditEntry(**columns, hash=ends.hash))
        AuditEntry.objects.bulk_create(batch)
    ends.seal = chain.seal(vars(ends))
    ends.save(force_insert=True)


def write(
    organizations: list[Organization], seconds: float = 5.0
) -> tuple[float, float]:
    """Return the entries a second of one writer for each, and the median wait in ms."""
    took: list[float] = []
    until = time.monotonic() + seconds

    def work(organization: Organization) -> None:
        actor = system_actor(organization)
        while time.monotonic() < until:
            began = time.perf_counter()
            with transaction.atomic():
                services.record_audit(
                    actor=actor,
                    operation=Operation.APPLICATION_UPDATE,
                    target_type=TargetType.APPLICATION,
                    target_id="orders",
                )
            took.append(time.perf_counter() - began)
        connections.close_all()

    threads = [threading.Thread(target=work, args=(one,)) for one in organizations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(took) / seconds, sorted(took)[len(took) // 2] * 1_000


def best_ms(read: Callable[[], object]) -> float:
    def once() -> float:
        began = time.perf_counter()
        read()
        return (time.perf_counter() - began) * 1_000

    return min(once() for _ in range(5))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=100_000)
    entries = parser.parse_args().entries
    call_command("migrate", verbosity=0)
    names = [f"bench{number}" for number in range(8)]
    made = [Organization.objects.create(name=name) for name in names]
    for label, writers in (
        ("1 writer", made[:1]),
        ("8 writers of one organization", made[:1] * 8),
        ("8 writers of eight organizations", made),
    ):
        rate, wait_ms = write(writers)
        print(f"{label}: {rate:,.0f} entries/s, median {wait_ms:.1f} ms")
    long = Organization.objects.create(name="long")
    fill(long, entries)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE registry_auditentry")
    middle = timezone.now() - timedelta(days=80) + timedelta(seconds=entries * 3)
    for label, chosen in (
        ("newest", AuditFilter()),
        ("time", AuditFilter(end=middle)),
        ("operation", AuditFilter(operation="role.grant")),
        ("subject", AuditFilter(subject="person7@example.com")),
        ("subject's id", AuditFilter(subject="7")),
        ("target", AuditFilter(target="workflow-7")),
        ("operation, of time", AuditFilter(operation="role.grant", end=middle)),
        ("nobody", AuditFilter(subject="nobody")),
    ):
        found = selectors.audit_entries_of(system_actor(long), chosen)
        print(f"{label}: {best_ms(lambda f=found: list(f[:100])):.1f} ms")  # type: ignore[misc]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    result = verification.verify(long)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"verify: {result.entries:,} entries in {time.perf_counter() - began:.1f} s, "
        f"{more / 1024:.0f} MiB more, {result.finding or 'good'}"
    )


if __name__ == "__main__":
    main()
