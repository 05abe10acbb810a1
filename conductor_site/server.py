"""`python -m conductor_site.server`: start Conductor, or one role of it.

Without services it is one process with everything in it; with DATABASE_URL and
REDIS_URL it is a process tree of web, worker and beat, each of which also runs alone.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import ipaddress
import logging
import os
import resource
import socket
import sys
import time
import warnings
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

import django
from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from conductor_site.embedded import Background

logger = logging.getLogger(__name__)

ROLES = ("all", "web", "worker", "beat")
WAIT_SECS = 60.0
RETRY_SECS = 2.0
SWITCH_SECS = 0.0005
# glibc's names for what `mallopt` sets (malloc.h), and from which size on a block is a
# mapping of its own.
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
OWN_MAPPING_BYTES = 256 * 1024
ARENAS = 2


class StartError(Exception):
    """Conductor cannot start; the message says why and what to do."""


def main(arguments: list[str] | None = None) -> int:
    """Run the role that was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="conductor_site.server", description=__doc__)
    parser.add_argument("--role", choices=ROLES, default="all")
    role = parser.parse_args(arguments).role
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conductor_site.settings")
    try:
        django.setup()
        return _run(role)
    except (StartError, ImproperlyConfigured) as exc:
        sys.stderr.write(f"Conductor cannot start: {exc}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(role: str) -> int:
    from django.conf import settings

    from conductor_site import supervisor

    if role in {"all", "web"}:
        refuse_open_door(settings.HOST)
    if settings.CONDUCTOR_EMBEDDED:
        if role != "all":
            raise StartError(
                f"the {role} role alone needs DATABASE_URL and REDIS_URL. Without them "
                "everything runs in one process: leave --role out (`make run`)."
            )
        return _run_embedded()
    wait_for("the database", _reach_database)
    wait_for("Redis", _reach_redis)
    if role == "web":
        refuse_unmigrated()
        return serve(bind(settings.HOST, settings.PORT))
    if role == "all":
        # Found out here, the sentence stands alone; the web process binds it again.
        bind(settings.HOST, settings.PORT).close()
        migrate()
        return supervisor.supervise()
    command = supervisor.COMMANDS[role]
    return os.execve(command[0], command, supervisor.environment(role))


def _run_embedded() -> int:
    from django.conf import settings

    from conductor_site import embedded

    listener = bind(settings.HOST, settings.PORT)
    try:
        lock: IO[str] = embedded.lock_data_dir(settings.DATA_DIR)
    except embedded.AlreadyRunning:
        raise StartError(
            f"another Conductor already uses {settings.DATA_DIR}. Stop it, or set "
            "CONDUCTOR_DATA_DIR to another directory."
        ) from None
    except OSError as exc:
        raise StartError(
            f"the data directory {settings.DATA_DIR} cannot be written: {exc}"
        ) from None
    with lock:
        migrate()
        return serve(listener, with_background=True)


# --- Checks before the start ---


def refuse_open_door(host: str) -> None:
    """Refuse to serve without authentication where others can reach it."""
    from django.conf import settings

    if settings.CONDUCTOR_AUTH != "none" or settings.CONDUCTOR_ALLOW_INSECURE:
        return
    if not is_loopback(host):
        raise StartError(
            f"CONDUCTOR_AUTH=none serves everyone who can connect, so it binds to a "
            f"loopback address only, not to {host!r}. Set HOST=127.0.0.1, or "
            "CONDUCTOR_ALLOW_INSECURE=1 if something else guards this port."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Take the port. Nobody can connect until the server listens on it.

    Raises: StartError.
    """
    listener = None
    try:
        if not 0 <= port <= 65535:
            # The resolver would wrap it around to another port.
            raise OverflowError("a port is a number up to 65535")
        family, kind, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as exc:
        if listener is not None:
            listener.close()
        raise StartError(
            f"it cannot listen on {host}:{port}: {exc}. Set HOST and PORT to an "
            "address of this machine and a free port."
        ) from None
    return listener


def wait_for(what: str, reach: Callable[[], str]) -> None:
    """Wait until a service answers; say what is missing. Raises: StartError."""
    deadline = time.monotonic() + WAIT_SECS
    while problem := reach():
        if time.monotonic() > deadline:
            raise StartError(f"{what} did not answer for {WAIT_SECS:.0f} s: {problem}")
        logger.warning("waiting for %s: %s", what, problem)
        time.sleep(RETRY_SECS)


def _reach_database() -> str:
    from django.db import Error, connection

    try:
        connection.ensure_connection()
    except Error as exc:
        return " ".join(str(exc).split())
    return ""


def _reach_redis() -> str:
    import redis
    from django.conf import settings

    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=3, socket_timeout=3
        ) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as exc:
        return str(exc)
    return ""


def migrate() -> None:
    """Bring the database up to date. Safe to run from several machines at once."""
    from django.core.management import call_command
    from django.db import Error, connection

    lock = connection.vendor == "postgresql"
    try:
        with connection.cursor() as cursor:
            if lock:
                cursor.execute("SELECT pg_advisory_lock(hashtext('conductor-migrate'))")
            call_command("migrate", interactive=False, verbosity=0)
            if lock:
                cursor.execute(
                    "SELECT pg_advisory_unlock(hashtext('conductor-migrate'))"
                )
    except Error as exc:
        raise StartError(f"the database could not be migrated: {exc}") from exc
    finally:
        connection.close()


def missing_migrations() -> int:
    """Count what the database lacks."""
    from django.db import connection
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connection)
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def refuse_unmigrated() -> None:
    """Refuse to serve on a database that lacks migrations. Raises: StartError."""
    from django.db import connection

    missing = missing_migrations()
    connection.close()
    if missing:
        raise StartError(
            f"the database lacks {missing} migrations. "
            "Run `python manage.py migrate` first, or start with `make run`."
        )


# --- The web process ---


def raise_open_files() -> None:
    """Allow as many open sockets as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def return_large_blocks() -> None:
    """Have the memory of large messages go back to the system once they are dropped.

    glibc raises its own threshold to the largest block freed so far, up to 32 MiB; from
    then on such blocks lie in the arenas of threads, which small objects keep open.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have no such setting
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        mallopt(M_ARENA_MAX, ARENAS)


def serve(listener: socket.socket, *, with_background: bool = False) -> int:
    """Serve the site on a bound socket until told to stop; return the exit code."""
    # Before anything that imports Twisted: it chooses the event loop.
    from conductor_site.daphne_server import Server  # isort: skip
    from django.conf import settings

    # Static files come from where they lie, so there may be no collected ones.
    warnings.filterwarnings("ignore", message="No directory at", category=UserWarning)

    from apps.executors import runtime
    from conductor_site import edge
    from conductor_site.asgi import application
    from conductor_site.receiving import Budget

    raise_open_files()
    return_large_blocks()
    background: Background | None = None

    async def start(loop: asyncio.AbstractEventLoop) -> None:
        nonlocal background
        runtime.start(loop)
        if with_background:
            from conductor_site.embedded import Background

            def died(name: str) -> None:
                logger.critical("the Celery %s died; stopping", name)
                loop.call_soon_threadsafe(server.fail, 1)

            background = Background(on_death=died)
            await asyncio.to_thread(background.start)
        # Executors' objects live long: full collections only cost time (measured: a
        # storm of 10,000 takes 40 % less).
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        # Threads that read and write long answers hand the interpreter back sooner: a
        # small request waits for it at each of its many steps (measured beside a list
        # of 10,000: a third less).
        sys.setswitchinterval(SWITCH_SECS)

    async def stop() -> None:
        if background is not None:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(background.stop))
                group.create_task(runtime.stop())
        else:
            await runtime.stop()

    text = banner(settings.HOST, listener.getsockname()[1], embedded=with_background)
    server = Server(
        application,
        listener=listener,
        max_message_bytes=settings.CONDUCTOR_MAX_MESSAGE_BYTES,
        message_limit=edge.message_limit(settings.CONDUCTOR_MAX_MESSAGE_BYTES),
        budget=Budget(
            size=settings.CONDUCTOR_RECEIVE_BUDGET_BYTES,
            share=settings.CONDUCTOR_RECEIVE_BUDGET_BYTES // 4,
            largest=settings.CONDUCTOR_MAX_MESSAGE_BYTES,
        ),
        max_body_bytes=settings.CONDUCTOR_MAX_BODY_BYTES,
        refusal=edge.refusal,
        too_large=edge.too_large(settings.CONDUCTOR_MAX_BODY_BYTES),
        head_secs=settings.CONDUCTOR_REQUEST_HEAD_SECS,
        body_secs=settings.CONDUCTOR_REQUEST_BODY_SECS,
        max_unfinished=settings.CONDUCTOR_MAX_UNFINISHED_REQUESTS,
        on_start=start,
        on_ready=lambda: _say(text),
        on_stop=stop,
    )
    return server.run()


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def banner(host: str, port: int, *, embedded: bool) -> str:
    """Return what the start prints: where, with what, and what to do first."""
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.db import connection

    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    lines = [f"Conductor is at {url}/"]
    if embedded:
        lines += [
            "Embedded mode: one process, for trying, developing and a single node with "
            "up to some",
            "hundreds of executors. For more, set DATABASE_URL and REDIS_URL.",
            f"Data: {settings.DATA_DIR}",
        ]
    if settings.CONDUCTOR_AUTH == "none":
        lines.append("No login (CONDUCTOR_AUTH=none): everyone who connects may all.")
    elif not get_user_model()._default_manager.exists():
        if settings.CONDUCTOR_SIGNUP == "open":
            lines.append(f"Nobody has an account yet. Sign up: {url}/accounts/signup/")
        else:
            lines.append("Nobody has an account yet: see `manage.py provision --help`.")
    connection.close()
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
