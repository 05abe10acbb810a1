"""What a server process keeps running beside its sockets: the instance.

* a *writer*: registrations and disconnects are collected for a few milliseconds and
  written in one transaction, because a write per handshake is slower than a fleet that
  reconnects (clients give up after 5 s and start again);
* a *beat* thread: says that this instance is alive, repairs what an outage of the
  database lost, closes the sockets of revoked keys, writes counted refusals;
* the *bus*: answers other processes that ask over our sockets.
"""

from __future__ import annotations

import asyncio
import logging
import socket as network
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connections
from django.db.utils import DatabaseError, InterfaceError, OperationalError

from apps import database
from apps.executors import admission, bus, live, loops, parsers, presence, sockets
from apps.executors.admission import Admitted
from apps.executors.presence import Registration
from apps.executors.sockets import Socket
from apps.registry.models import Application

logger = logging.getLogger(__name__)

COLLECT_SECS = 0.02
BATCH_LIMIT = 500
FENCED_RETRY_SECS = 0.5
DATABASE_RETRY_SECS = 1.0
TRY_ANOTHER_SERVER = 1013
POLICY_VIOLATION = 1008


@dataclass(slots=True)
class _Instance:
    loop: asyncio.AbstractEventLoop
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    hostname: str = field(default_factory=network.gethostname)
    registrations: list[Registration] = field(default_factory=list)
    disconnects: list[str] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    database: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(
            1,
            thread_name_prefix="presence-db",
            initializer=database.keep_own_connection,
        )
    )
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    writer: asyncio.Task[None] | None = None
    beat: threading.Thread | None = None


_instance: _Instance | None = None
_on_woken: list[Callable[[], None]] = []


def is_started() -> bool:
    return _instance is not None


def on_recovery_woken(callback: Callable[[], None]) -> None:
    """Have `callback` called, in a thread, when an executor arrived that a waiting
    recovery waited for. Registered by `apps.ExecutorsConfig`."""
    _on_woken.append(callback)


def start(loop: asyncio.AbstractEventLoop) -> None:
    """Start this process' instance on the server's loop. A second call does nothing."""
    global _instance
    if _instance is not None:
        return
    loops.announce(loop)
    _instance = instance = _Instance(loop)
    instance.beat = threading.Thread(
        target=_beat_until_stopped, args=(instance,), name="beat", daemon=True
    )
    instance.beat.start()

    def begin() -> None:
        instance.writer = loop.create_task(_write_forever(instance))
        spawn(_open_bus(instance))

    loop.call_soon_threadsafe(begin)


async def _open_bus(instance: _Instance) -> None:
    await bus.open_as(instance.id)


async def stop() -> None:
    """Stop in good order: write what is collected, take the instance off the list."""
    global _instance
    instance = _instance
    if instance is None:
        return
    instance.stopping.set()
    for socket in list(sockets.open_sockets.values()):
        unregister(socket)
    if instance.writer is not None:
        instance.writer.cancel()
        await asyncio.gather(instance.writer, return_exceptions=True)
    try:
        async with asyncio.timeout(3):
            await _in_database(instance, _final_write, instance)
    except (TimeoutError, DatabaseError, InterfaceError):
        logger.warning("database away while stopping; the sweep will notice")
    await bus.close()
    parsers.stop()
    instance.database.shutdown(wait=False, cancel_futures=True)
    loops.announce(None)
    _instance = None


