"""Orders: given once, recorded, and told honestly."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError

from apps import errors
from apps.executors import clock
from apps.registry.models import Application, AuditEntry
from apps.workflows.models import WorkflowCommand, WorkflowSnapshot
from apps.workflows.services import commands, forks, records
from tests.workflows.conftest import Served
from tests.workflows.executor import NOON, ScriptedExecutor, workflow

STATES = ("PENDING", "ENQUEUED", "CANCELLED", "SUCCESS", "ERROR")


@pytest.fixture
def executor(served: Served) -> ScriptedExecutor:
    return served.connect(rows=[workflow(s.lower(), status=s) for s in STATES])


def order(served: Served, verb: str, *ids: str, **more: Any) -> list[Any]:
    """Give an order as Alice; return (result, status) of each."""
    give = getattr(commands, f"{verb}_workflows")
    outcomes = give(
        actor=served.world.actor(served.world.alice),
        application=served.application,
        workflow_ids=list(ids),
        **more,
    )
    assert [o.workflow_id for o in outcomes] == list(ids)
    return [(o.result, o.status) for o in outcomes]


def audited() -> list[tuple[str, str]]:
    return list(
        AuditEntry.objects.filter(operation__startswith="workflow.")
        .order_by("pk")
        .values_list("operation", "outcome")
    )


def state() -> str:
    return WorkflowCommand.objects.get().state


def test_cancel_tells_what_happened_to_each(
    served: Served, executor: ScriptedExecutor
) -> None:
    results = order(
        served, "cancel", "pending", "enqueued", "success", "cancelled", "nobody"
    )

    assert results == [
        ("done", "CANCELLED"),
        ("done", "CANCELLED"),
        ("nothing", "SUCCESS"),
        ("nothing", "CANCELLED"),
        ("missing", ""),
    ]
    assert executor.last("cancel")["workflow_ids"] == ["pending", "enqueued"]
    assert audited() == [("workflow.bulk_cancel", "success")]
    entry = AuditEntry.objects.get(operation="workflow.bulk_cancel")
    assert entry.details["results"] == {"done": 2, "nothing": 2, "missing": 1}
    assert (entry.target_type, entry.target_id) == ("application", "orders")


def test_finished_workflow_is_not_ordered_about(
    served: Served, executor: ScriptedExecutor
) -> None:
    assert order(served, "cancel", "success") == [("nothing", "SUCCESS")]

    assert executor.count("cancel") == 0
    assert (state(), audited()) == ("DONE", [("workflow.cancel", "success")])


def test_children_of_a_finished_workflow_are_still_cancelled(
    served: Served, executor: ScriptedExecutor
) -> None:
    results = order(served, "cancel", "success", cancel_children=True)

    assert results == [("nothing", "SUCCESS")]
    assert executor.last("cancel")["cancel_children"] is True


def test_resume_never_starts_a_running_workflow_twice(
    served: Served, executor: ScriptedExecutor
) -> None:
    results = order(
        served, "resume", "pending", "cancelled", "enqueued", "success", "error"
    )

    assert [result for result, _ in results] == [
        "nothing",
        "done",
        "done",
        "nothing",
        "nothing",
    ]
    assert executor.last("resume")["workflow_ids"] == ["cancelled", "enqueued"]


def test_delete_is_believed_when_it_is_gone(
    served: Served, executor: ScriptedExecutor
) -> None:
    order(served, "cancel", "pending")
    assert WorkflowSnapshot.objects.filter(workflow_id="pending").exists()

    assert order(served, "delete", "pending") == [("done", "")]

    assert "pending" not in executor.workflows
    assert not WorkflowSnapshot.objects.filter(workflow_id="pending").exists()


@pytest.mark.parametrize("verb", ["cancel", "resume", "delete"])
def test_success_without_effect_is_a_failure(
    served: Served, executor: ScriptedExecutor, verb: str
) -> None:
    """`success: true` does not mean that it happened."""
    executor.lazy.add(verb)
    one = "cancelled" if verb == "resume" else "pending"

    assert order(served, verb, one)[0][0] == "failed"

    assert state() == "FAILED"
    assert audited() == [(f"workflow.{verb}", "failure")]


def test_order_without_an_answer_may_still_be_carried_out(
    served: Served, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "COMMAND_TIMEOUT_S", 0.3)
    executor.silent.add("cancel")

    outcome = commands.cancel_workflows(
        actor=served.world.actor(served.world.alice),
        application=served.application,
        workflow_ids=["pending"],
    )[0]

    assert outcome.result == "failed"
    assert "may still be carried out" in outcome.sentence
    assert (state(), audited()) == ("FAILED", [("workflow.cancel", "failure")])


def test_lost_answer_to_a_carried_out_order_is_no_failure(
    served: Served, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "COMMAND_TIMEOUT_S", 0.3)
    executor.silent.add("cancel")
    monkeypatch.setattr(
        commands, "_look_again", _after(executor, commands._look_again, "pending")
    )

    assert order(served, "cancel", "pending") == [("done", "CANCELLED")]
    assert state() == "DONE"


def _after(executor: ScriptedExecutor, look: Any, workflow_id: str) -> Any:
    def act_and_look(*args: Any) -> Any:
        executor.workflows[workflow_id]["Status"] = "CANCELLED"
        return look(*args)

    return act_and_look


def test_refusal_is_told_in_the_executors_words(
    served: Served, executor: ScriptedExecutor
) -> None:
    executor.refused["cancel"] = "the database is read-only"

    outcomes = commands.cancel_workflows(
        actor=served.world.actor(served.world.alice),
        application=served.application,
        workflow_ids=["pending"],
    )

    assert outcomes[0].result == "failed"
    assert outcomes[0].sentence == "the database is read-only"


def test_old_sdk_gets_one_message_for_each_workflow(served: Served) -> None:
    executor = served.connect(
        rows=[workflow(f"w{n}", status="PENDING") for n in range(3)], version="2.10.0"
    )

    results = order(served, "cancel", "w0", "w1", "w2")

    assert {result for result, _ in results} == {"done"}
    assert executor.count("cancel") == 3


def test_sdk_without_delete_says_so(served: Served) -> None:
    executor = served.connect(rows=[workflow("w0")], version="1.14.0")

    outcome = commands.delete_workflows(
        actor=served.world.actor(served.world.alice),
        application=served.application,
        workflow_ids=["w0"],
    )[0]

    assert outcome.result == "failed"
    assert "does not support delete" in outcome.sentence
    assert executor.count("delete") == 0


def test_nobody_there_is_a_recorded_failure(served: Served) -> None:
    with pytest.raises(errors.NoHealthyExecutor):
        order(served, "cancel", "w0")

    assert (state(), audited()) == ("FAILED", [("workflow.cancel", "failure")])


def test_read_only_member_is_denied_and_noted(
    served: Served, executor: ScriptedExecutor
) -> None:
    bob = served.world.actor(served.world.bob)

    with pytest.raises(errors.Forbidden):
        commands.cancel_workflows(
            actor=bob, application=served.application, workflow_ids=["pending"]
        )
    with pytest.raises(errors.Forbidden):
        forks.fork_workflow(
            actor=bob, application=served.application, workflow_id="success"
        )

    assert [outcome for _, outcome in audited()] == ["denied", "denied"]
    assert executor.count("list_workflows") == 0


def test_stranger_finds_no_such_application(
    served: Served, executor: ScriptedExecutor
) -> None:
    mallory = served.world.actor(served.world.mallory)

    with pytest.raises(errors.NotFound):
        commands.delete_workflows(
            actor=mallory, application=served.application, workflow_ids=["pending"]
        )

    assert "pending" in executor.workflows


@pytest.mark.parametrize(
    "ids", [[], [""], [f"w{n}" for n in range(10_001)], ["x" * 10_001]]
)
def test_orders_are_bounded(
    served: Served, executor: ScriptedExecutor, ids: list[str]
) -> None:
    with pytest.raises(errors.InvalidInput):
        order(served, "cancel", *ids)

    assert state() == "FAILED"
    assert [outcome for _, outcome in audited()] == ["failure"]
    assert executor.count("list_workflows") == 0


def test_hundred_long_ids_go_in_short_messages(served: Served) -> None:
    ids = ["x" * 500 + str(n) for n in range(100)]
    executor = served.connect(rows=[workflow(i, status="PENDING") for i in ids])

    results = order(served, "cancel", *ids)

    assert {result for result, _ in results} == {"done"}
    assert max(len(str(request)) for request in executor.asked) < 16_000


def test_thousands_are_ordered_about_in_parts(served: Served) -> None:
    ids = [f"w{n}" for n in range(2_000)]
    executor = served.connect(rows=[workflow(i, status="PENDING") for i in ids])

    results = order(served, "cancel", *ids)

    assert {result for result, _ in results} == {"done"}
    assert executor.count("cancel") == 8
    entry = AuditEntry.objects.get(operation="workflow.bulk_cancel")
    assert entry.details["results"] == {"done": 2_000}
    assert len(entry.details["workflow_ids"]) == 100


def test_order_that_takes_too_long_says_how_far_it_came(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"w{n}" for n in range(600)]
    executor = served.connect(rows=[workflow(i, status="PENDING") for i in ids])
    spent = iter([False, True])
    monkeypatch.setattr(commands.Budget, "is_spent", property(lambda _: next(spent)))

    results = order(served, "cancel", *ids)

    assert [r for r, _ in results] == ["done"] * 250 + ["failed"] * 350
    assert executor.count("cancel") == 1
    assert (state(), audited()) == ("FAILED", [("workflow.bulk_cancel", "failure")])


def test_order_that_fails_in_the_middle_stops_there(served: Served) -> None:
    ids = [f"w{n}" for n in range(600)]
    executor = served.connect(rows=[workflow(i, status="PENDING") for i in ids])
    executor.refused["cancel"] = "the database is read-only"

    results = order(served, "cancel", *ids)

    assert {result for result, _ in results} == {"failed"}
    assert executor.count("cancel") == 1


def test_order_that_ended_halfway_is_closed_in_words_and_audited_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*args: Any) -> Any:
        raise SystemExit

    monkeypatch.setattr(commands, "read_rows", end)
    for one in ("w0", "w1"):
        with pytest.raises(SystemExit):
            order(served, "cancel", one)
    assert audited() == []
    old = WorkflowCommand.objects.filter(target_id="w0")
    old.update(created_at=clock.now() - timedelta(minutes=6))

    assert (records.close_abandoned(), records.close_abandoned()) == (1, 0)

    assert old.get().state == "FAILED"
    assert "may have been carried out" in old.get().error
    entry = AuditEntry.objects.get(operation="workflow.cancel")
    assert (entry.target_id, entry.outcome) == ("w0", "failure")
    assert entry.subject_display == "alice@example.com"


def test_order_that_could_not_be_audited_is_audited_later(
    served: Served, executor: ScriptedExecutor
) -> None:
    with (
        mock.patch.object(AuditEntry.objects, "create", side_effect=DatabaseError),
        pytest.raises(DatabaseError),
    ):
        order(served, "cancel", "pending")
    assert state() == "SENT"
    WorkflowCommand.objects.update(created_at=clock.now() - timedelta(minutes=6))

    records.close_abandoned()

    assert audited() == [("workflow.cancel", "failure")]


def test_order_whose_application_is_deleted_meanwhile_is_still_audited(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete_first(application: Application, *args: Any) -> Any:
        Application.objects.get(pk=application.pk).delete()
        raise errors.NoHealthyExecutor("Nobody is there.")

    monkeypatch.setattr(commands, "read_rows", delete_first)

    with pytest.raises(errors.NoHealthyExecutor):
        order(served, "cancel", "w0")

    assert audited() == [("workflow.cancel", "failure")]


# --- Fork ----------------------------------------------------------------------------


def fork(served: Served, **more: Any) -> str:
    return forks.fork_workflow(
        actor=served.world.actor(served.world.alice),
        application=served.application,
        workflow_id="success",
        **more,
    )


def test_fork_keeps_the_version_and_begins_at_the_first_step(
    served: Served, executor: ScriptedExecutor
) -> None:
    new_id = fork(served)

    assert executor.workflows[new_id]["ForkedFrom"] == "success"
    body = executor.last("fork_workflow")["body"]
    assert (body["start_step"], body["application_version"]) == (1, "v1")


def test_fork_sent_twice_is_one_fork(
    served: Served, executor: ScriptedExecutor
) -> None:
    ids = {fork(served, new_workflow_id="n1") for _ in range(2)}

    assert ids == {"n1"}
    assert executor.count("fork_workflow") == 1
    assert len(executor.workflows) == len(STATES) + 1


def test_fork_whose_answer_was_lost_is_found(
    served: Served, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks, "COMMAND_TIMEOUT_S", 0.5)
    executor.silent.add("fork_workflow")
    real = forks._is_forked

    def arrived(request: Any, *args: Any) -> bool:
        if executor.count("fork_workflow"):
            executor.workflows["n1"] = workflow("n1", NOON, ForkedFrom="success")
        return real(request, *args)

    monkeypatch.setattr(forks, "_is_forked", arrived)

    assert fork(served, new_workflow_id="n1") == "n1"
    assert state() == "DONE"


def test_id_of_another_workflow_is_not_taken(
    served: Served, executor: ScriptedExecutor
) -> None:
    with pytest.raises(errors.Conflict):
        fork(served, new_workflow_id="pending")

    assert executor.count("fork_workflow") == 0
    assert state() == "FAILED"


def test_fork_of_nothing_is_not_found(
    served: Served, executor: ScriptedExecutor
) -> None:
    with pytest.raises(errors.NotFound):
        forks.fork_workflow(
            actor=served.world.actor(served.world.alice),
            application=served.application,
            workflow_id="nobody",
        )

    assert audited() == [("workflow.fork", "failure")]
