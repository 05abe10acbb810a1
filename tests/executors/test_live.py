"""Hints to open pages: only for members, and only that something changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asgiref.sync import sync_to_async
from channels.routing import URLRouter
from channels.testing import ApplicationCommunicator
from django.contrib.auth.models import User
from django.test import Client

from apps.executors import live, loops
from apps.executors.routing import websocket_urlpatterns
from apps.registry import services
from apps.registry.models import Application, Membership, Organization, Role

pytestmark = pytest.mark.django_db(transaction=True)
site = URLRouter(websocket_urlpatterns)
ORIGIN = (b"origin", b"http://localhost")


@pytest.fixture(autouse=True)
def builtin_roles(transactional_db: Any) -> None:
    """Transactional tests empty the tables that migrations filled."""
    for name in ("organization_admin", "organization_member"):
        Role.objects.get_or_create(
            name=name, organization=None, defaults={"permissions": ["application.read"]}
        )


def make_member(name: str) -> tuple[User, Organization]:
    user = User.objects.create_user(name, f"{name}@example.com")
    return user, services.create_organization(user=user, name=name)


def make_application() -> tuple[User, Application]:
    user, organization = make_member("alice")
    made = Application.objects.create(organization=organization, name="orders")
    return user, made


async def knock(
    user: User | None,
    *,
    origin: tuple[bytes, bytes] = ORIGIN,
    app: str = "orders",
    cookie: bytes = b"",
) -> tuple[ApplicationCommunicator, int]:
    """Open the socket as that person's browser; return it and the status."""
    headers = [origin, (b"cookie", cookie)]
    if user is not None:
        client = Client()
        await sync_to_async(client.force_login)(user)
        cookies = client.cookies.output(header="", sep=";").strip().split(";")[0]
        headers[1] = (b"cookie", cookies.encode())
    scope = {
        "type": "websocket",
        "path": f"/orgs/alice/apps/{app}/live/",
        "headers": headers,
        "query_string": b"",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    socket = ApplicationCommunicator(site, scope)
    await socket.send_input({"type": "websocket.connect"})
    answer = await socket.receive_output(timeout=5)
    statuses = {"websocket.accept": 101, "websocket.close": 403}
    return socket, answer.get("status") or statuses[answer["type"]]


@pytest_asyncio.fixture(autouse=True)
async def server() -> AsyncIterator[None]:
    """In a server process, sockets and hints live on one loop: here the test's."""
    loops.announce(asyncio.get_running_loop())
    yield
    await asyncio.sleep(live.GATHER_SECS + 0.1)
    loops.announce(None)


async def test_a_member_is_told_that_something_changed() -> None:
    alice, orders = await sync_to_async(make_application)()
    socket, status = await knock(alice)
    assert status == 101

    live.announce(orders.pk)

    assert (await socket.receive_output(timeout=5))["text"] == "application-changed"
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait()


async def test_a_burst_of_changes_is_one_hint() -> None:
    alice, orders = await sync_to_async(make_application)()
    socket, _ = await knock(alice)

    for _ in range(50):
        live.announce(orders.pk)

    await socket.receive_output(timeout=5)
    assert await socket.receive_nothing(timeout=0.5)
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait()


async def test_strangers_and_unknown_names_look_the_same() -> None:
    alice, _ = await sync_to_async(make_application)()
    mallory, _ = await sync_to_async(make_member)("mallory")

    assert (await knock(None))[1] == 401
    assert (await knock(mallory))[1] == 404
    assert (await knock(alice, app="nothing"))[1] == 404


async def test_a_session_that_no_database_could_hold_is_nobodys() -> None:
    await sync_to_async(make_application)()

    assert (await knock(None, cookie=rb'conductor_session="abcdefgh\000ijkl"'))[
        1
    ] == 401


async def test_another_sites_page_cannot_listen() -> None:
    alice, _ = await sync_to_async(make_application)()

    assert (await knock(alice, origin=(b"origin", b"http://evil.example")))[1] == 403


async def test_who_is_removed_hears_nothing_more() -> None:
    alice, orders = await sync_to_async(make_application)()
    socket, _ = await knock(alice)
    await sync_to_async(Membership.objects.filter(user=alice).delete)()

    live.announce(orders.pk)

    assert (await socket.receive_output(timeout=5))["type"] == "websocket.close"
