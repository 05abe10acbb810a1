"""The list: full pages in order, from any SDK, and snapshots while nobody answers."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from apps.executors import gateway
from apps.workflows import selectors
from apps.workflows.live.order import Position
from apps.workflows.models import SnapshotSync, WorkflowSnapshot
from apps.workflows.selectors import Filters
from tests.workflows.conftest import Browser, Served, World
from tests.workflows.executor import NOON, SECOND, workflow

START = datetime.fromtimestamp(NOON / 1000, UTC)


def ids(page: selectors.WorkflowPage) -> list[str]:
    return [row.workflow_id for row in page.rows]


def all_pages(served: Served, filters: Filters | None = None) -> list[list[str]]:
    """Follow the pages as a person does, by the links' text."""
    pages, cursor = [], None
    while True:
        page = selectors.list_workflows(
            application=served.application,
            filters=filters or Filters(),
            cursor=cursor,
        )
        pages.append(ids(page))
        if page.next is None:
            return pages
        cursor = Position.parse(str(page.next))
        assert len(pages) < 50


def flat(pages: list[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(pages))


def newest_first(count: int) -> list[str]:
    return [f"w{n:04}" for n in reversed(range(count))]


def pairs_newest_first(count: int) -> list[str]:
    """Two of each second, these by their ids."""
    return [f"w{n + m:04}" for n in reversed(range(0, count, 2)) for m in (0, 1)]


def make_rows(count: int, *, every_ms: int = SECOND, **more: Any) -> list[Any]:
    return [workflow(f"w{n:04}", NOON + n * every_ms, **more) for n in range(count)]


def keep(world: World, count: int, **more: Any) -> None:
    """Snapshots, two of each second."""
    WorkflowSnapshot.objects.bulk_create(
        WorkflowSnapshot(
            application=world.application,
            workflow_id=f"w{n:04}",
            **{
                "status": "SUCCESS",
                "name": "work",
                "created_at": START + timedelta(seconds=n // 2),
                "updated_at": START,
                "seen_at": START,
                **more,
            },
        )
        for n in range(count)
    )


# --- Live --------------------------------------------------------------------------


def test_pages_follow_one_another_without_a_gap(served: Served) -> None:
    served.connect(rows=make_rows(120))

    pages = all_pages(served)

    assert [len(page) for page in pages] == [50, 50, 20]
    assert flat(pages) == newest_first(120)


def test_pages_of_many_that_began_in_one_second(served: Served) -> None:
    served.connect(rows=make_rows(120, every_ms=0))

    pages = all_pages(served)

    assert [len(page) for page in pages] == [50, 50, 20]
    assert flat(pages) == sorted(newest_first(120))


def test_new_workflows_do_not_move_the_older_pages(served: Served) -> None:
    executor = served.connect(rows=make_rows(100))
    first = selectors.list_workflows(application=served.application, filters=Filters())
    executor.workflows["new"] = workflow("new", NOON + 10**6)

    second = selectors.list_workflows(
        application=served.application, filters=Filters(), cursor=first.next
    )

    assert ids(second) == newest_first(100)[50:]


@pytest.mark.parametrize("version", ["3.2.0", "2.8.0", "1.14.0", None])
def test_filters_hold_whatever_the_sdk_knows(
    served: Served, version: str | None
) -> None:
    """Old SDKs ignore a filter silently; a page is full all the same."""
    rows = make_rows(400)
    for number, row in enumerate(rows):
        row["WorkflowUUID"] = f"{'keep' if number % 4 == 0 else 'drop'}-{number:04}"
        row["Status"] = ("SUCCESS", "ERROR", "PENDING")[number % 3]
    served.connect(rows=rows, version=version)
    wanted = [
        row["WorkflowUUID"]
        for row in reversed(rows)
        if row["WorkflowUUID"].startswith("keep") and row["Status"] != "PENDING"
    ]

    pages = all_pages(served, Filters(status=("SUCCESS", "ERROR"), id_prefix="keep"))

    assert flat(pages) == wanted
    assert [len(page) for page in pages] == [50, 17]


def test_each_answer_is_filtered_for_the_executor_that_gave_it(served: Served) -> None:
    rows = [*make_rows(30), workflow("other", NOON + 10**6)]
    served.connect("new", rows=rows, version="3.2.0")
    served.connect("old", rows=rows, version="2.8.0")

    for _ in range(12):
        page = selectors.list_workflows(
            application=served.application, filters=Filters(id_prefix="w00")
        )
        assert ids(page) == newest_first(30)


def test_long_search_stops_and_can_be_continued(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "SEARCH_BATCH", 60)
    monkeypatch.setattr(selectors, "SEARCH_ASKS", 3)
    executor = served.connect(
        rows=[workflow("rare", NOON), *make_rows(500)[1:]], version="1.14.0"
    )
    filters = Filters(id_prefix="rare")

    page = selectors.list_workflows(application=served.application, filters=filters)

    assert (ids(page), page.searched, executor.count("list_workflows")) == ([], 171, 3)
    assert flat(all_pages(served, filters)) == ["rare"]


def test_live_rows_are_written_through(served: Served) -> None:
    served.connect(rows=make_rows(60))

    selectors.list_workflows(application=served.application, filters=Filters())

    assert WorkflowSnapshot.objects.count() == 50


def test_row_without_an_id_or_a_time_breaks_nothing(
    served: Served, browser: Browser
) -> None:
    rows = [
        {"WorkflowUUID": "", "Status": "SUCCESS", "CreatedAt": str(NOON)},
        workflow("timeless", NOON) | {"UpdatedAt": None},
    ]
    served.connect(rows=rows)

    response = browser(served.world.alice).get(served.world.url)

    assert response.status_code == 200
    assert b"timeless" in response.content


def test_list_page_takes_few_queries(
    served: Served, browser: Browser, django_assert_max_num_queries: Any
) -> None:
    served.connect(rows=make_rows(120))
    client = browser(served.world.alice)
    client.get(served.world.url)
    gateway.healthy_targets(served.application)

    with django_assert_max_num_queries(14):
        client.get(served.world.url)


# --- Snapshots -----------------------------------------------------------------------


def test_snapshots_are_paged_by_key(served: Served) -> None:
    keep(served.world, 120)

    pages = all_pages(served)

    assert [len(page) for page in pages] == [50, 50, 20]
    assert flat(pages) == pairs_newest_first(120)


def test_snapshots_of_one_moment_are_ordered_like_live_ones(served: Served) -> None:
    """By code points: a database's own collation would put a before B."""
    ids_of_all = ["z/ ", "a", "B", "é", "e\u0301", "\U0001f600", "\uffee", "a b", "A"]
    rows = [workflow(one) for one in ids_of_all]
    rows.append(workflow("timeless") | {"CreatedAt": None})
    served.connect(rows=rows)
    live = flat(all_pages(served))
    served.leave()

    assert live == [*sorted(ids_of_all), "timeless"]
    assert flat(all_pages(served)) == live


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(status=("ERROR",)), ["err"]),
        (Filters(status=("ERROR", "PENDING")), ["pend", "err"]),
        (Filters(name="pay"), ["pay"]),
        (Filters(version="v2"), ["v2"]),
        (Filters(id_prefix="p"), ["pay", "pend"]),
        (Filters(id_prefix="P"), ["Percent%_"]),
        (Filters(id_prefix="Percent%_"), ["Percent%_"]),
        (Filters(id_prefix="%"), []),
        (Filters(created_from=START + timedelta(seconds=4)), ["Percent%_"]),
        (Filters(created_to=START), ["err"]),
        (Filters(status=("SUCCESS",), name="pay", version="v1"), ["pay"]),
    ],
)
def test_snapshots_are_filtered_like_the_application(
    world: World, filters: Filters, expected: list[str]
) -> None:
    special = {
        "err": {"status": "ERROR"},
        "pend": {"status": "PENDING"},
        "pay": {"name": "pay"},
        "v2": {"application_version": "v2"},
        "Percent%_": {},
    }
    WorkflowSnapshot.objects.bulk_create(
        WorkflowSnapshot(
            application=world.application,
            workflow_id=workflow_id,
            created_at=START + timedelta(seconds=number),
            updated_at=START,
            **{
                "status": "SUCCESS",
                "name": "work",
                "application_version": "v1",
                **more,
            },
        )
        for number, (workflow_id, more) in enumerate(special.items())
    )

    found = selectors.snapshots_matching(world.application, filters)

    assert [s.workflow_id for s in found.order_by("-created_at")] == expected


