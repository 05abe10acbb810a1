"""A crowd at the door of a Conductor that may have 25 database connections.

Signed-in clients are served, good executors let in and heartbeats written, while many
anonymous requests and wrong keys arrive at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from apps.executors.presence import STALE_AFTER
from benchmarks.stack import Stack, free_port
from tests.chaos.rig import FULL

pytestmark = [pytest.mark.services]

CONNECTIONS = 25
CLIENTS, SECS, THINK_SECS = (200, 60.0, 1.0) if FULL else (40, 8.0, 0.5)
ANONYMOUS, WRONG_KEYS = (400, 800) if FULL else (100, 200)
# Generous where others use the machine; the numbers are printed.
HANDSHAKE_SECS = 0.5 if FULL else 5.0
SESSIONS = """
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
user = User.objects.get(email="crowd@example.com")
for _ in range({count}):
    session = SessionStore()
    session["_auth_user_id"] = str(user.pk)
    session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
    session["_auth_user_hash"] = user.get_session_auth_hash()
    session.create()
    print("session", session.session_key)
"""


class Crowd:
    """Everybody who comes, and what they were answered."""

    def __init__(self, port: int, key: str, sessions: list[str]) -> None:
        self.port, self.key, self.sessions = port, key, sessions
        self.signed_in: Counter[int] = Counter()
        self.anonymous: Counter[int] = Counter()
        self.wrong: Counter[int] = Counter()
        self.good: list[tuple[int, float]] = []
        self.health: Counter[int] = Counter()

    async def come(self) -> None:
        """Ask all at once, for a while."""
        until = time.monotonic() + SECS
        limits = httpx.Limits(max_connections=None)
        base = f"http://127.0.0.1:{self.port}"
        async with (
            httpx.AsyncClient(base_url=base, limits=limits, timeout=60) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(CLIENTS):
                group.create_task(self._stay(http, number, until))
            await asyncio.sleep(SECS / 4)
            for _ in range(ANONYMOUS):
                group.create_task(self._ask_anonymously(http))
            for _ in range(WRONG_KEYS):
                group.create_task(self._try_wrong_key())
            await asyncio.to_thread(self._connect_until, until)

    def _connect_until(self, until: float) -> None:
        """Connect with the good key, in a thread that no other client shares."""
        while time.monotonic() < until:
            self.good.append(asyncio.run(self._handshake(self.key)))
            answer = httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=60)
            self.health[answer.status_code] += 1
            time.sleep(0.1)

    async def _stay(self, http: httpx.AsyncClient, number: int, until: float) -> None:
        if number % 2:
            path = "/v2/orgs/crowd/apps"
            headers = {"Authorization": f"Bearer {self.key}"}
        else:
            path = "/orgs/crowd/apps/"
            cookie = f"conductor_session={self.sessions[number // 2]}"
            headers = {"Cookie": cookie}
        while time.monotonic() < until:
            answer = await http.get(path, headers=headers)
            self.signed_in[answer.status_code] += 1
            await asyncio.sleep(random.uniform(0, 2 * THINK_SECS))

    async def _ask_anonymously(self, http: httpx.AsyncClient) -> None:
        form = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "y"}
        answer = await http.post("/identity/token", data=form)
        self.anonymous[answer.status_code] += 1

    async def _try_wrong_key(self) -> None:
        key = f"dbos_{secrets.token_hex(4)}_{'x' * 43}"
        status, _ = await self._handshake(key)
        self.wrong[status] += 1

    async def _handshake(self, key: str) -> tuple[int, float]:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            f"GET /websocket/orders/{key} HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        line = await reader.readline()
        writer.close()
        return int(line.split()[1]), time.monotonic() - began


@pytest.fixture
def stack() -> Iterator[Stack]:
    """Conductor whose role in the database is limited."""
    role = f"crowd_{secrets.token_hex(4)}"
    with Stack(organization="crowd") as stack:
        stack.sql.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD 'crowd' CONNECTION LIMIT {CONNECTIONS}"
        )
        for what in ("TABLES", "SEQUENCES"):
            stack.sql.execute(f"GRANT ALL ON ALL {what} IN SCHEMA public TO {role}")
        parts = urlsplit(stack.own_url)
        location = f"{role}:crowd@{parts.hostname}:{parts.port}"
        limited = urlunsplit(parts._replace(netloc=location))
        try:
            stack.environment["DATABASE_URL"] = limited
            yield stack
        finally:
            for process in reversed(stack.processes):
                process.terminate()
                process.wait(20)
            stack.sql.execute(f"DROP OWNED BY {role}")
            stack.sql.execute(f"DROP ROLE {role}")


def provision(stack: Stack) -> tuple[str, list[str]]:
    """Make the organization; return a key and the sessions of its member."""
    printed = stack.manage(
        "provision",
        "--org=crowd",
        "--email=crowd@example.com",
        f"--password={secrets.token_urlsafe(20)}",
        "--app=orders",
        "--permission=application.read",
        "--permission=websocket.connect",
        "--key-name=k1",
        "--json",
    )
    key: str = json.loads(printed.strip().splitlines()[-1])["key"]
    lines = stack.manage("shell", "-c", SESSIONS.format(count=CLIENTS // 2 + 1))
    sessions = [
        line.split()[1] for line in lines.splitlines() if line.startswith("session ")
    ]
    return key, sessions


async def watch(stack: Stack, stop: asyncio.Event) -> tuple[float, int]:
    """Return the longest time that a heartbeat was ago, and the most connections."""
    oldest, most = 0.0, 0
    while not stop.is_set():
        row = stack.sql.execute(
            "SELECT max(extract(epoch FROM now() - beat_at)) FROM executors_instance"
        ).fetchone()
        oldest = max(oldest, float(row[0] or 0) if row else 0.0)
        used = stack.count(
            "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE %s", "crowd_%"
        )
        most = max(most, used)
        await asyncio.sleep(0.2)
    return oldest, most


async def test_crowd_harms_nobody_who_is_signed_in(stack: Stack) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)
    key, sessions = provision(stack)
    port = free_port()
    stack.start_web(port)
    stack.start_background()
    crowd, stop = Crowd(port, key, sessions), asyncio.Event()
    assert await crowd._handshake(key) != 0

    watching = asyncio.create_task(watch(stack, stop))
    await crowd.come()
    stop.set()
    oldest, used = await watching

    slowest = max(secs for _, secs in crowd.good)
    print(
        f"signed in {dict(crowd.signed_in)}, anonymous {dict(crowd.anonymous)}, "
        f"wrong keys {dict(crowd.wrong)}, health {dict(crowd.health)}; "
        f"{len(crowd.good)} good handshakes, slowest {slowest:.3f} s; "
        f"oldest heartbeat {oldest:.1f} s; {used} connections"
    )
    assert set(crowd.signed_in) == {200}
    assert {status for status, _ in crowd.good} == {101}
    assert set(crowd.health) == {200}
    assert set(crowd.wrong) <= {401, 429}
    assert 500 not in crowd.anonymous
    assert oldest < STALE_AFTER.total_seconds()
    assert slowest < HANDSHAKE_SECS
    assert used <= CONNECTIONS
    assert stack.complaints() == []
