"""Beat and a broker that nobody empties."""

from __future__ import annotations

import uuid

import pytest
from celery import Celery
from celery.beat import ScheduleEntry

from conductor_site import beat


@pytest.fixture(params=["memory://", "redis"])
def app(request: pytest.FixtureRequest) -> Celery:
    """A Celery application with a queue of its own and no worker."""
    url = request.param
    if url == "redis":
        from django.conf import settings

        if settings.CONDUCTOR_EMBEDDED:
            pytest.skip("needs Redis")
        url = settings.REDIS_URL
    app = Celery(broker=url, set_as_current=False)
    app.conf.task_default_queue = f"test-{uuid.uuid4()}"
    app.conf.task_ignore_result = True
    app.task(name="tick")(lambda: None)
    return app


def test_beat_stops_when_no_worker_takes_its_messages_and_goes_on_later(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat, "BACKLOG_LIMIT", 3)
    scheduler = beat.BoundedScheduler(app=app, lazy=True)
    entry = ScheduleEntry(name="tick", task="tick", schedule=1, app=app)

    for _ in range(10):
        scheduler.apply_entry(entry, producer=scheduler.producer)
    assert scheduler.waiting() == 3

    scheduler.connection.default_channel.queue_purge(app.conf.task_default_queue)
    assert scheduler.waiting() == 0
    scheduler.apply_entry(entry, producer=scheduler.producer)
    assert scheduler.waiting() == 1
    scheduler.connection.default_channel.queue_purge(app.conf.task_default_queue)
