"""Nobody runs the dead one's version: the recovery waits, says so, and goes on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.stack import wait_until
from tests.chaos.rig import SCALE, BreakableServices, Crew

pytestmark = [pytest.mark.e2e, pytest.mark.services]


def test_recovery_waits_for_the_version_and_memory_outlives_the_application(
    services: BreakableServices, home: Path
) -> None:
    crew = Crew(services, "versions", home)
    console = services.console()
    base = f"/orgs/acme/apps/{crew.name}/"
    try:
        (victim,) = crew.start(1, APP_VERSION="v1")
        crew.start(1, APP_VERSION="v2")
        (workflow_id,) = crew.begin([victim], steps=6, secs=0.5)
        wait_until(
            "it is at work",
            lambda: f"{workflow_id} 0" in crew.application.notes(),
            secs=30,
        )
        assert workflow_id in console.page(base + "workflows/")
        victim.kill()

        reason = "No healthy executor runs version v1."
        wait_until(
            "the recovery waits, and why",
            lambda: (
                services.recoveries(crew.name)
                == [(victim.executor_id, "WAITING", None, reason)]
            ),
            secs=SCALE.timeout_secs + 30,
        )
        ((pk,),) = services.query(
            "SELECT id FROM executors_recovery WHERE executor_id = ?",
            victim.executor_id,
        )
        for page in ("recoveries/", f"recoveries/{pk}/"):
            assert reason in console.page(base + page)

        (heir,) = crew.start(1, APP_VERSION="v1")
        services.wait_confirmed(crew.name, victim.executor_id, secs=30)
        ((connected_at, confirmed_at),) = services.query(
            "SELECT e.connected_at, r.confirmed_at FROM executors_recovery r"
            " JOIN executors_executor e ON e.executor_id = r.taken_over_by"
            " WHERE r.id = ? AND e.executor_id = ?",
            pk,
            heir.executor_id,
        )
        print(f"confirmed {(confirmed_at - connected_at).total_seconds():.2f} s later")
        assert confirmed_at - connected_at < timedelta(seconds=3)
        crew.wait_finished(secs=60)
        assert crew.application.database.statuses() == {workflow_id: "SUCCESS"}
    finally:
        crew.stop()

    # The application is stopped altogether.
    wait_until("all are gone", lambda: not services.healthy(crew.name), secs=30)
    page = console.page(base + "workflows/")
    assert workflow_id in page
    assert "As of" in page
    assert "As of" in console.page(f"{base}workflows/{workflow_id}/")
