"""The audit log over the HTTP API and in the console."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.registry import services
from apps.registry.auth import Actor, system_actor
from apps.registry.models import AuditChain, AuditEntry
from apps.registry.operations import Operation, TargetType
from apps.registry.services import audit
from tests.api import Api, make_key
from tests.world import World

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LOGS = "/audit-logs"


@pytest.fixture
def api(world: World, monkeypatch: pytest.MonkeyPatch) -> Api:
    """Reads the log of acme, in which something happens every minute from noon."""
    api = Api(make_key("organization.read"))
    key = Actor("api_key", "7", "ci", world.acme, frozenset(), key_prefix="abcdefgh")
    namesake = Actor("user", "ci", "an@example.com", world.acme, frozenset())
    for minute, (actor, operation, target) in enumerate(
        [
            (key, Operation.TOKEN_CREATE, "t1"),
            (system_actor(world.acme), Operation.TOKEN_REVOKE, "t1"),
            (namesake, Operation.TOKEN_REVOKE, "t10"),
        ]
    ):
        at = NOON + timedelta(minutes=minute)
        monkeypatch.setattr(audit.timezone, "now", lambda at=at: at)
        services.record_audit(
            actor=actor,
            operation=operation,
            target_type=TargetType.TOKEN,
            target_id=target,
            outcome=AuditEntry.Outcome.DENIED if minute else AuditEntry.Outcome.SUCCESS,
        )
    monkeypatch.undo()
    return api


def targets(api: Api, **query: Any) -> list[tuple[str, str]]:
    """The operations on tokens k1 and t10, and their targets."""
    answer = api.client.get(f"{api.base}{LOGS}", query)
    assert answer.status_code == 200, answer.content
    return [
        (one["operation"], one["target"]["id"])
        for one in answer.json()
        if one["emitTime"].startswith("2026-11-23T12:0")
    ]


CREATED = ("token.create", "t1")
REVOKED = ("token.revoke", "t1")
OTHER = ("token.revoke", "t10")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [OTHER, REVOKED, CREATED]),
        ({"operation": "token.revoke"}, [OTHER, REVOKED]),
        ({"operation": "token"}, []),
        ({"target": "t1"}, [REVOKED, CREATED]),
        ({"subject": "7"}, [CREATED]),
        ({"subject": "ci"}, [OTHER, CREATED]),
        ({"subject": "system"}, [REVOKED]),
        ({"subject": "an@example.com", "target": "t1"}, []),
        ({"startTime": "2026-11-23T12:01:00Z"}, [OTHER, REVOKED]),
        ({"endTime": "2026-11-23T12:01:00Z"}, [CREATED]),
        (
            {
                "startTime": "2026-11-23T13:00:00+01:00",
                "endTime": "2026-11-23T12:02:00Z",
            },
            [REVOKED, CREATED],
        ),
        ({"target": "t1", "limit": 1}, [REVOKED]),
        ({"target": "t1", "limit": 1, "offset": 1}, [CREATED]),
        ({"target": "t1", "offset": 2**63 - 1}, []),
        ({"target": "ü/?#%~ 日"}, []),
    ],
)
def test_log_is_filtered_and_paged_newest_first(
    api: Api, query: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    assert targets(api, **query) == found


def test_entry_says_who_did_what_and_its_place_in_the_chain(api: Api) -> None:
    denied, done = api.get(f"{LOGS}?subject=ci")

    stored = AuditEntry.objects.get(
        operation="token.create", target_id="t1", actor_key="abcdefgh"
    )
    assert done == {
        "id": str(stored.pk),
        "emitTime": "2026-11-23T12:00:00Z",
        "operation": "token.create",
        "status": "success",
        "subject": {"type": "api_key", "id": "7", "display": "ci"},
        "target": {"type": "token", "id": "t1"},
        "sourceIp": "",
        "details": {},
        "requestId": None,
        "userAgent": None,
        "actorKey": "abcdefgh",
        "sequence": stored.sequence,
        "previousHash": stored.previous_hash,
        "hash": stored.hash,
    }
    assert (denied["status"], denied["subject"]["type"]) == ("failure", "user")


@pytest.mark.parametrize(
    "query",
    [
        "limit=1001",
        "limit=0",
        "limit=-1",
        "limit=x",
        f"limit={2**63}",
        "offset=-1",
        "startTime=yesterday",
        "startTime=2026-11-23T12:00:00",
        "target=%00",
        "subject=%00",
    ],
)
def test_what_makes_no_sense_is_said_where(api: Api, query: str) -> None:
    answer = api.send("GET", f"{LOGS}?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["location"] == f"query.{query.split('=')[0]}"


def test_limit_is_a_hundred_where_none_is_given(api: Api, world: World) -> None:
    for _ in range(101):
        services.record_audit(
            actor=system_actor(world.acme),
            operation=Operation.ROLE_CREATE,
            target_type=TargetType.ROLE,
            target_id="r",
        )

    assert len(api.get(LOGS)) == 100
    assert len(api.get(f"{LOGS}?limit=1000")) > 103


def test_log_needs_organization_read(world: World) -> None:
    assert Api(make_key("application.read")).status("GET", LOGS) == 403


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-123", True), ("a b", False), ("x" * 65, False), ("", False)],
)
def test_request_id_is_told_back_where_it_is_sane(
    world: World, given: str, is_kept: bool
) -> None:
    key = {"Authorization": f"Bearer {make_key('application.write')}"}
    for path, headers in (("/v2/orgs/acme/apps/orders", key), ("/orgs/", {})):
        client = world.client("alice")
        answer = client.get(path, headers={**headers, "X-Request-Id": given})
        assert (answer["X-Request-Id"] == given) is is_kept
        assert answer["X-Request-Id"]


# --- The console ---------------------------------------------------------------------


def page(world: World, **query: Any) -> Any:
    return world.client("bob").get("/orgs/acme/audit/", query)


def shown(answer: Any) -> list[int]:
    return [entry.sequence for entry in answer.context["entries"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"operation": "token.revoke", "target": "t1"}, 1),
        ({"subject": "ci"}, 2),
        ({"start": "2026-11-23T12:00", "end": "2026-11-23T12:02"}, 2),
        ({"target": "nothing"}, 0),
    ],
)
def test_page_filters_as_the_api_does(
    api: Api, world: World, query: dict[str, Any], found: int
) -> None:
    answer = page(world, **query)

    assert (answer.status_code, len(shown(answer))) == (200, found)
    assert ("No entry fits" in answer.content.decode()) is (found == 0)


def test_pages_follow_each_other_without_gaps(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all entries are of one moment."""
    monkeypatch.setattr(audit.timezone, "now", lambda: NOON)
    for _ in range(120):
        services.record_audit(
            actor=system_actor(world.acme),
            operation=Operation.ROLE_CREATE,
            target_type=TargetType.ROLE,
            target_id="r",
        )
    monkeypatch.undo()
    seen, cursor = [], ""
    for _ in range(3):
        answer = page(world, target="r", cursor=cursor)
        seen += shown(answer)
        cursor = answer.context["next_cursor"]

    assert cursor == ""
    assert len(seen) == 120
    assert seen == sorted(set(seen), reverse=True)

    api = Api(make_key("organization.read"))
    found = []
    for offset in range(0, 150, 50):
        query = {"target": "r", "limit": 50, "offset": offset}
        answer = api.client.get(f"{api.base}{LOGS}", query)
        found += [one["sequence"] for one in answer.json()]
    assert found == seen


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "x"},
        {"operation": "x"},
        {"start": "yesterday"},
        {"target": "x" * 600},
    ],
)
def test_page_says_what_makes_no_sense(world: World, query: dict[str, Any]) -> None:
    assert page(world, **query).status_code == 422


def test_page_says_whether_the_log_is_verified(world: World) -> None:
    assert "Not verified yet" in page(world).content.decode()

    chain = AuditChain.objects.filter(organization=world.acme)
    chain.update(verified_at=timezone.now(), verified_sequence=3)
    assert "Verified to #3" in page(world).content.decode()

    chain.update(finding="#2: It was altered.")
    assert "This log is not what was written" in page(world).content.decode()
