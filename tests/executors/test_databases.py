"""Which system database an executor works on, and how one is told from another."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.executors import clock, databases, fingerprint, presence
from apps.executors.models import Executor, SystemDatabase
from apps.executors.presence import Registration
from apps.executors.protocol import codec, messages
from apps.executors.protocol.replies import VersionsReply
from apps.registry.models import Application, Organization


@pytest.fixture
def application(db: Any) -> Application:
    organization = Organization.objects.create(name="acme")
    return Application.objects.create(organization=organization, name="orders")


def connect(application: Application, executor_id: str, *marks: str) -> Executor:
    presence.register(
        [
            Registration(
                f"c-{executor_id}", application.pk, executor_id, "v1", marks=marks
            )
        ],
        instance_id="i1",
    )
    return Executor.objects.get(executor_id=executor_id)


@pytest.mark.parametrize(
    ("known", "reported", "same"),
    [
        (["v:a"], ["v:a"], True),
        (["v:a"], ["v:a", "v:b"], True),
        (["v:a", "v:b"], ["v:b"], True),
        (["v:a"], ["v:b"], False),
        (["v:a", "v:production"], ["v:a", "v:staging"], False),
        (["w:a", "w:b"], ["w:b", "w:c"], True),
        (["w:a"], ["w:b"], False),
        (["v:a"], ["w:a"], False),
        (["v:a"], [], False),
    ],
)
def test_marks_tell_databases_apart(
    known: list[str], reported: list[str], same: bool
) -> None:
    assert databases.is_same(known, reported) is same


def test_executors_of_one_database_share_its_row(application: Application) -> None:
    first = connect(application, "x1", "v:a")
    # A new version came meanwhile; the clock of who wrote it was slow.
    second = connect(application, "x2", "v:b", "v:a")
    third = connect(application, "x3", "v:b")

    assert first.database_id == second.database_id == third.database_id
    assert sorted(SystemDatabase.objects.get().marks) == ["v:a", "v:b"]


def test_another_database_gets_a_row_and_a_label_of_its_own(
    application: Application,
) -> None:
    production = connect(application, "x1", "v:a").database
    staging = connect(application, "x2", "v:b").database

    assert production is not None
    assert staging is not None
    assert production.pk != staging.pk
    assert production.label != staging.label


def test_a_copy_is_another_database_once_it_went_its_own_way(
    application: Application,
) -> None:
    connect(application, "x1", "v:a")
    grown = connect(application, "x2", "v:a", "v:production")

    copy = connect(application, "x3", "v:a", "v:staging")

    assert copy.database_id not in (None, grown.database_id)


def test_the_database_follows_the_executor(application: Application) -> None:
    before = connect(application, "x1", "v:a").database_id

    after = connect(application, "x1", "v:b").database_id

    assert after not in (None, before)


def test_who_shows_nothing_works_on_an_unknown_one(application: Application) -> None:
    assert connect(application, "x1").database is None
    assert not SystemDatabase.objects.exists()


def test_oldest_workflows_that_vanished_make_no_second_database(
    application: Application,
) -> None:
    known = connect(application, "x1", "w:a", "w:b")
    assert connect(application, "x2", "w:b", "w:c").database_id == known.database_id

    assert connect(application, "x3", "w:z").database is None
    assert SystemDatabase.objects.count() == 1


def test_the_longest_known_is_asked_and_keeps_its_place_for_a_moment(
    application: Application,
) -> None:
    connect(application, "x1", "v:a")
    connect(application, "x2", "v:b")
    first, second = databases.list_present(application)
    assert databases.default_of([first, second]) == first

    presence.disconnect(["c-x1"])

    present = databases.list_present(application)
    chosen = databases.default_of(present)
    assert chosen is not None
    assert (chosen.key, chosen.healthy, chosen.alive) == (first.key, 0, 1)


def test_a_database_whose_executors_died_long_ago_is_no_choice(
    application: Application,
) -> None:
    connect(application, "x1", "v:a")
    connect(application, "x2", "v:b")
    dead = Executor.objects.filter(executor_id="x1")
    dead.update(state=Executor.State.DEAD, dead_at=clock.now())
    assert len(databases.list_present(application)) == 2

    dead.update(dead_at=clock.now() - timedelta(days=2))

    assert [one.healthy for one in databases.list_present(application)] == [1]


def test_an_unused_database_is_forgotten(application: Application) -> None:
    connect(application, "x1", "v:a")
    SystemDatabase.objects.update(last_seen_at=clock.now() - timedelta(days=31))
    assert databases.forget_unused() == 0

    Executor.objects.all().delete()

    assert databases.forget_unused() == 1


def versions(*rows: dict[str, Any]) -> VersionsReply:
    return VersionsReply.parse({"output": list(rows)})


@pytest.mark.parametrize(
    ("peer", "asked"),
    [
        (codec.Peer("python", "3.2.0"), "list_application_versions"),
        (codec.Peer("typescript", "4.19.8"), "list_application_versions"),
        (codec.Peer("python", "2.10.0"), "list_workflows"),
        (codec.Peer(None, None), "list_workflows"),
    ],
)
def test_each_sdk_is_asked_what_it_knows(peer: codec.Peer, asked: str) -> None:
    assert fingerprint.question(peer).type == asked


def test_marks_are_the_oldest_first_and_bounded() -> None:
    asked = messages.ListApplicationVersions()
    new = {"version_id": "n", "version_name": "v2", "created_at": 2_000}
    old = {"version_id": "o", "version_name": "v1", "created_at": 1_000}

    marks = fingerprint.read_marks(asked, versions(new, old))

    assert marks == fingerprint.read_marks(asked, versions(old, new))
    assert marks[0] == fingerprint.read_marks(asked, versions(old))[0]
    assert all(len(mark) == 18 for mark in marks)
    many = [new | {"version_id": f"n{n}"} for n in range(2_000)]
    assert len(fingerprint.read_marks(asked, versions(*many))) == 1_000
