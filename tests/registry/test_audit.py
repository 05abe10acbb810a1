"""The audit log: appended to, never changed, and found out where it was."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from apps import errors
from apps.registry import chain, services, tasks, verification
from apps.registry.auth import Actor, system_actor
from apps.registry.models import ApiKey, AuditChain, AuditEntry, Organization
from apps.registry.operations import Operation, TargetType
from apps.registry.services import audit

guards = import_module("apps.registry.migrations.0010_audit_chain")


@pytest.fixture
def acme(db: None) -> Organization:
    return Organization.objects.create(name="acme")


def write(organization: Organization, number: int = 1, **details: Any) -> None:
    for _ in range(number):
        services.record_audit(
            actor=system_actor(organization),
            operation=Operation.APPLICATION_UPDATE,
            target_type=TargetType.APPLICATION,
            target_id="orders",
            details=details,
        )


def log_of(organization: Organization) -> Any:
    return AuditEntry.objects.filter(organization=organization).order_by("sequence")


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """What somebody does who has the database."""

    def run(statements: dict[str, tuple[str, ...]]) -> None:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for statement in statements[connection.vendor]:
                cursor.execute(statement)

    run(guards.UNGUARDS)
    yield
    run(guards.GUARDS)


def run_verify(*options: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit code and what was printed."""
    out = io.StringIO()
    code = 0
    try:
        call_command("audit", "verify", "--json", *options, stdout=out)
    except CommandError as exc:
        code = exc.returncode
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


# --- The chain -----------------------------------------------------------------------


def test_entries_are_numbered_and_hold_the_hash_of_the_one_before(
    acme: Organization,
) -> None:
    write(acme, 3)
    other = Organization.objects.create(name="other")
    write(other)

    entries = list(log_of(acme))
    assert [e.sequence for e in entries] == [1, 2, 3]
    assert [e.previous_hash for e in entries] == ["", entries[0].hash, entries[1].hash]
    assert log_of(other).get().sequence == 1


@pytest.mark.parametrize(
    "details",
    [
        {"text": "NUL \0, half \ud800, ü", "n": 2**80, "yes": True, "none": None},
        {"fractions": [1.5, 1e300, -0.0, 1e-7, float("inf"), float("nan")]},
        {"nested": {"a": [{"b": ("c", {"d"})}]}, 5: Operation.TOKEN_CREATE},
        {"ids": ["x" * 5_000] * 5_000},
    ],
)
def test_details_of_any_kind_are_stored_bounded_and_verify(
    acme: Organization, details: dict[Any, Any]
) -> None:
    write(acme, **{str(key): value for key, value in details.items()})

    stored = log_of(acme).get().details
    assert len(json.dumps(stored)) < 600_000
    assert verification.verify(acme).is_good


def test_change_that_is_rolled_back_leaves_no_gap(acme: Organization) -> None:
    write(acme)
    with contextlib.suppress(ZeroDivisionError), transaction.atomic():
        write(acme)
        raise ZeroDivisionError
    write(acme)

    assert [e.sequence for e in log_of(acme)] == [1, 2]
    assert verification.verify(acme).is_good


@pytest.mark.django_db(transaction=True)
def test_many_writers_at_once_make_one_chain() -> None:
    acme = Organization.objects.create(name="acme")
    writers, each = 8, 10
    barrier = threading.Barrier(writers)
    failures: list[Exception] = []

    def work() -> None:
        try:
            barrier.wait(10)
            for _ in range(each):
                write(acme)
        except (DatabaseError, threading.BrokenBarrierError) as exc:
            failures.append(exc)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    result = verification.verify(acme)
    assert (result.finding, result.entries) == ("", writers * each)


# --- Append-only ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda log: log.filter(sequence=2).update(outcome="success"),
        lambda log: log.filter(sequence=2).delete(),
        lambda log: log.filter(sequence=3).delete(),
        lambda log: log.delete(),
    ],
)
def test_database_refuses_to_change_the_log(
    acme: Organization, change: Callable[[Any], Any]
) -> None:
    write(acme, 3)

    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        change(log_of(acme))

    assert verification.verify(acme).entries == 3