def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a background task of this instance; asyncio alone would not keep it."""
    instance = _require()
    task = instance.loop.create_task(coroutine)
    instance.tasks.add(task)
    task.add_done_callback(instance.tasks.discard)
    return task


def register(socket: Socket, registration: Registration) -> None:
    """Take an introduced connection in; it is written with the next batch."""
    instance = _require()
    if not socket.is_open:
        return
    socket.registration = registration
    sockets.open_sockets[socket.connection_id] = socket
    instance.registrations.append(registration)
    instance.wake.set()
    live.announce(socket.application_id)


def unregister(socket: Socket) -> None:
    """Note that a connection closed; it is written with the next batch."""
    instance = _instance
    if sockets.open_sockets.pop(socket.connection_id, None) is None:
        return
    if instance is not None:
        instance.disconnects.append(socket.connection_id)
        instance.wake.set()
        live.announce(socket.application_id)


def _require() -> _Instance:
    if _instance is None:
        raise RuntimeError("the runtime of this process was not started")
    return _instance


# --- The writer ------------------------------------------------------------------


async def _write_forever(instance: _Instance) -> None:
    while True:
        await instance.wake.wait()
        await asyncio.sleep(COLLECT_SECS)
        instance.wake.clear()
        while instance.registrations or instance.disconnects:
            try:
                written = await _write_batch(instance)
            except Exception:
                # Without its writer a server would look well and know nobody.
                logger.exception("presence not written; retrying")
                written = False
            if not written:
                await asyncio.sleep(DATABASE_RETRY_SECS)


async def _write_batch(instance: _Instance) -> bool:
    """Write one batch; keep it and return False while the database is away."""
    registrations = instance.registrations[:BATCH_LIMIT]
    # A disconnect may concern a registration of the same batch, so it goes second.
    disconnects = (
        instance.disconnects[:BATCH_LIMIT]
        if len(registrations) == len(instance.registrations)
        else []
    )
    try:
        result = await _in_database(
            instance, _write, registrations, disconnects, instance.id
        )
    except (OperationalError, InterfaceError) as exc:
        logger.warning("presence not written; retrying", extra={"error": str(exc)})
        return False
    except DatabaseError:
        if not registrations:
            raise
        result = await _write_singly(instance, registrations)
        disconnects = []
    del instance.registrations[: len(registrations)]
    del instance.disconnects[: len(disconnects)]
    _dismiss_surplus(result.surplus)
    if result.fenced:
        instance.loop.call_later(FENCED_RETRY_SECS, _again, instance, result.fenced)
    if result.woke_recoveries:
        for callback in _on_woken:
            instance.loop.run_in_executor(None, callback)
    return True


async def _write_singly(
    instance: _Instance, registrations: list[Registration]
) -> presence.Registered:
    """Something in the batch cannot be stored. One executor must not keep the others
    from being registered: each is written alone, and the one that fails is closed."""
    fenced: list[Registration] = []
    surplus: list[Registration] = []
    woke = False
    for registration in registrations:
        try:
            result = await _in_database(
                instance, _write, [registration], [], instance.id
            )
        except (OperationalError, InterfaceError):
            fenced.append(registration)
        except DatabaseError:
            logger.exception("executor cannot be registered")
            _dismiss(
                registration.connection_id,
                POLICY_VIOLATION,
                "this executor cannot be registered",
            )
        else:
            fenced += result.fenced
            surplus += result.surplus
            woke = woke or result.woke_recoveries
    return presence.Registered(fenced, woke, surplus)


def _dismiss_surplus(registrations: list[Registration]) -> None:
    for registration in registrations:
        _dismiss(
            registration.connection_id,
            POLICY_VIOLATION,
            f"the application has {settings.CONDUCTOR_MAX_EXECUTORS} executors already",
        )
    if registrations:
        logger.warning(
            "executors over the quota", extra={"executors": len(registrations)}
        )


def _again(instance: _Instance, registrations: list[Registration]) -> None:
    """Queue registrations once more whose sockets are still open."""
    still = [r for r in registrations if r.connection_id in sockets.open_sockets]
    instance.registrations.extend(still)
    if still:
        instance.wake.set()


def _write(
    registrations: list[Registration], disconnects: list[str], instance_id: str
) -> presence.Registered:
    result = presence.Registered([], False)
    if registrations:
        known = set(
            Application.objects.filter(
                pk__in={r.application_id for r in registrations}
            ).values_list("pk", flat=True)
        )
        present = [r for r in registrations if r.application_id in known]
        result = presence.register(present, instance_id=instance_id)
    if disconnects:
        presence.disconnect(disconnects)
    return result


def _final_write(instance: _Instance) -> None:
    if instance.registrations or instance.disconnects:
        _write(instance.registrations, instance.disconnects, instance.id)
    presence.retire_instance(instance_id=instance.id)
    connections.close_all()


async def _in_database(
    instance: _Instance, function: Callable[..., Any], *args: Any
) -> Any:
    def call() -> Any:
        close_old_connections()
        return function(*args)

    return await instance.loop.run_in_executor(instance.database, call)


# --- The beat --------------------------------------------------------------------


def _beat_until_stopped(instance: _Instance) -> None:
    database.keep_own_connection()
    last = None
    while True:
        close_old_connections()
        try:
            idle = None if last is None else timedelta(seconds=_steady() - last)
            _beat_once(instance, idle)
            last = _steady()
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("beat failed; retrying", extra={"error": str(exc)})
            _give_up_if_cut_off(instance, last)
        except Exception:
            logger.exception("beat failed; retrying")
        if instance.stopping.wait(presence.BEAT_SECS):
            connections.close_all()
            return


def _steady() -> float:
    """Seconds of a clock that nobody sets, and that runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _give_up_if_cut_off(instance: _Instance, last: float | None) -> None:
    """Without the database and the bus nobody can know that our executors live. Let
    them go while there is time to come back, to a server that is not cut off."""
    if last is None or bus.is_listening():
        return
    if _steady() - last > presence.STALE_AFTER.total_seconds():
        instance.loop.call_soon_threadsafe(_dismiss_everyone)