def test_snapshot_page_says_when_and_never_looks_live(
    served: Served, browser: Browser
) -> None:
    keep(served.world, 3)
    SnapshotSync.objects.create(
        application=served.application, last_synced_at=START, completed_at=START
    )

    page = browser(served.world.alice).get(served.world.url).content.decode()

    assert "As of" in page
    assert "No executor of orders is connected." in page
    assert f'datetime="{START.isoformat()}"' in page
    assert 'name="id"' not in page


def test_unread_history_is_admitted(served: Served, browser: Browser) -> None:
    keep(served.world, 3)

    page = browser(served.world.alice).get(served.world.url).content.decode()

    assert "older workflows may be missing" in page


def test_private_application_shows_nothing_that_was_kept(
    served: Served, browser: Browser
) -> None:
    keep(served.world, 3)
    served.application.private_mode = True
    served.application.save(update_fields=["private_mode"])

    page = browser(served.world.alice).get(served.world.url).content.decode()

    assert "private mode" in page
    assert "w0001" not in page


def test_list_shows_the_same_once_the_application_is_away(served: Served) -> None:
    served.connect(rows=make_rows(120))
    live = flat(all_pages(served))

    served.leave()
    page = selectors.list_workflows(application=served.application, filters=Filters())

    assert not page.is_live
    assert flat(all_pages(served)) == live