def test_organization_takes_its_log_with_it(acme: Organization) -> None:
    write(acme, 3)

    acme.delete()

    assert (AuditEntry.objects.count(), AuditChain.objects.count()) == (0, 0)


# --- Verification --------------------------------------------------------------------


def chain_of_acme() -> Any:
    return AuditChain.objects.filter(organization__name="acme")


def forge(entry: AuditEntry) -> None:
    """Write an entry with a hash of its own that is right."""
    entry.hash = chain.digest(vars(entry))
    entry.save(force_update=True)


def alter(log: Any) -> None:
    log.filter(sequence=3).update(subject_display="somebody else")


def alter_and_hash(log: Any) -> None:
    entry = log.get(sequence=3)
    entry.target_id = "another"
    forge(entry)


def rewrite_the_rest(log: Any) -> None:
    """As `alter_and_hash`, and every hash after it, and the end of the chain."""
    previous = log.get(sequence=2).hash
    for entry in log.filter(sequence__gte=3):
        entry.target_id = "another"
        entry.previous_hash = previous
        forge(entry)
        previous = entry.hash
    chain_of_acme().update(hash=previous)


def remove(log: Any) -> None:
    log.filter(sequence=3).delete()


def remove_first(log: Any) -> None:
    log.filter(sequence=1).delete()


def remove_and_close_the_gap(log: Any) -> None:
    log.filter(sequence=3).delete()
    log.filter(sequence=4).update(sequence=3)


def cut_the_tail(log: Any) -> None:
    log.filter(sequence__gte=4).delete()


def cut_the_tail_and_the_chain(log: Any) -> None:
    log.filter(sequence__gte=4).delete()
    chain_of_acme().update(sequence=3, hash=log.get(sequence=3).hash)


def pretend_retention(log: Any) -> None:
    """What the triggers let pass, the seal does not."""
    last = log.get(sequence=2)
    chain_of_acme().update(removed_sequence=2, removed_hash=last.hash)
    log.filter(sequence__lte=2).delete()


def insert_after(log: Any) -> None:
    last = log.get(sequence=5)
    last.pk = None
    last.sequence, last.previous_hash = 6, last.hash
    last.hash = chain.digest(vars(last))
    last.save(force_insert=True)


def swap(log: Any) -> None:
    log.filter(sequence=3).update(sequence=99)
    log.filter(sequence=4).update(sequence=3)
    log.filter(sequence=99).update(sequence=4)


def lose_the_chain(log: Any) -> None:
    chain_of_acme().delete()


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        (alter, 3),
        (alter_and_hash, 4),
        (rewrite_the_rest, 5),
        (remove, 3),
        (remove_first, 1),
        (remove_and_close_the_gap, 3),
        (cut_the_tail, 4),
        (cut_the_tail_and_the_chain, 3),
        (pretend_retention, 5),
        (insert_after, 6),
        (swap, 3),
        (lose_the_chain, 0),
    ],
)
def test_harm_is_found(
    acme: Organization, harm: Callable[[Any], None], broken: int
) -> None:
    write(acme, 5)
    write(Organization.objects.create(name="other"), 2)
    assert run_verify()[0] == 0

    with unguarded():
        harm(log_of(acme))

    code, results = run_verify()
    assert code == 1
    assert [(r["organization"], r["broken_sequence"]) for r in results] == [
        ("acme", broken),
        ("other", None),
    ]
    assert run_verify("--org", "other")[0] == 0


def test_verification_of_nothing_and_of_nobody(acme: Organization) -> None:
    assert run_verify("--org", "acme")[0] == 0
    assert run_verify("--org", "absent") == (2, [])


def test_former_secret_key_is_believed(acme: Organization, settings: Any) -> None:
    write(acme)
    former, settings.SECRET_KEY = settings.SECRET_KEY, "another"
    assert not verification.verify(acme).is_good

    settings.SECRET_KEY_FALLBACKS = [former]

    assert verification.verify(acme).is_good


