"""The state machine of an executor's life."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections

from apps.executors import clock, presence, recovery
from apps.executors.gateway import Target
from apps.executors.models import Executor, Instance, PresenceClock, Recovery
from apps.executors.presence import Registration
from apps.executors.protocol.codec import Peer
from apps.registry.models import Application, Organization

State = Executor.State


@pytest.fixture
def application(db: Any) -> Application:
    organization = Organization.objects.create(name="acme")
    return Application.objects.create(
        organization=organization, name="orders", executor_timeout_secs=10
    )


def registration(
    application: Application, connection_id: str = "c1", executor_id: str = "x1"
) -> Registration:
    return Registration(connection_id, application.pk, executor_id, "v1")


def alive(instance_id: str = "i1") -> None:
    presence.beat(instance_id=instance_id, hostname="host")


def ago(seconds: float) -> Any:
    return clock.now() - timedelta(seconds=seconds)


def make_dead(application: Application, executor_id: str = "x1") -> Recovery:
    """An executor that was lost a minute ago, and the recovery that says so."""
    presence.register([registration(application, "c0", executor_id)], instance_id="i1")
    presence.disconnect(["c0"])
    Executor.objects.filter(executor_id=executor_id).update(disconnected_at=ago(60))
    presence.sweep()
    return Recovery.objects.get(executor_id=executor_id)


def order_for(*recoveries: Recovery) -> recovery.Order:
    return recovery.Order(
        recoveries[0].application,
        Target("x2", "v1", "c2", "i1", Peer(None, None)),
        tuple(r.pk for r in recoveries),
    )


def test_registering_makes_an_executor_healthy(application: Application) -> None:
    presence.register([registration(application)], instance_id="i1")

    executor = Executor.objects.get()
    assert (executor.state, executor.connection_id) == (State.HEALTHY, "c1")


def test_late_disconnect_of_an_old_connection_changes_nothing(
    application: Application,
) -> None:
    presence.register([registration(application, "c1")], instance_id="i1")
    presence.register([registration(application, "c2")], instance_id="i2")

    presence.disconnect(["c1"])

    assert Executor.objects.get().state == State.HEALTHY


def test_executor_is_dead_only_after_its_timeout(application: Application) -> None:
    alive()
    presence.register([registration(application)], instance_id="i1")
    presence.disconnect(["c1"])

    Executor.objects.update(disconnected_at=ago(9))
    presence.sweep()
    assert Executor.objects.get().state == State.DISCONNECTED

    Executor.objects.update(disconnected_at=ago(11))
    presence.sweep()
    assert Executor.objects.get().state == State.DEAD


def test_a_dead_executor_has_exactly_one_recovery(application: Application) -> None:
    alive()
    make_dead(application)

    presence.sweep()

    assert Recovery.objects.count() == 1


def test_executors_of_a_lost_instance_are_disconnected_as_of_now(
    application: Application,
) -> None:
    alive("i1")
    presence.register([registration(application)], instance_id="i1")
    Instance.objects.filter(pk="i1").update(beat_at=ago(60))
    alive("i2")

    presence.sweep()

    executor = Executor.objects.get()
    assert executor.state == State.DISCONNECTED
    assert executor.disconnected_at is not None
    assert executor.disconnected_at > ago(5)


def test_nothing_is_declared_while_no_instance_is_alive(
    application: Application,
) -> None:
    presence.register([registration(application)], instance_id="i1")
    presence.disconnect(["c1"])
    Executor.objects.update(disconnected_at=ago(600))

    presence.sweep()

    assert Executor.objects.get().state == State.DISCONNECTED
    assert not Recovery.objects.exists()


def test_an_outage_gives_every_executor_its_full_timeout(
    application: Application,
) -> None:
    alive("i1")
    presence.register([registration(application)], instance_id="i1")
    presence.disconnect(["c1"])
    Executor.objects.update(disconnected_at=ago(120))
    PresenceClock.objects.update(alive_at=ago(120))
    Instance.objects.update(beat_at=ago(120))

    alive("i2")
    presence.sweep()

    executor = Executor.objects.get()
    assert executor.state == State.DISCONNECTED
    assert not Recovery.objects.exists()


def test_returning_closes_a_recovery_that_was_not_ordered(
    application: Application,
) -> None:
    alive()
    make_dead(application)

    presence.register([registration(application)], instance_id="i1")

    closed = Recovery.objects.get()
    assert closed.state == Recovery.State.RETURNED
    assert not closed.returned_after_takeover
    assert Executor.objects.get().state == State.HEALTHY


def test_an_executor_that_an_order_names_is_not_registered(
    application: Application,
) -> None:
    alive()
    dead = make_dead(application)
    claimed = recovery.claim(order_for(dead))

    result = presence.register([registration(application)], instance_id="i1")

    assert [r.executor_id for r in claimed] == ["x1"]
    assert [r.executor_id for r in result.fenced] == ["x1"]
    assert Executor.objects.get().state == State.DEAD


def test_returning_after_a_takeover_is_marked(application: Application) -> None:
    alive()
    dead = make_dead(application)
    recovery.claim(order_for(dead))
    Recovery.objects.update(state=Recovery.State.CONFIRMED, lease_expires_at=None)
    Executor.objects.all().delete()

    presence.register([registration(application)], instance_id="i1")

    kept = Recovery.objects.get()
    assert kept.state == Recovery.State.CONFIRMED
    assert kept.returned_after_takeover


def test_a_living_executor_cannot_be_claimed(application: Application) -> None:
    alive()
    dead = make_dead(application)
    presence.register([registration(application)], instance_id="i1")
    # Even a row that says otherwise cannot name it.
    Recovery.objects.update(state=Recovery.State.WAITING, next_try_at=ago(1))

    assert recovery.claim(order_for(dead)) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="row locks are PostgreSQL's"
)
def test_ordering_and_returning_never_both_win() -> None:
    organization = Organization.objects.create(name="race")
    application = Application.objects.create(
        organization=organization, name="orders", executor_timeout_secs=10
    )
    alive()
    both = 0
    for number in range(40):
        dead = make_dead(application, f"x{number}")
        named: list[str] = []
        barrier = threading.Barrier(2)

        def give_order(
            dead: Recovery = dead,
            named: list[str] = named,
            barrier: threading.Barrier = barrier,
        ) -> None:
            barrier.wait()
            named += [r.executor_id for r in recovery.claim(order_for(dead))]
            connections.close_all()

        def come_back(
            number: int = number, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait()
            presence.register(
                [registration(application, f"c{number}", f"x{number}")],
                instance_id="i1",
            )
            connections.close_all()

        threads = [threading.Thread(target=f) for f in (give_order, come_back)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        state = Executor.objects.get(executor_id=f"x{number}").state
        both += bool(named) and state == State.HEALTHY
        assert named or state == State.HEALTHY

    assert both == 0
    assert connection.vendor == "postgresql"
