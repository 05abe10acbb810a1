"""The state machine of an executor's life."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from django.db import connection, connections

from apps import errors
from apps.executors import (
    clock,
    gateway,
    presence,
    recovery,
    rollcall,
    runtime,
    sockets,
)
from apps.executors.gateway import Target
from apps.executors.models import Executor, Instance, PresenceClock, Recovery
from apps.executors.presence import Registration
from apps.executors.protocol import codec, messages
from apps.executors.protocol.codec import Peer
from apps.executors.protocol.messages import Request
from apps.executors.sockets import Socket
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
    alive()
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
    Executor.objects.update(connected_at=ago(60))
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
    Recovery.objects.update(
        state=Recovery.State.CONFIRMED, requested_at=ago(1), lease_expires_at=None
    )
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


# --- Whoever is connected is alive, whatever the rows say ---


@pytest.fixture
def connect() -> Iterator[Callable[..., Socket]]:
    """Open a socket of an executor that no row tells of yet."""
    opened: list[Socket] = []

    def open_one(application: Application, connection_id: str = "c9") -> Socket:
        socket = Socket(connection_id, application.pk, None, AsyncMock(), AsyncMock())
        socket.registration = registration(application, connection_id)
        sockets.open_sockets[connection_id] = socket
        opened.append(socket)
        return socket

    yield open_one
    for socket in opened:
        sockets.open_sockets.pop(socket.connection_id, None)


def test_a_connected_executor_is_not_declared_dead(
    application: Application, connect: Callable[..., Socket]
) -> None:
    alive()
    presence.register([registration(application)], instance_id="i1")
    presence.disconnect(["c1"])
    Executor.objects.update(disconnected_at=ago(60))
    connect(application)

    presence.sweep()

    executor = Executor.objects.get()
    assert executor.state == State.DISCONNECTED
    assert executor.disconnected_at is not None
    assert executor.disconnected_at > ago(5)
    assert not Recovery.objects.exists()


def test_nobody_is_declared_dead_when_a_server_does_not_answer(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive()
    presence.register([registration(application)], instance_id="i1")
    presence.disconnect(["c1"])
    Executor.objects.update(disconnected_at=ago(60))
    monkeypatch.setattr(rollcall, "connected", Mock(side_effect=rollcall.Unknown))

    presence.sweep()

    assert Executor.objects.get().state == State.DISCONNECTED


def test_no_order_names_an_executor_that_connected_and_is_not_registered_yet(
    application: Application,
    connect: Callable[..., Socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive()
    make_dead(application)
    heir = Registration("c2", application.pk, "x2", "v1")
    presence.register([heir], instance_id="i1")
    asked: list[Request] = []

    def answer(application: Application, request: Request, **_: Any) -> gateway.Answer:
        asked.append(request)
        # It comes back at the worst time: claimed, and about to be named.
        connect(application)
        raise errors.NoHealthyExecutor("gone")

    monkeypatch.setattr(gateway, "answer", answer)
    monkeypatch.setattr(gateway, "ask", answer)

    recovery.sweep()

    assert [request.type for request in asked] == ["list_workflows"]
    kept = Recovery.objects.get()
    assert kept.state == Recovery.State.WAITING
    assert kept.requested_at is None
    presence.register([registration(application, "c9")], instance_id="i1")
    kept.refresh_from_db()
    assert kept.state == Recovery.State.RETURNED
    assert not kept.returned_after_takeover


# --- Connections come and go ---


def test_connecting_leaving_and_connecting_within_one_batch_ends_connected(
    application: Application,
) -> None:
    batch = [registration(application, "c1"), registration(application, "c2")]

    runtime._write(batch, ["c1"], "i1")

    executor = Executor.objects.get()
    assert (executor.state, executor.connection_id) == (State.HEALTHY, "c2")


def test_the_older_of_two_connections_stays_and_takes_over(
    application: Application,
) -> None:
    """Two living processes with the same id do not chase each other."""
    key = (application.pk, "x1")
    presence.register([registration(application, "c1")], instance_id="i1")
    presence.register([registration(application, "c2")], instance_id="i1")

    drift = presence.find_drift(instance_id="i1", connections={"c1": key, "c2": key})
    assert (drift.unknown, drift.outdated, drift.gone) == ([], ["c1"], [])

    presence.disconnect(["c2"])
    drift = presence.find_drift(instance_id="i1", connections={"c1": key})
    assert (drift.unknown, drift.outdated, drift.gone) == (["c1"], [], [])


def test_a_row_whose_socket_is_gone_is_found(application: Application) -> None:
    presence.register([registration(application, "c1")], instance_id="i1")
    key = (application.pk, "x2")

    drift = presence.find_drift(instance_id="i1", connections={"c2": key})

    assert (drift.unknown, drift.gone) == (["c2"], ["c1"])


def test_an_executor_of_an_instance_that_had_no_time_to_beat_is_left_alone(
    application: Application,
) -> None:
    alive("i1")
    presence.register([registration(application)], instance_id="new")

    presence.sweep()

    assert Executor.objects.get().state == State.HEALTHY


# --- Tenants beside each other ---


def make_lost(application: Application, count: int, seconds: float) -> None:
    Executor.objects.bulk_create(
        Executor(
            application=application,
            executor_id=f"lost-{number}",
            state=State.DISCONNECTED,
            disconnected_at=ago(seconds),
        )
        for number in range(count)
    )


def test_the_dead_of_one_tenant_do_not_delay_those_of_another(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, batches of 500 went by key: one tenant's thousands came first."""
    alive()
    noisy = Application.objects.create(
        organization=Organization.objects.create(name="noisy"),
        name="payments",
        executor_timeout_secs=10,
    )
    make_lost(noisy, 1_200, 600)
    make_lost(application, 1, 60)
    batches: list[dict[int, int]] = []

    def roll_call(keys: Any, **_: Any) -> set[Any]:
        batches.append(Counter(key[0] for key in keys))
        return set()

    monkeypatch.setattr(rollcall, "connected", roll_call)
    monkeypatch.setattr(presence, "SWEEP_SECS", 60.0)

    assert presence.sweep() == (0, 1_201)

    assert batches[0] == {noisy.pk: presence.PER_TURN, application.pk: 1}
    assert Recovery.objects.count() == 1_201