@pytest.mark.parametrize("count", [0, 3, 99, 100, 101, 150])
def test_counts_are_capped(
    world: World, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selectors, "COUNT_LIMIT", 100)
    keep(world, count)

    page = selectors.list_workflows(application=world.application, filters=Filters())

    assert page.count is not None
    assert page.count.value == min(count, 100)
    assert page.count.is_capped is (count > 100)


def test_page_begun_live_goes_on_from_snapshots_and_back(served: Served) -> None:
    """The application may leave between two pages: each comes once all the same."""
    served.connect(rows=make_rows(80, every_ms=0))
    live = selectors.list_workflows(application=served.application, filters=Filters())
    selectors.list_workflows(
        application=served.application, filters=Filters(), cursor=live.next
    )
    served.leave()

    away = selectors.list_workflows(
        application=served.application, filters=Filters(), cursor=live.next
    )

    assert away.next is None
    assert not away.is_live
    assert [*ids(live), *ids(away)] == sorted(newest_first(80))


# --- Input ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        {"status": "NO_SUCH"},
        {"status": ["SUCCESS", "'; DROP TABLE"]},
        {"name": "x" * 256},
        {"id_prefix": "x" * 1001},
        {"version": "x" * 256},
        {"created_from": "yesterday"},
        {"created_from": "2026-13-45T00:00"},
        {"created_from": "0001-01-01T00:00+14:00"},
        {"created_to": "9999-12-31T23:59-14:00"},
        {"created_from": "2026-09-22T00:00", "created_to": "2026-09-21T00:00"},
        {"cursor": "abc"},
        {"cursor": "9" * 18 + "-1"},
        {"cursor": "9" * 15 + "-1"},
        {"cursor": "1700000000000000_77"},
        {"cursor": "-1-1"},
    ],
)
def test_bad_filters_are_explained_and_list_nothing(
    served: Served, browser: Browser, query: dict[str, Any]
) -> None:
    executor = served.connect(rows=make_rows(3))
    keep(served.world, 3)
    client = browser(served.world.alice)

    response = client.get(served.world.url + "?" + urlencode(query, doseq=True))

    page = response.content.decode()
    assert response.status_code == 422
    assert 'role="alert"' in page
    assert "w0001" not in page
    assert executor.count("list_workflows") == 0


def test_any_status_is_no_filter(served: Served, browser: Browser) -> None:
    served.connect(rows=make_rows(3))

    response = browser(served.world.alice).get(served.world.url + "?status=&name=")

    assert response.status_code == 200
    assert b"w0001" in response.content


def test_fragment_is_one_element_that_stands_alone(
    served: Served, browser: Browser
) -> None:
    served.connect(rows=make_rows(60))
    client = browser(served.world.alice)

    page = client.get(served.world.url, headers={"HX-Request": "true"})

    text = page.content.decode().strip()
    assert text.startswith('<div id="workflow-table"') and text.endswith("</div>")
    assert "<html" not in text
    assert "HX-Request" in page["Vary"]
    assert re.search(r'href="\?cursor=[0-9]+-w0010"', text)