def _dismiss_everyone() -> None:
    for connection_id in list(sockets.open_sockets):
        _dismiss(
            connection_id, TRY_ANOTHER_SERVER, "this server lost its database and Redis"
        )


def _beat_once(instance: _Instance, idle: timedelta | None) -> None:
    presence.beat(instance_id=instance.id, hostname=instance.hostname, idle=idle)
    settled = _settled_sockets(instance)
    drift = presence.find_drift(
        instance_id=instance.id,
        connections={
            connection_id: socket.registration.key
            for connection_id, socket in settled.items()
            if socket.registration is not None
        },
    )
    unwelcome = _unwelcome(settled)
    if drift.unknown or drift.outdated or drift.gone or unwelcome:
        instance.loop.call_soon_threadsafe(_repair, instance, drift, unwelcome)
    admission.flush_rejections()
    admission.refresh_hints()


def _settled_sockets(instance: _Instance) -> dict[str, Socket]:
    """The open sockets whose news are all written."""
    fresh = {r.connection_id for r in list(instance.registrations)}
    return {
        connection_id: socket
        for connection_id, socket in list(sockets.open_sockets.items())
        if connection_id not in fresh
    }


def _unwelcome(settled: dict[str, Socket]) -> dict[str, str]:
    """Sockets that would not be let in any more, with the reason."""
    admitted = {
        connection_id: Admitted(socket.application_id, socket.api_key_id)
        for connection_id, socket in settled.items()
    }
    why = admission.reconsider(set(admitted.values()))
    return {cid: why[one] for cid, one in admitted.items() if one in why}


def _repair(
    instance: _Instance, drift: presence.Drift, unwelcome: dict[str, str]
) -> None:
    for connection_id in drift.unknown:
        socket = sockets.open_sockets.get(connection_id)
        if socket is not None and socket.registration is not None:
            instance.registrations.append(socket.registration)
    for connection_id in drift.outdated:
        socket = sockets.open_sockets.get(connection_id)
        if socket is not None and not socket.is_outdated:
            socket.is_outdated = True
            logger.warning(
                "an executor id has two connections",
                extra={"connection": connection_id},
            )
    # One that was registered since the comparison began is open here.
    instance.disconnects += [c for c in drift.gone if c not in sockets.open_sockets]
    instance.wake.set()
    if unwelcome:
        # It comes back within a second, and is then to hear the reason again.
        admission.forget_verdicts()
    for connection_id, reason in unwelcome.items():
        _dismiss(connection_id, POLICY_VIOLATION, reason)


def _dismiss(connection_id: str, code: int, reason: str) -> None:
    socket = sockets.open_sockets.get(connection_id)
    if socket is not None:
        unregister(socket)
        spawn(_close(socket, code, reason))


async def _close(socket: Socket, code: int, reason: str) -> None:
    await socket.close(code, reason)
