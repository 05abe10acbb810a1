"""Two databases under one name: nobody's word counts for the other one."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from urllib.parse import urljoin

import pytest

from apps import errors
from apps.executors import clock, fingerprint, gateway, presence, recovery
from apps.executors.models import Executor, Recovery
from apps.executors.protocol import messages
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.services import snapshots, sync
from tests.workflows.conftest import Browser, Served
from tests.workflows.executor import ScriptedExecutor, wait_until, workflow

State = Recovery.State


def pending(workflow_id: str, executor_id: str) -> dict[str, object]:
    return workflow(workflow_id, status="PENDING", ExecutorID=executor_id)


def kill(served: Served, executor: ScriptedExecutor) -> Recovery:
    """Let an executor go, and have it declared dead."""
    executor.close()
    rows = Executor.objects.filter(executor_id=executor.executor_id)
    wait_until(rows.filter(state="DISCONNECTED").exists)
    rows.update(disconnected_at=clock.now() - timedelta(hours=1))
    presence.sweep()
    gateway.forget(served.application.pk)
    return Recovery.objects.get(executor_id=executor.executor_id)


def sweep(entry: Recovery) -> Recovery:
    """Recover what can be, now."""
    Recovery.objects.filter(pk=entry.pk).update(next_try_at=clock.now())
    recovery.sweep()
    entry.refresh_from_db()
    return entry


def keep(served: Served) -> None:
    """Sync the snapshots once."""
    row, _ = SnapshotSync.objects.get_or_create(application=served.application)
    sync.sync_application(row)


def test_another_database_is_no_proof(served: Served) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    staging = served.connect("s1", versions=("b",))

    entry = sweep(kill(served, production))

    assert entry.state == State.WAITING
    assert "another" in entry.waiting_reason
    assert staging.count("exist_pending_workflows") == 0
    assert staging.count("recovery") == 0

    rows = list(production.workflows.values())
    served.connect("p2", rows=rows, versions=("a", "c"))
    entry = sweep(entry)

    assert (entry.state, entry.proved_by) == (State.CONFIRMED, "p2")


def test_an_endless_list_of_versions_is_not_read(served: Served) -> None:
    served.connect("long", versions=("a" * fingerprint.ANSWER_CHARS,))
    served.connect("short", versions=("a",))

    databases = dict(Executor.objects.values_list("executor_id", "database_id"))

    assert databases["long"] is None
    assert databases["short"] is not None


def test_another_database_is_no_proof_of_a_version_that_nobody_runs(
    served: Served,
) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    served.connect("s1", versions=("b",))
    entry = kill(served, production)
    Recovery.objects.update(application_version="v0")

    assert sweep(entry).state == State.WAITING


@pytest.mark.parametrize("shows_work", [False, True])
def test_where_a_database_is_unknown_the_witness_must_show_work(
    served: Served, shows_work: bool
) -> None:
    lost = served.connect("p1", rows=[pending("w1", "p1")])
    rows = list(lost.workflows.values()) if shows_work else []
    served.connect("s1", rows=rows, versions=("b",))

    entry = sweep(kill(served, lost))

    if shows_work:
        assert (entry.state, entry.proved_by) == (State.CONFIRMED, "s1")
    else:
        assert entry.state == State.WAITING
        assert "shows no workflow" in entry.waiting_reason


def test_old_sdks_on_one_database_recover_as_ever(served: Served) -> None:
    lost = served.connect("p1", rows=[pending("w1", "p1")], version="2.10.0")
    served.connect("p2", rows=list(lost.workflows.values()), version="2.10.0")

    entry = sweep(kill(served, lost))

    assert (entry.state, entry.proved_by) == (State.CONFIRMED, "p2")


def test_old_sdks_on_two_databases_prove_nothing_for_each_other(
    served: Served,
) -> None:
    lost = served.connect("p1", rows=[pending("w1", "p1")], version="2.10.0")
    served.connect("s1", rows=[pending("w2", "s1")], version="2.10.0")

    assert sweep(kill(served, lost)).state == State.WAITING


def test_a_copy_that_lacks_a_known_pending_workflow_is_no_proof(
    served: Served,
) -> None:
    # A dump of production restored into staging: the versions are the same.
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    keep(served)
    copy = served.connect("s1", versions=("a",))
    entry = kill(served, production)
    # What the copy says meanwhile must not remove the evidence.
    keep(served)

    entry = sweep(entry)

    assert entry.state == State.WAITING
    assert "does not know workflow w1" in entry.waiting_reason
    assert copy.count("exist_pending_workflows") == 1

    # It was deleted in the application, and a person says so.
    snapshots.forget(
        application=served.application, workflow_ids=["w1"], is_deleted=True
    )
    assert sweep(entry).state == State.CONFIRMED


def test_reads_stay_within_the_longest_known_database(served: Served) -> None:
    served.connect("p1", rows=[workflow("mine")], versions=("a",))
    served.connect("s1", rows=[workflow("other")], versions=("b",))

    for _ in range(20):
        gateway.forget(served.application.pk)
        answer = served.api().get("/workflows")
        assert [row["workflowId"] for row in answer.json()] == ["mine"]


def test_a_command_that_names_no_database_is_refused(served: Served) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    served.connect("s1", versions=("b",))

    answer = served.api().post("/workflows/w1/cancel")

    assert answer.status_code == 409, answer.text
    assert "several databases" in answer.json()["detail"]
    assert production.count("cancel") == 0
    with pytest.raises(errors.DatabaseNotChosen):
        gateway.ask(served.application, messages.Cancel(workflow_ids=("w1",)))


def test_the_sync_keeps_one_database_and_drops_nothing_of_it(served: Served) -> None:
    production = served.connect("p1", rows=[workflow("mine")], versions=("a",))
    keep(served)
    served.connect("s1", rows=[workflow("other")], versions=("b",))

    def known() -> list[str]:
        found = WorkflowSnapshot.objects.order_by("workflow_id")
        return list(found.values_list("workflow_id", flat=True))

    keep(served)
    assert known() == ["mine"]
    kill(served, production)
    keep(served)
    served.api().get("/workflows")

    assert known() == ["mine"]


def test_the_api_names_the_databases_and_takes_a_choice(served: Served) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    staging = served.connect("s1", rows=[pending("w1", "s1")], versions=("b",))
    api = served.api()
    label = {one["executorId"]: one["database"] for one in api.get("/executors").json()}

    answer = api.get("/workflows")
    assert answer.headers["Conductor-Database"] == label["p1"]
    assert answer.headers["Conductor-Databases"] == f"{label['p1']}, {label['s1']}"

    answer = api.get("/workflows", params={"database": label["s1"]})
    assert answer.headers["Conductor-Database"] == label["s1"]
    assert answer.json()[0]["executorId"] == "s1"

    answer = api.post("/workflows/w1/cancel", params={"database": label["s1"]})
    assert answer.is_success, answer.text
    assert (production.count("cancel"), staging.count("cancel")) == (0, 1)
    assert api.get("/workflows", params={"database": "db-0"}).status_code == 404


def test_one_database_is_not_worth_a_word(served: Served, browser: Browser) -> None:
    served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    served.connect("p2", versions=("a",))

    assert "Conductor-Database" not in served.api().get("/workflows").headers
    page = browser(served.world.alice).get(served.world.url).content.decode()
    assert "databases under one name" not in page


def test_every_page_says_it_and_keeps_the_choice(
    served: Served, browser: Browser
) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    staging = served.connect("s1", rows=[pending("w2", "s1")], versions=("b",))
    label = Executor.objects.get(executor_id="s1").database
    assert label is not None
    client = browser(served.world.alice)
    pages = ["", "workflows/", "recoveries/", "connect/"]
    for path in pages:
        page = client.get(f"/orgs/acme/apps/orders/{path}").content.decode()
        assert "Two databases under one name" in page, path
        assert "p1" in page
        assert "s1" in page
    assert "w1" in client.get(served.world.url).content.decode()

    client.get(served.world.url, {"database": label.label})
    page = client.get(served.world.url).content.decode()
    assert "w2" in page
    assert ">w1<" not in page

    client.post(f"{served.world.url}w2/cancel/")
    assert (production.count("cancel"), staging.count("cancel")) == (0, 1)


def test_settings_take_the_choice_and_keep_it(served: Served, browser: Browser) -> None:
    served.connect("p1", versions=("a",))
    served.connect("s1", versions=("b",))
    label = Executor.objects.get(executor_id="s1").database
    client = browser(served.world.alice)
    settings = "/orgs/acme/apps/orders/settings/"

    client.get(settings, {"database": str(label)})

    page = client.get(served.world.url).content.decode()
    assert f'database <span class="mono">{label}</span>, and commands' in page


def test_a_command_for_a_database_that_is_gone_is_sent_to_nobody(
    served: Served, browser: Browser
) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    served.connect("s1", rows=[pending("w1", "s1")], versions=("b",))
    lost = Executor.objects.filter(executor_id="s1")
    label = lost.get().database
    client = browser(served.world.alice)
    client.get(served.world.url, {"database": str(label)})
    lost.delete()
    gateway.forget(served.application.pk)

    client.post(f"{served.world.url}w1/cancel/")

    assert production.count("cancel") == 0


def test_every_choice_leads_to_a_page(served: Served, browser: Browser) -> None:
    served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    served.connect("s1", rows=[pending("w2", "s1")], versions=("b",))
    client = browser(served.world.alice)
    bulk = "/orgs/acme/apps/orders/workflows-bulk/cancel/"
    # An answer to a form, whose address takes nothing else, and a page of a workflow
    # that only one of them has.
    pages = [
        (bulk, client.post(bulk, {"id": ["w1"]})),
        (f"{served.world.url}w1/", client.get(f"{served.world.url}w1/")),
    ]
    for path, answer in pages:
        links = re.findall(r'href="([^"]*database=db-[^"]*)"', answer.content.decode())
        assert len(links) == 2, path
        for link in links:
            assert client.get(urljoin(path, html.unescape(link))).status_code == 200


def test_the_ledger_names_the_database_of_the_dead_executor(
    served: Served, browser: Browser
) -> None:
    production = served.connect("p1", rows=[pending("w1", "p1")], versions=("a",))
    served.connect("s1", versions=("b",))
    label = str(Executor.objects.get(executor_id="p1").database)
    entry = kill(served, production)

    (listed,) = served.api().get("/recoveries").json()
    one = served.api().get(f"/recoveries/{entry.pk}").json()
    assert (listed["database"], one["database"]) == (label, label)
    client = browser(served.world.alice)
    ledger = "/orgs/acme/apps/orders/recoveries/"
    named = f'atabase <span class="mono">{label}</span>'
    assert named in client.get(ledger).content.decode()
    assert named in client.get(f"{ledger}{entry.pk}/").content.decode()

    Recovery.objects.update(database=None)

    assert served.api().get(f"/recoveries/{entry.pk}").json()["database"] == "unknown"
    page = client.get(f"{ledger}{entry.pk}/").content.decode()
    assert "It is not known which database it worked on." in page
