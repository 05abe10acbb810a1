"""Alerting rules: valid for their type, kept as they were sent, and audited."""

from __future__ import annotations

from typing import Any

import pytest

from apps.monitoring.models import AlertingRule
from apps.monitoring.services import alerting
from apps.registry.models import Application, AuditEntry
from conductor_site import openapi
from tests.monitoring.conftest import api, key_of
from tests.world import World

RULES = "/v2/orgs/acme/apps/orders/alerting-rules"
FAILURES = {"threshold": 3, "periodSecs": 60}


def create(world: World, rule_type: str, metadata: Any, **more: Any) -> Any:
    client = api(key_of(world, "application.write"))
    body = {"ruleType": rule_type, "ruleMetadata": metadata, **more}
    return client.post(RULES, body, content_type="application/json")


def test_a_rule_is_created_listed_and_deleted(world: World) -> None:
    made = create(world, "WorkflowFailure", FAILURES, minIntervalSecs=300)

    assert made.status_code == 201
    rule = made.json()
    assert rule == {
        "id": rule["id"],
        "appId": str(world.application.pk),
        "receivingAppId": str(world.application.pk),
        "ruleType": "WorkflowFailure",
        "ruleMetadata": FAILURES,
        "minIntervalSecs": 300,
        "lastFiredAt": None,
    }
    reader = api(key_of(world, "application.read"))
    assert reader.get(RULES).json() == [rule]
    writer = api(key_of(world, "application.write"))
    assert writer.delete(f"{RULES}/{rule['id']}").status_code == 204
    assert writer.delete(f"{RULES}/{rule['id']}").status_code == 404
    assert reader.get(RULES).json() == []
    entries = AuditEntry.objects.filter(target_type="alerting_rule").order_by("pk")
    assert [(e.operation, e.outcome, e.target_id) for e in entries] == [
        ("alerting_rule.create", "success", rule["id"]),
        ("alerting_rule.delete", "success", rule["id"]),
        ("alerting_rule.delete", "failure", rule["id"]),
    ]
    assert entries[0].details["rule_metadata"] == FAILURES


@pytest.mark.parametrize(
    ("rule_type", "metadata"),
    [
        ("WorkflowFailure", FAILURES),
        ("WorkflowFailure", {"threshold": 1, "period_secs": 60}),
        ("WorkflowFailure", {**FAILURES, "workflow_name": "ship"}),
        ("WorkflowFailure", {**FAILURES, "workflowName": "ship"}),
        ("WorkflowFailure", {**FAILURES, "workflowName": None}),
        ("SlowQueue", {"threshold_secs": 10}),
        ("SlowQueue", {"thresholdSecs": 10, "queueName": "q1"}),
    ],
)
def test_metadata_is_kept_as_it_was_sent(
    world: World, rule_type: str, metadata: dict[str, Any]
) -> None:
    made = create(world, rule_type, metadata)

    assert made.status_code == 201, made.content
    assert made.json()["ruleMetadata"] == metadata
    assert AlertingRule.objects.get().rule_metadata == metadata


@pytest.mark.parametrize(
    ("rule_type", "metadata", "location"),
    [
        ("WorkflowFailure", {"periodSecs": 60}, "threshold"),
        ("WorkflowFailure", {"threshold": 1}, "periodSecs"),
        ("WorkflowFailure", {"threshold": 0, "periodSecs": 60}, "threshold"),
        ("WorkflowFailure", {"threshold": "3", "periodSecs": 60}, "threshold"),
        ("WorkflowFailure", {"threshold": 2**31, "periodSecs": 60}, "threshold"),
        ("WorkflowFailure", {**FAILURES, "periodSecs": 10**9}, "periodSecs"),
        ("WorkflowFailure", {**FAILURES, "thresholdSecs": 1}, "thresholdSecs"),
        ("WorkflowFailure", {**FAILURES, "workflowName": "a\0b"}, "workflowName"),
        ("WorkflowFailure", {**FAILURES, "workflowName": "x" * 300}, "workflowName"),
        ("SlowQueue", {}, "thresholdSecs"),
        ("SlowQueue", {"thresholdSecs": 1.5}, "thresholdSecs"),
        ("UnresponsiveApplication", {"threshold": 1}, "threshold"),
        ("WorkflowFailure", None, ""),
        ("WorkflowFailure", "a text", ""),
        ("WorkflowFailure", [], ""),
    ],
)
def test_bad_metadata_is_refused_with_its_place(
    world: World, rule_type: str, metadata: Any, location: str
) -> None:
    refused = create(world, rule_type, metadata)

    assert refused.status_code == 422
    place = f"body.ruleMetadata.{location}".rstrip(".")
    assert refused.json()["errors"][0]["location"] == place
    assert not AlertingRule.objects.exists()


