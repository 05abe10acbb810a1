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