def test_entries_written_during_verification_are_no_harm(
    acme: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(acme, 3)
    step = verification._Walk._step

    def step_and_write(walk: Any, entry: Any) -> None:
        step(walk, entry)
        write(acme)

    monkeypatch.setattr(verification._Walk, "_step", step_and_write)

    assert verification.verify(acme).is_good


def test_daily_verification_notes_what_it_found(acme: Organization) -> None:
    write(acme, 3)
    tasks.verify_audit_log()
    assert AuditChain.objects.get().verified_sequence == 3
    assert AuditChain.objects.get().finding == ""
    with unguarded():
        alter(log_of(acme))
    tasks.verify_audit_log()
    assert AuditChain.objects.get().finding == "", "verified a moment ago"

    AuditChain.objects.update(verified_at=timezone.now() - timedelta(days=2))
    tasks.verify_audit_log()

    assert AuditChain.objects.get().finding == "#3: It was altered."


# --- Retention -----------------------------------------------------------------------


@pytest.fixture
def aged(acme: Organization, monkeypatch: pytest.MonkeyPatch) -> Organization:
    """Seven entries: five of them older than acme keeps them."""
    real = timezone.now
    for days in (100, 99, 95, 92, 91, 89, 0):
        ago = timedelta(days=days)
        monkeypatch.setattr(audit.timezone, "now", lambda ago=ago: real() - ago)
        write(acme)
    monkeypatch.setattr(audit.timezone, "now", real)
    return acme


def test_old_entries_go_and_the_rest_still_verifies(
    aged: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "RETENTION_BATCH", 2)
    assert services.expire_audit_entries(aged) == 2
    assert verification.verify(aged).entries == 5

    tasks.expire_audit_entries()

    assert [e.sequence for e in log_of(aged)] == [6, 7]
    assert services.expire_audit_entries(aged) == 0
    write(aged)
    assert verification.verify(aged).last_sequence == 8


def test_whole_log_may_expire(aged: Organization) -> None:
    aged.audit_log_retention_days = 7
    later = timezone.now() + timedelta(days=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit.timezone, "now", lambda: later)
        assert services.expire_audit_entries(aged) == 7

    assert run_verify()[0] == 0
    write(aged)
    assert log_of(aged).get().sequence == 8
    assert run_verify()[0] == 0


def test_harm_after_retention_is_found(aged: Organization) -> None:
    services.expire_audit_entries(aged)
    with unguarded():
        log_of(aged).filter(sequence=6).delete()

    assert verification.verify(aged).broken_sequence == 6


def test_retention_during_verification_is_no_harm(
    aged: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "BATCH", 2)
    step = verification._Walk._step

    def step_and_expire(walk: Any, entry: Any) -> None:
        step(walk, entry)
        if entry["sequence"] == 2:
            services.expire_audit_entries(aged)

    monkeypatch.setattr(verification._Walk, "_step", step_and_expire)

    assert verification.verify(aged).is_good


# --- What an entry says --------------------------------------------------------------


def test_entry_names_the_key_but_never_its_secret(acme: Organization) -> None:
    key, secret = services.create_api_key(actor=system_actor(acme), name="k1")
    actor = Actor("api_key", "7", "k1", acme, frozenset(), key_prefix=key.prefix)

    with (
        pytest.raises(errors.Conflict),
        services.audited(
            actor=actor,
            operation=Operation.TOKEN_REVOKE,
            target_type=TargetType.TOKEN,
            target_id="k1",
        ),
    ):
        raise errors.Conflict(f"The executor said {secret}.")

    entry = log_of(acme).last()
    assert entry.actor_key == ApiKey.objects.get().prefix
    assert secret not in str(vars(entry))
    assert entry.details["reason"] == f"The executor said dbos_{key.prefix}_…."


def test_failure_told_twice_is_one_entry(acme: Organization) -> None:
    about: dict[str, Any] = {
        "actor": system_actor(acme),
        "operation": Operation.USER_JOIN,
        "target_type": TargetType.USER,
        "target_id": "a@example.com",
    }
    with (
        pytest.raises(errors.Conflict),
        services.failure_audited(**about, details={}),
        services.audited(**about),
    ):
        raise errors.Conflict("No.")

    assert log_of(acme).count() == 1