@pytest.mark.parametrize(
    ("body", "status", "location"),
    [
        ({"ruleType": "Nope", "ruleMetadata": {}}, 422, "body.ruleType"),
        ({"ruleMetadata": {}}, 422, "body.ruleType"),
        ({"ruleType": "SlowQueue"}, 422, "body.ruleMetadata"),
        ({"minIntervalSecs": -1}, 400, "body.minIntervalSecs"),
        ({"minIntervalSecs": 2**31}, 422, "body.minIntervalSecs"),
        ({"receivingAppName": "absent"}, 400, "body.receivingAppName"),
        ({"receivingAppName": "a\0b"}, 422, "body.receivingAppName"),
        ({"receivingAppName": "secret"}, 400, "body.receivingAppName"),
        ({"other": 1}, 422, "body.other"),
    ],
)
def test_a_bad_rule_is_refused_with_its_place(
    world: World, body: dict[str, Any], status: int, location: str
) -> None:
    other = world.users["mallory"].memberships.get().organization
    Application.objects.create(organization=other, name="secret")
    is_whole = "ruleType" in body or "ruleMetadata" in body
    valid = {"ruleType": "SlowQueue", "ruleMetadata": {"thresholdSecs": 1}}
    refused = api(key_of(world, "application.write")).post(
        RULES, body if is_whole else valid | body, content_type="application/json"
    )

    assert refused.status_code == status
    assert refused.json()["errors"][0]["location"] == location
    assert not AlertingRule.objects.exists()


def test_who_does_not_respond_cannot_be_told(world: World) -> None:
    billing = Application.objects.create(organization=world.acme, name="billing")

    refused = create(world, "UnresponsiveApplication", {})
    made = create(world, "UnresponsiveApplication", {}, receivingAppName="billing")

    assert refused.status_code == 400
    assert refused.json()["errors"][0]["location"] == "body.receivingAppName"
    assert made.json()["receivingAppId"] == str(billing.pk)


def test_a_receiver_is_one_of_the_keys_applications(world: World) -> None:
    Application.objects.create(organization=world.acme, name="billing")
    key = key_of(world, "application.write", application_names=["orders"])

    refused = api(key).post(
        RULES,
        {
            "ruleType": "SlowQueue",
            "ruleMetadata": {"thresholdSecs": 1},
            "receivingAppName": "billing",
        },
        content_type="application/json",
    )

    assert refused.status_code == 400


def test_the_number_of_rules_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "MAX_RULES", 1)
    assert create(world, "SlowQueue", {"thresholdSecs": 1}).status_code == 201
    assert create(world, "SlowQueue", {"thresholdSecs": 1}).status_code == 409


@pytest.mark.parametrize("rule_id", ["1", "9" * 40, "a%2Fb", "%F0%9F%92%A5", "x" * 600])
def test_an_unknown_rule_is_not_found(world: World, rule_id: str) -> None:
    client = api(key_of(world, "application.write"))

    assert client.delete(f"{RULES}/{rule_id}").status_code == 404


def test_a_rule_of_another_application_is_not_found(world: World) -> None:
    billing = Application.objects.create(organization=world.acme, name="billing")
    made = create(world, "SlowQueue", {"thresholdSecs": 1}).json()
    client = api(key_of(world, "application.write"))

    path = RULES.replace("orders", billing.name)
    assert client.delete(f"{path}/{made['id']}").status_code == 404
    assert AlertingRule.objects.exists()


def test_who_may_not_write_is_denied_and_that_is_recorded(world: World) -> None:
    refused = api(key_of(world, "application.read")).post(
        RULES,
        {"ruleType": "SlowQueue", "ruleMetadata": {"thresholdSecs": 1}},
        content_type="application/json",
    )

    assert refused.status_code == 403
    assert AuditEntry.objects.latest("pk").outcome == "denied"
    assert not AlertingRule.objects.exists()


def test_the_document_types_the_metadata() -> None:
    schema = openapi.document()["components"]["schemas"]["CreateAlertInputBody"]

    pairs = {
        one["if"]["properties"]["ruleType"]["const"]: one["then"]["properties"][
            "ruleMetadata"
        ]["$ref"].rpartition("/")[2]
        for one in schema["allOf"]
    }
    assert pairs == {
        name: f"{name}Metadata"
        for name in ("WorkflowFailure", "SlowQueue", "UnresponsiveApplication")
    }
