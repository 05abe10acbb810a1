"""An application whose executor answers from a script, and callers of the API."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.core.cache import caches
from django.test import Client

from apps import errors
from apps.executors import gateway
from apps.executors.protocol import codec
from apps.executors.protocol.messages import Request
from apps.monitoring.services import collection
from apps.registry import remembered, services
from apps.registry.auth import system_actor
from apps.registry.models import ApiKey, Application
from scripts.services import find, install_missing
from tests.world import World, make_world

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
Row = dict[str, Any]


@pytest.fixture
def world(db: None) -> World:
    """Nothing of monitoring is there yet."""
    caches["memory"].clear()
    remembered.forget()
    made = make_world()
    for model in apps.get_app_config("monitoring").get_models():
        model._default_manager.all().delete()
    return made


@dataclass
class Oracle:
    """Answers for an executor: `replies` by message type, or by what tells questions of
    one type apart. Says so where it does not know the question."""

    peer: codec.Peer = field(default_factory=lambda: codec.Peer("python", "3.2.0"))
    replies: dict[str, Any] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)
    raises: errors.ConductorError | None = None
    is_connected: bool = True

    def targets(self, *_: Any, **__: Any) -> list[gateway.Target]:
        found = [gateway.Target("x1", "v1", "c1", "i1", self.peer)]
        return found if self.is_connected else []

    def ask(self, application: Application, request: Request, **_: Any) -> Any:
        self.asked.append(request)
        if not self.is_connected:
            raise errors.NoHealthyExecutor("No executor is connected.")
        if self.raises is not None:
            raise self.raises
        # What this SDK reads, and whether it knows it at all.
        sent = json.loads(codec.encode(request, "r1", self.peer))
        reply = self.replies.get(_kind(sent))
        if callable(reply):
            reply = reply(sent)
        answered = codec.parse_reply(request, json.dumps(reply or {}))
        if answered.error_message:
            raise errors.ExecutorRefused(answered.error_message)
        return answered

    async def aask(self, application: Application, request: Request, **_: Any) -> Any:
        return self.ask(application, request)


def _kind(sent: dict[str, Any]) -> str:
    body = sent.get("body", {})
    if sent["type"] == "get_workflow_aggregates":
        if body.get("group_by_application_version"):
            return "backlog"
        if body.get("status"):
            return "in flight"
        names = {"start_time": "started", "dequeued_after": "dequeued"}
        return next((v for k, v in names.items() if k in body), "completed")
    return str(sent["type"])


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Oracle:
    made = Oracle()
    monkeypatch.setattr(gateway, "ask", made.ask)
    monkeypatch.setattr(gateway, "aask", made.aask)
    monkeypatch.setattr(gateway, "healthy_targets", made.targets)
    return made


class Clock:
    def __init__(self) -> None:
        self.time = NOON + timedelta(seconds=10)

    def now(self) -> datetime:
        return self.time

    def advance(self, **duration: float) -> None:
        self.time += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("apps.executors.clock.now", made.now)
    return made


@pytest.fixture
def collect(monkeypatch: pytest.MonkeyPatch, oracle: Oracle) -> Callable[[], None]:
    """One tick, whose runs end before it does."""
    monkeypatch.setattr(collection._lanes, "submit", lambda _, work, **__: work())
    return collection.collect_in_background


def group(measures: Row | None = None, **names: str | None) -> Row:
    """One row of an aggregate."""
    return {"group": names, **(measures or {})}


def key_of(world: World, *permissions: str, **options: Any) -> str:
    _, secret = services.create_api_key(
        actor=system_actor(world.acme),
        name=f"key-{ApiKey.objects.count()}",
        permissions=list(permissions) or ["metric.read"],
        **options,
    )
    return secret


def api(secret: str | None = None) -> Client:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return Client(headers=headers, raise_request_exception=False)


@pytest.fixture(scope="session")
def promtool() -> str:
    """Debian's, installed where it is missing and may be; CI has it."""
    try:
        install_missing("prometheus")
    except (SystemExit, OSError, subprocess.CalledProcessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"promtool is not installed and cannot be: {exc}")
    found = find("promtool")
    assert found is not None
    return found