def test_a_sweep_ends_in_time_and_the_next_goes_on(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive()
    make_lost(application, 1_000, 600)
    monkeypatch.setattr(presence, "SWEEP_SECS", 0.0)
    assert presence.sweep() == (0, 0)

    monkeypatch.setattr(presence, "SWEEP_SECS", 60.0)
    assert presence.sweep() == (0, 1_000)


def test_all_executors_of_a_lost_instance_become_disconnected(
    application: Application,
) -> None:
    alive("i1")
    make_lost(application, presence.BATCH + 10, 600)
    Executor.objects.update(
        state=State.HEALTHY, instance_id="lost", connected_at=ago(60)
    )

    assert presence.sweep() == (presence.BATCH + 10, 0)


# --- Clocks that jump ---


@pytest.fixture(params=[timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "back"])
def jump(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Let the clock that decides jump by an hour."""
    real = clock.now

    def do() -> None:
        monkeypatch.setattr(clock, "now", lambda: real() + request.param)

    return do


def test_a_clock_that_jumps_kills_nobody(
    application: Application, jump: Callable[[], None]
) -> None:
    alive()
    presence.register([registration(application)], instance_id="i1")
    presence.disconnect(["c1"])

    jump()
    presence.sweep()
    presence.beat(instance_id="i1", hostname="", idle=timedelta(seconds=2))
    presence.sweep()

    assert Executor.objects.get().state == State.DISCONNECTED
    Executor.objects.update(disconnected_at=ago(11))
    presence.sweep()
    assert Executor.objects.get().state == State.DEAD


def test_a_clock_that_jumps_ends_no_lease(
    application: Application, jump: Callable[[], None]
) -> None:
    alive()
    dead = make_dead(application)
    order = order_for(dead)
    assert recovery.claim(order)

    jump()
    for _ in range(2):
        assert recovery.claim(order) == []
        result = presence.register([registration(application)], instance_id="i1")
        assert result.fenced
        presence.beat(instance_id="i1", hostname="", idle=timedelta(seconds=2))

    Recovery.objects.update(lease_expires_at=ago(1))
    assert recovery.claim(order)


def test_a_clock_that_jumps_back_does_not_put_a_retry_off(
    application: Application, jump: Callable[[], None]
) -> None:
    alive()
    dead = make_dead(application)

    jump()
    presence.beat(instance_id="i1", hostname="", idle=timedelta(seconds=2))

    assert recovery.claim(order_for(dead))


def test_an_instance_that_beats_in_the_future_is_not_alive(
    application: Application,
) -> None:
    alive("i1")
    Instance.objects.update(beat_at=ago(-3600))

    assert presence.alive_instances(clock.now()) == set()


def test_an_instance_is_quiet_for_two_minutes_after_its_last_heartbeat(
    application: Application,
) -> None:
    for instance_id, age_s in (("fresh", 1), ("quiet", 20), ("long ago", 130)):
        alive(instance_id)
        Instance.objects.filter(pk=instance_id).update(beat_at=ago(age_s))

    assert presence.quiet_instances(clock.now()) == {"quiet"}


# --- Races, on PostgreSQL ---


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


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(
    "connection.vendor != 'postgresql'", reason="row locks are PostgreSQL's"
)
@pytest.mark.parametrize("seed", range(2))
def test_no_interleaving_orders_the_living(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Threads connect, leave, sweep and order at random. At the moment of an order no
    executor it names is HEALTHY, none is named by two orders at once, and nobody waits
    for another's lock in a circle."""
    organization = Organization.objects.create(name="race")
    application = Application.objects.create(
        organization=organization, name="orders", executor_timeout_secs=1
    )
    ids = [f"x{number}" for number in range(12)]
    heir = Registration("heir", application.pk, "heir", "v1")
    presence.register([heir], instance_id="i1")
    problems: list[str] = []
    ordered: list[str] = []
    under_way: set[str] = set()
    lock = threading.Lock()

    def answer(application: Application, request: Request, **_: Any) -> gateway.Answer:
        if isinstance(request, messages.Recovery):
            named = set(request.executor_ids)
            with lock:
                problems.extend(f"{x} ordered twice at once" for x in named & under_way)
                under_way.update(named)
                ordered.extend(named)
            for _ in range(3):
                # On its way: time for the others to do the wrong thing.
                time.sleep(0.02)
                alive_now = Executor.objects.filter(
                    executor_id__in=named, state=State.HEALTHY
                )
                problems.extend(f"{x.executor_id} lives" for x in alive_now)
            with lock:
                under_way.difference_update(named)
        said = {"recovery": '{"success": true}', "list_workflows": '{"output": []}'}
        text = said.get(request.type, '{"exist": false}')
        by = Target("heir", "v1", "heir", "i1", Peer(None, None))
        return gateway.Answer(codec.parse_reply(request, text), by)

    monkeypatch.setattr(gateway, "answer", answer)
    monkeypatch.setattr(gateway, "ask", lambda *a, **k: answer(*a, **k).reply)

    def come_and_go(dice: random.Random) -> None:
        chosen = dice.sample(ids, 6)
        batch = [
            Registration(f"c{dice.random()}", application.pk, x, "v1") for x in chosen
        ]
        presence.register(batch, instance_id="i1")
        presence.disconnect([item.connection_id for item in batch[:5]])
        Executor.objects.filter(
            executor_id__in=sorted(chosen)[:1], state=State.DISCONNECTED
        ).update(disconnected_at=ago(5))

    def tend(dice: random.Random) -> None:
        alive()
        presence.sweep()
        recovery.sweep()

    def play(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        try:
            for _ in range(15):
                (come_and_go if number % 2 else tend)(dice)
        except Exception as exc:
            problems.append(repr(exc))
        finally:
            connections.close_all()

    alive()
    threads = [threading.Thread(target=play, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert ordered
