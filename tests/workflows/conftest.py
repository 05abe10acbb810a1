"""People, an application, and the real ASGI application serving it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from apps.executors import gateway
from apps.executors.models import Executor
from apps.registry import services
from apps.registry.auth import Actor, member_actor, system_actor
from apps.registry.models import (
    ApiKey,
    Application,
    Membership,
    Organization,
    Permission,
    Role,
)
from apps.workflows.live import counting
from conductor_site.asgi import application as site
from tests.api import make_key
from tests.workflows.executor import ScriptedExecutor, wait_until

READ_ONLY = [Permission.APPLICATION_READ, Permission.ORGANIZATION_READ]


@dataclass
class World:
    """Alice may do everything, Bob may read, Mallory is of another organization."""

    organization: Organization
    application: Application
    alice: User
    bob: User
    mallory: User

    def actor(self, user: User) -> Actor:
        membership = Membership.objects.get(user=user)
        return member_actor(membership, user)

    @property
    def url(self) -> str:
        return f"/orgs/acme/apps/{self.application.name}/workflows/"

    @property
    def bulk_url(self) -> str:
        return f"/orgs/acme/apps/{self.application.name}/workflows-bulk/"


def make_world() -> World:
    # Transactional tests empty the tables that migrations filled.
    for name, permissions in (
        (Role.ADMIN, list(Permission.values)),
        ("reader", READ_ONLY),
    ):
        Role.objects.get_or_create(
            name=name, organization=None, defaults={"permissions": permissions}
        )
    alice, bob, mallory = (
        User.objects.create_user(name, f"{name}@example.com")
        for name in ("alice", "bob", "mallory")
    )
    acme = services.create_organization(user=alice, name="acme")
    services.create_organization(user=mallory, name="other")
    Membership.objects.create(
        user=bob, organization=acme, role=Role.objects.get(name="reader")
    )
    orders = Application.objects.create(organization=acme, name="orders")
    # Tests number their applications alike.
    gateway.forget(orders.pk)
    counting.clear()
    return World(acme, orders, alice, bob, mallory)


@pytest.fixture
def world(db: Any) -> World:
    """For what needs no executor."""
    return make_world()


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@dataclass
class Served:
    """A world whose server runs, and executors that connect to it."""

    world: World
    base: str
    key: str
    executors: list[ScriptedExecutor] = field(default_factory=list)

    @property
    def application(self) -> Application:
        return self.world.application

    def connect(
        self, executor_id: str = "x1", *, app: str = "orders", **script: Any
    ) -> ScriptedExecutor:
        """Connect an executor, and wait until it is known to be healthy."""
        url = f"{self.base}/websocket/{app}/{self.key}"
        executor = ScriptedExecutor(url, executor_id, **script)
        self.executors.append(executor)
        healthy = Executor.objects.filter(
            application__name=app, executor_id=executor_id, state="HEALTHY"
        )
        wait_until(healthy.exists)
        # What came after `executor_info` told which database it works on.
        del executor.asked[1:]
        for application in Application.objects.all():
            gateway.forget(application.pk)
        return executor

    def api(self, *permissions: str) -> httpx.Client:
        """Calls of the HTTP API below `/v2/orgs/acme/apps/orders`, through the server,
        by a key with these permissions; application.read and .write without any."""
        wanted = permissions or (
            Permission.APPLICATION_READ,
            Permission.APPLICATION_WRITE,
        )
        return httpx.Client(
            base_url=f"{self.base.replace('ws', 'http', 1)}/v2/orgs/acme/apps/orders",
            headers={"Authorization": f"Bearer {make_key(*wanted)}"},
            timeout=30,
        )

    def leave(self) -> None:
        """Disconnect every executor, and wait until that is known."""
        for executor in self.executors:
            executor.close()
        self.executors.clear()
        wait_until(lambda: not Executor.objects.filter(state="HEALTHY").exists())
        gateway.forget(self.application.pk)


@pytest.fixture
def served(transactional_db: Any) -> Iterator[Served]:
    """The ASGI application, served on a port by a thread of this process."""
    world = make_world()
    _, key = services.create_api_key(
        actor=system_actor(world.organization),
        name="k1",
        permissions=[Permission.WEBSOCKET_CONNECT],
    )
    assert ApiKey.objects.exists()
    with running() as port:
        served = Served(world, f"ws://127.0.0.1:{port}", key)
        yield served
        for executor in served.executors:
            executor.close()
    close_other_connections()


@contextlib.contextmanager
def running() -> Iterator[int]:
    server = uvicorn.Server(
        uvicorn.Config(
            site,
            port=0,
            ws="websockets-sansio",
            lifespan="on",
            log_config=None,
            timeout_graceful_shutdown=2,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def close_other_connections() -> None:
    """Those of the server's threads would keep the test database from being dropped."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


Browser = Callable[[User], Client]


@pytest.fixture
def browser() -> Browser:
    return browser_of
