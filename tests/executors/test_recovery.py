"""What proves a recovery, and what does not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps import errors
from apps.executors import clock, gateway, presence, recovery
from apps.executors.models import Executor, Recovery, RecoveryAttempt
from apps.executors.presence import Registration
from apps.executors.protocol import codec, messages
from apps.executors.protocol.messages import Request
from apps.registry.models import Application, Organization

State = Recovery.State


@pytest.fixture
def application(db: Any) -> Application:
    organization = Organization.objects.create(name="acme")
    return Application.objects.create(
        organization=organization, name="orders", executor_timeout_secs=10
    )


@pytest.fixture
def dead(application: Application) -> Recovery:
    """One executor of v1 that is overdue, and the recovery that says so."""
    connect(application, "dead", "v1")
    presence.disconnect(["dead"])
    long_ago = clock.now() - timedelta(seconds=60)
    Executor.objects.filter(executor_id="dead").update(disconnected_at=long_ago)
    presence.beat(instance_id="i1", hostname="host")
    Executor.objects.filter(executor_id="dead").update(disconnected_at=long_ago)
    presence.sweep()
    return Recovery.objects.get()


def connect(application: Application, executor_id: str, version: str) -> None:
    presence.register(
        [Registration(executor_id, application.pk, executor_id, version)],
        instance_id="i1",
    )


class Executors:
    """What the gateway reaches: each message type has one answer, as wire JSON."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says: dict[str, str | Exception] = {
            "list_workflows": '{"output": []}',
            "recovery": '{"success": true}',
        }
        self.orders: list[tuple[str, ...]] = []
        monkeypatch.setattr(gateway, "answer", self.answer)
        monkeypatch.setattr(gateway, "ask", lambda *a, **k: self.answer(*a, **k).reply)

    def answer(
        self,
        application: Application,
        request: Request,
        *,
        timeout_s: float = 0,
        executor_id: str | None = None,
        database: int | None = None,
    ) -> gateway.Answer:
        if isinstance(request, messages.Recovery):
            self.orders.append(request.executor_ids)
        said = self.says[request.type]
        if isinstance(said, Exception):
            raise said
        (by,) = gateway.healthy_targets(
            application, executor_id=executor_id or "witness"
        )
        return gateway.Answer(codec.parse_reply(request, said), by)


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> Executors:
    return Executors(monkeypatch)


def test_nothing_pending_confirms_and_removes_the_executor(
    application: Application, dead: Recovery, executors: Executors
) -> None:
    connect(application, "heir", "v1")
    connect(application, "witness", "v2")
    executors.says["exist_pending_workflows"] = '{"exist": false}'

    assert recovery.sweep() == 1

    dead.refresh_from_db()
    assert (dead.state, dead.pending_left) == (State.CONFIRMED, 0)
    assert (dead.taken_over_by, dead.proved_by) == ("heir", "witness")
    assert executors.orders == [("dead",)]
    assert not Executor.objects.filter(executor_id="dead").exists()


@pytest.mark.parametrize(
    "said",
    [
        '{"exist": true}',
        "{}",
        '{"exist": null}',
        '{"exist": "false"}',
        '{"exist": 0}',
        errors.ExecutorTimeout("No answer within 10 s."),
        errors.ProtocolError("The executor's reply is not JSON."),
        errors.ExecutorRefused("database is locked"),
    ],
    ids=str,
)
def test_anything_but_a_clear_no_is_no_proof(
    application: Application,
    dead: Recovery,
    executors: Executors,
    said: str | Exception,
) -> None:
    connect(application, "heir", "v1")
    connect(application, "witness", "v1")
    executors.says["exist_pending_workflows"] = said

    assert recovery.sweep() == 0

    dead.refresh_from_db()
    assert (dead.state, dead.confirmed_at) == (State.WAITING, None)
    assert dead.next_try_at > clock.now()
    assert Executor.objects.get(executor_id="dead").state == Executor.State.DEAD
    assert RecoveryAttempt.objects.count() == 1


@pytest.mark.parametrize("said", ['{"exist": true}', "{}", '{"exist": null}'])
def test_an_unclear_answer_does_not_close_what_waits_for_its_version(
    application: Application, dead: Recovery, executors: Executors, said: str
) -> None:
    connect(application, "witness", "v2")
    executors.says["exist_pending_workflows"] = said

    assert recovery.sweep() == 0

    dead.refresh_from_db()
    assert dead.state == State.WAITING
    assert dead.waiting_reason == "No healthy executor runs version v1."
    assert executors.orders == []


def test_another_version_can_say_that_nothing_was_left(
    application: Application, dead: Recovery, executors: Executors
) -> None:
    connect(application, "witness", "v2")
    executors.says["exist_pending_workflows"] = '{"exist": false}'

    assert recovery.sweep() == 1

    dead.refresh_from_db()
    assert (dead.state, dead.proved_by) == (State.CONFIRMED, "witness")
    assert (dead.taken_over_by, executors.orders) == ("", [])


