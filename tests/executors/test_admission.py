"""Who may connect, and what those hear who may not."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from datetime import timedelta
from typing import Any

import pytest
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.utils import timezone
from prometheus_client import REGISTRY

from apps.executors import admission, clock, pages
from apps.executors.admission import Admitted, Refused
from apps.executors.models import RejectedConnection
from apps.executors.routing import websocket_urlpatterns
from apps.registry import keys, services
from apps.registry.auth import Actor, system_actor
from apps.registry.models import ApiKey, Application, Organization, Permission
from conductor_site.logging import JsonFormatter, TextFormatter

ATTEMPTS = 200


@pytest.fixture
def actor(db: Any) -> Actor:
    return system_actor(Organization.objects.create(name="acme"))


@pytest.fixture
def orders(actor: Actor) -> Application:
    return services.create_application(actor=actor, name="orders")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Any:
    # In the test's own thread it would close the connection under its transaction.
    monkeypatch.setattr(admission, "close_old_connections", lambda: None)
    yield
    admission.forget_verdicts()
    admission._rejections.clear()
    admission._wrong_keys.clear()
    admission._good_lately.clear()
    admission._hashes.clear()
    monkeypatch.setattr(admission, "_hashes_at", -math.inf)


def make_key(actor: Actor, **more: Any) -> tuple[ApiKey, str]:
    return services.create_api_key(actor=actor, name="k1", **more)


def test_good_key_is_admitted(actor: Actor, orders: Application) -> None:
    key, secret = make_key(actor)

    assert admission._judge("orders", secret) == Admitted(orders.pk, key.pk)


def test_key_of_another_organization_finds_no_such_application(
    actor: Actor, orders: Application
) -> None:
    stranger = system_actor(Organization.objects.create(name="strangers"))
    secret = make_key(stranger)[1]

    verdict = admission._judge("orders", secret)

    assert isinstance(verdict, Refused)
    assert (verdict.status, verdict.organization_id) == (
        404,
        stranger.organization.pk,
    )


@pytest.mark.parametrize("cut", [20, 1])
def test_half_a_key_is_shown_to_its_organization(
    actor: Actor, orders: Application, cut: int
) -> None:
    key, secret = make_key(actor)

    verdict = admission._judge("orders", secret[:-cut])

    assert isinstance(verdict, Refused)
    assert (verdict.status, verdict.api_key_id) == (401, key.pk)
    assert key.name not in verdict.body().decode()


def test_answer_does_not_tell_whether_a_key_begins_like_a_real_one(
    actor: Actor, orders: Application
) -> None:
    secret = make_key(actor)[1]
    near, far = secret[:14] + "x" * 43, "dbos_12345678_" + "x" * 43

    bodies = {
        verdict.body()
        for verdict in (admission._judge("orders", s) for s in (near, far, "nonsense"))
        if isinstance(verdict, Refused)
    }

    assert len(bodies) == 1


async def test_many_attempts_are_judged_once(monkeypatch: Any) -> None:
    judged = []

    def judge(attempts: list[tuple[str, str]]) -> list[Refused]:
        judged.extend(name for name, _ in attempts)
        return [Refused(401, "no", "bad_key", organization_id=1, key_prefix="p")]

    monkeypatch.setattr(admission, "_judge_batch", judge)
    await asyncio.gather(
        *(admission.admit("orders", "s", remote_ip="::1") for _ in range(ATTEMPTS))
    )

    assert judged == ["orders"]
    [(_, count, ip)] = admission._rejections.values()
    assert (count, ip) == (ATTEMPTS, "::1")


async def test_failed_judgement_is_not_remembered(monkeypatch: Any) -> None:
    answers: list[Any] = [OSError("away"), Admitted(1, 1)]

    def judge(attempts: list[tuple[str, str]]) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    monkeypatch.setattr(admission, "_judge_batch", judge)
    with pytest.raises(OSError, match="away"):
        await admission.admit("orders", "s", remote_ip="::1")

    assert await admission.admit("orders", "s", remote_ip="::1") == Admitted(1, 1)


async def test_name_that_no_database_takes_is_made_storable(monkeypatch: Any) -> None:
    monkeypatch.setattr(
        admission,
        "_judge_batch",
        lambda attempts: [Refused(404, name, "r", 1) for name, _ in attempts],
    )

    verdict = await admission.admit("a\0b", "s", remote_ip="::1")

    assert isinstance(verdict, Refused)
    assert "\0" not in verdict.detail
    assert all("\0" not in name for _, name, _, _ in admission._rejections)


def test_counted_attempts_become_one_row_in_words(
    actor: Actor, orders: Application
) -> None:
    key, _ = make_key(actor)
    refused = admission._judge_key(key, "orderz", clock.now())
    assert isinstance(refused, Refused)
    for flush in range(2):
        for _ in range(ATTEMPTS):
            admission._count(refused, "orderz", f"10.0.0.{flush}")
        admission.flush_rejections()

    row = RejectedConnection.objects.get()
    assert (row.count, row.remote_ip) == (2 * ATTEMPTS, "10.0.0.1")
    [rejection] = pages.list_rejections(actor.organization).rows
    assert rejection.sentence == (
        "A process tried to connect as orderz with key k1: no such application."
    )
    assert "orders" in rejection.remedy


def test_open_connection_is_reconsidered(actor: Actor, orders: Application) -> None:
    key, _ = make_key(actor)
    admitted = Admitted(orders.pk, key.pk)
    assert admission.reconsider([admitted]) == {}

    services.revoke_api_key(actor=actor, key=key)

    assert admission.reconsider([admitted]) == {admitted: "API key 'k1' was revoked."}


def test_open_connection_of_an_expired_key_is_unwelcome(
    actor: Actor, orders: Application
) -> None:
    key, _ = make_key(actor, expires_at=timezone.now() + timedelta(days=1))
    ApiKey.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    admitted = Admitted(orders.pk, key.pk)

    assert admission.reconsider([admitted]) == {admitted: "API key 'k1' has expired."}


def test_open_connection_of_a_removed_application_is_unwelcome(
    actor: Actor, orders: Application, django_assert_max_num_queries: Any
) -> None:
    key, _ = make_key(actor)
    other = services.create_application(actor=actor, name="billing")
    gone, kept = Admitted(orders.pk, key.pk), Admitted(other.pk, key.pk)
    services.delete_application(actor=actor, application=orders)

    with django_assert_max_num_queries(3):
        why = admission.reconsider([gone, kept])

    assert why == {gone: "This application was removed from Conductor."}


def test_missing_permission_is_named(actor: Actor, orders: Application) -> None:
    _, secret = make_key(actor, permissions=[Permission.METRIC_READ])

    verdict = admission._judge("orders", secret)

    assert isinstance(verdict, Refused)
    assert json.loads(verdict.body())["status"] == 403
    assert "websocket.connect" in verdict.detail


async def test_report_of_a_failed_admission_holds_no_key(
    monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "dbos_12345678_" + "s" * 43

    def judge(attempts: list[tuple[str, str]]) -> Any:
        raise RuntimeError(f"cannot read /websocket/{attempts[0][0]}/{secret}")

    monkeypatch.setattr(admission, "_judge_batch", judge)
    router = URLRouter(websocket_urlpatterns)
    communicator = WebsocketCommunicator(router, f"/websocket/orders/{secret}")
    connected, _ = await communicator.connect()

    assert not connected
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    for formatter in (TextFormatter(), JsonFormatter()):
        text = formatter.format(record)
        assert "Traceback" in text
        assert "s" * 43 not in text
        assert secret not in text


async def test_wrong_keys_are_judged_together_and_do_not_delay_known_ones(
    monkeypatch: Any,
) -> None:
    may_go, batches = threading.Event(), []

    def judge(attempts: list[tuple[str, str]]) -> list[Any]:
        if attempts[0][1] == "good":
            return [Admitted(1, 1)]
        batches.append(len(attempts))
        may_go.wait(30)
        return [Refused(401, "no", "bad_key") for _ in attempts]

    monkeypatch.setattr(admission, "_judge_batch", judge)
    good = Admitted(1, 1)
    assert await admission.admit("orders", "good", remote_ip="::1") == good
    admission.forget_verdicts()
    wrong = [
        asyncio.create_task(admission.admit("orders", f"w{n}", remote_ip="::1"))
        for n in range(800)
    ]
    await asyncio.sleep(0.05)

    # The thread of the wrong ones is busy all the while.
    async with asyncio.timeout(20):
        assert await admission.admit("orders", "good", remote_ip="::1") == good
    may_go.set()
    await asyncio.gather(*wrong)

    assert sum(batches) == 800
    assert len(batches) <= 4


async def test_address_with_many_wrong_keys_is_refused_unasked_but_not_its_good_keys(
    monkeypatch: Any,
) -> None:
    asked = []

    def judge(attempts: list[tuple[str, str]]) -> list[Any]:
        asked.extend(secret for _, secret in attempts)
        return [
            Admitted(1, 1) if secret.startswith("good") else Refused(401, "no")
            for _, secret in attempts
        ]

    monkeypatch.setattr(admission, "_judge_batch", judge)
    monkeypatch.setattr(
        admission.keys, "list_hashes", lambda limit: {keys.hash_secret("good-by-hash")}
    )
    await admission.admit("orders", "good-lately", remote_ip="192.0.2.1")
    for n in range(admission._wrong_keys.limit + 1):
        await admission.admit("orders", f"wrong{n}", remote_ip="192.0.2.1")
    admission.refresh_hints()
    admission.forget_verdicts()
    asked.clear()

    refused = await admission.admit("orders", "wrong", remote_ip="192.0.2.1")

    assert isinstance(refused, Refused)
    assert (refused.status, asked) == (429, [])
    assert 0 < refused.retry_after_secs <= 60
    assert json.loads(refused.body())["title"] == "Too Many Requests"
    for secret in ("good-lately", "good-by-hash"):
        verdict = await admission.admit("orders", secret, remote_ip="192.0.2.1")
        assert verdict == Admitted(1, 1)
    # Another address has a count of its own.
    other = await admission.admit("orders", "wrong", remote_ip="192.0.2.2")
    assert isinstance(other, Refused)
    assert other.status == 401


async def test_queue_of_unknown_keys_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(admission, "WAITING_LIMIT", 0)

    refused = await admission.admit("orders", "new", remote_ip="::1")

    assert isinstance(refused, Refused)
    assert (refused.status, refused.retry_after_secs) == (503, 1)


def test_any_number_of_unknown_keys_costs_one_query(
    actor: Actor, orders: Application, django_assert_max_num_queries: Any
) -> None:
    key, secret = make_key(actor)
    wrong = [("orders", f"dbos_{n:08d}_{'x' * 43}") for n in range(500)]

    # The keys, the clock, and the application of the one that is right.
    with django_assert_max_num_queries(3):
        verdicts = admission._judge_batch([*wrong, ("orders", secret)])

    assert verdicts[-1] == Admitted(orders.pk, key.pk)
    assert all(isinstance(verdict, Refused) for verdict in verdicts[:-1])


@pytest.mark.parametrize(
    "path",
    [
        "/websocket/orders",
        "/websocket/orders/",
        "/conductor/v1alpha1/websocket/orders",
        "/conductor/v1alpha1/websocket/orders/",
    ],
)
async def test_missing_key_is_told_how_to_get_one(path: str) -> None:
    before = _rejected_without_key()
    communicator = WebsocketCommunicator(URLRouter(websocket_urlpatterns), path)
    communicator.scope["extensions"] = {"websocket.http.response": {}}
    await communicator.send_input({"type": "websocket.connect"})

    start, body = [await communicator.receive_output() for _ in range(2)]

    assert start["status"] == 401
    assert (b"content-type", b"application/problem+json") in start["headers"]
    problem = json.loads(body["body"])
    assert problem["title"] == "Unauthorized"
    assert "API key is missing" in problem["detail"]
    assert "console" in problem["detail"]
    assert _rejected_without_key() == before + 1
    assert not admission._rejections


def _rejected_without_key() -> float:
    name = "conductor_rejected_connections_total"
    return REGISTRY.get_sample_value(name, {"reason": "missing_key"}) or 0
