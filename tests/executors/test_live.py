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
from apps.executors.consumers import LiveConsumer
from apps.executors.open_pages import OpenPages
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


async def test_open_pages_of_a_person_and_of_an_address_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = OpenPages(per_person=2, per_address=3)
    monkeypatch.setattr(LiveConsumer, "open_sockets", pages)
    alice, _ = await sync_to_async(make_application)()
    opened = [await knock(alice) for _ in range(2)]
    assert [status for _, status in opened] == [101, 101]

    _, third = await knock(alice)
    assert third == 429
    _, stranger = await knock(None)
    assert stranger == 401

    # Neither of the refused counts, and who leaves makes room.
    for socket, _ in opened:
        await socket.send_input({"type": "websocket.disconnect", "code": 1000})
        await socket.wait()
    assert not pages._of
    assert not pages._sources
    socket, status = await knock(alice)
    assert status == 101
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait()


def test_open_pages_of_one_address_are_bounded() -> None:
    pages = OpenPages(per_person=9, per_address=2)

    assert pages.take("a", "1", "192.0.2.1")
    assert pages.take("b", "2", "192.0.2.1")
    assert not pages.take("c", "3", "192.0.2.1")
    assert pages.take("d", "3", "192.0.2.2")
    pages.drop("c")
    pages.drop("b")
    assert pages.take("c", "3", "192.0.2.1")