def test_after_thousands_of_attempts_it_is_still_tried_each_minute(
    application: Application, dead: Recovery, executors: Executors
) -> None:
    connect(application, "heir", "v1")
    connect(application, "witness", "v1")
    executors.says["exist_pending_workflows"] = '{"exist": true}'
    Recovery.objects.update(attempts=5_000)

    recovery.sweep()

    dead.refresh_from_db()
    assert dead.state == State.WAITING
    assert dead.next_try_at <= clock.now() + timedelta(seconds=recovery.MAX_RETRY_S)


def test_a_version_is_found_among_thousands_of_another(
    application: Application, dead: Recovery, executors: Executors
) -> None:
    presence.register(
        [
            Registration(f"c{n}", application.pk, f"other-{n}", "v2")
            for n in range(3 * gateway.TARGETS_LIMIT)
        ],
        instance_id="i1",
    )
    connect(application, "heir", "v1")
    connect(application, "witness", "v1")
    executors.says["exist_pending_workflows"] = '{"exist": false}'

    assert recovery.sweep() == 1

    dead.refresh_from_db()
    assert dead.taken_over_by in {"heir", "witness"}


# --- Tenants beside each other ---


def make_neighbour(name: str = "neighbour", app: str = "payments") -> Application:
    organization, _ = Organization.objects.get_or_create(name=name)
    return Application.objects.create(
        organization=organization, name=app, executor_timeout_secs=10
    )


def make_backlog(application: Application, count: int, version: str = "v1") -> None:
    """Many dead executors, due for longer than anybody else's."""
    at = clock.now() - timedelta(hours=1)
    names = [f"{version}-dead-{number}" for number in range(count)]
    Executor.objects.bulk_create(
        [
            Executor(
                application=application,
                executor_id=name,
                application_version=version,
                state=Executor.State.DEAD,
                dead_at=at,
            )
            for name in names
        ],
        batch_size=500,
    )
    Recovery.objects.bulk_create(
        [
            Recovery(
                application=application,
                executor_id=name,
                application_version=version,
                dead_at=at,
                next_try_at=at,
            )
            for name in names
        ],
        batch_size=500,
    )
    # Making them may have taken longer than an instance may be silent.
    presence.beat(instance_id="i1", hostname="host")


def planned(in_hand: dict[int, list[recovery.Order]] | None = None) -> dict[str, int]:
    """How many recoveries the next pass takes up, by application."""
    orders, strays = recovery._plan(clock.now(), in_hand=in_hand or {})
    counts: dict[str, int] = {}
    for order in [*orders, *strays]:
        name = order.application.name
        counts[name] = counts.get(name, 0) + len(order.recovery_ids)
    return counts


def test_the_backlog_of_one_tenant_does_not_delay_another(
    application: Application, dead: Recovery
) -> None:
    """Before, the first 2,000 due of everybody were all that a pass read."""
    noisy = make_neighbour()
    make_backlog(noisy, 3_000)
    connect(noisy, "hung", "v1")
    connect(application, "heir", "v1")

    limit = recovery.ORDERS_PER_APPLICATION * recovery.ORDER_LIMIT
    assert planned() == {"orders": 1, "payments": limit}


def test_one_pass_takes_over_for_whoever_stands_behind_the_backlog_of_another(
    application: Application, dead: Recovery, executors: Executors
) -> None:
    """Before, nothing was asked for `orders` until the backlog was done."""
    noisy = make_neighbour()
    make_backlog(noisy, 2_500)
    connect(noisy, "noisy-heir", "v1")
    connect(application, "heir", "v1")
    executors.says["exist_pending_workflows"] = errors.ExecutorTimeout("No answer.")

    recovery.sweep()

    dead.refresh_from_db()
    assert dead.taken_over_by == "heir"
    assert ("dead",) in executors.orders


def test_what_is_in_hand_is_not_planned_again(
    application: Application, dead: Recovery
) -> None:
    make_backlog(application, 2_500)
    connect(application, "heir", "v1")
    orders, _ = recovery._plan(clock.now(), in_hand={})

    half, rest = orders[::2], orders[1::2]
    again, _ = recovery._plan(clock.now(), in_hand={application.pk: half})

    in_half = {pk for order in half for pk in order.recovery_ids}
    assert len(half) + len(rest) == recovery.ORDERS_PER_APPLICATION
    assert in_half.isdisjoint(pk for order in again for pk in order.recovery_ids)
    assert len(again) == len(rest)
    assert planned({application.pk: orders}) == {}


def test_a_pass_is_bounded_where_every_executor_has_a_version_of_its_own(
    application: Application, dead: Recovery, django_assert_max_num_queries: Any
) -> None:
    noisy = make_neighbour()
    for number in range(100):
        make_backlog(noisy, 1, f"v{number}")
    connect(application, "heir", "v1")

    with django_assert_max_num_queries(12 * recovery.ORDERS_PER_APPLICATION):
        assert planned() == {"orders": 1}


def test_an_executor_that_hangs_is_asked_once_about_what_nobody_runs(
    application: Application, dead: Recovery, executors: Executors
) -> None:
    """Before, it was waited for once for each of them."""
    make_backlog(application, 50)
    connect(application, "witness", "v2")
    asked: list[int] = []

    class Silence(dict[str, Any]):
        def __getitem__(self, kind: str) -> Any:
            asked.append(1)
            raise errors.ExecutorTimeout("No answer within 10 s.")

    executors.says = Silence()

    assert recovery.sweep() == 0
    assert len(asked) == 1
