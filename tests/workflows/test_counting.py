"""The number under a live list: an executor's own count, or what is known honestly."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from apps.workflows import selectors
from apps.workflows.live import counting
from apps.workflows.selectors import Count, Filters
from tests.workflows.conftest import Browser, Served
from tests.workflows.executor import (
    NOON,
    SECOND,
    ScriptedExecutor,
    wait_until,
    workflow,
)

START = datetime.fromtimestamp(NOON / 1000, UTC)
COUNTS = "get_workflow_aggregates"
STATUSES = ("SUCCESS", "ERROR", "PENDING")


def make_rows(count: int = 400) -> list[dict[str, Any]]:
    return [
        workflow(
            f"{'abc'[number % 3]}{number:04}",
            NOON + number * SECOND,
            STATUSES[number % 3],
            WorkflowName="pay" if number % 2 else "ship",
            ApplicationVersion=f"v{number % 4}",
        )
        for number in range(count)
    ]


def count_of(served: Served, filters: Filters | None = None) -> Count | None:
    return selectors.list_workflows(
        application=served.application, filters=filters or Filters()
    ).count


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), 400),
        (Filters(status=("ERROR",)), 133),
        (Filters(status=("ERROR", "PENDING")), 266),
        (Filters(name="pay"), 200),
        (Filters(version="v1"), 100),
        (Filters(created_from=START + timedelta(seconds=300)), 100),
        (
            Filters(
                name="ship",
                created_from=START + timedelta(seconds=100),
                created_to=START + timedelta(seconds=250),
            ),
            76,
        ),
    ],
)
def test_a_list_longer_than_a_page_is_counted_under_its_filters(
    served: Served, filters: Filters, expected: int
) -> None:
    served.connect(rows=make_rows())

    assert count_of(served, filters) == Count(expected, is_exact=True)


def test_every_page_shows_the_count(served: Served, browser: Browser) -> None:
    served.connect(rows=make_rows(1_200))
    client = browser(served.world.alice)

    first = client.get(served.world.url).content.decode()
    older = re.search(r'href="([^"]*cursor=[^"]*)">Older', first)
    assert older is not None
    second = client.get(served.world.url + older[1]).content.decode()

    assert ">1,200 workflows<" in first
    assert ">1,200 workflows<" in second


def test_a_short_list_is_not_asked_about(served: Served) -> None:
    executor = served.connect(rows=make_rows(50))

    assert count_of(served) == Count(50, is_exact=True)
    assert executor.count(COUNTS) == 0


@pytest.mark.parametrize("version", ["2.10.0", "1.14.0", None])
def test_an_sdk_that_cannot_count_leaves_the_rows_of_the_page(
    served: Served, browser: Browser, version: str | None
) -> None:
    served.connect(rows=make_rows(), version=version)

    page = browser(served.world.alice).get(served.world.url).content.decode()

    assert ">50 on this page<" in page


def test_what_the_message_cannot_say_exactly_is_not_counted(
    served: Served, browser: Browser
) -> None:
    """On SQLite an id prefix means capitals too: one more passes there."""
    rows = [workflow(f"a{number:04}") for number in range(60)]
    rows.append(workflow("A0000"))
    rows += [workflow(f"7{number:04}") for number in range(60)]
    executor = served.connect(rows=rows)
    client = browser(served.world.alice)

    by_letter = client.get(f"{served.world.url}?{urlencode({'id_prefix': 'a'})}")
    by_digit = client.get(f"{served.world.url}?{urlencode({'id_prefix': '7'})}")

    assert ">50 on this page<" in by_letter.content.decode()
    assert ">60 workflows<" in by_digit.content.decode()
    assert executor.count(COUNTS) == 1


def test_a_page_does_not_wait_for_a_count_that_does_not_come(served: Served) -> None:
    executor = served.connect(rows=make_rows())
    executor.silent.add(COUNTS)

    began = time.monotonic()
    pages = [
        selectors.list_workflows(application=served.application, filters=Filters())
        for _ in range(3)
    ]

    assert time.monotonic() - began < counting.ASK_TIMEOUT_S
    assert [(len(page.rows), page.count) for page in pages] == [(50, None)] * 3
    assert executor.count(COUNTS) == 1


def test_a_slow_count_is_there_for_the_next_page_and_is_not_asked_for_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "WAIT_S", 0.05)
    executor = served.connect(rows=make_rows())
    plain = ScriptedExecutor._get_workflow_aggregates

    def slowly(request: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.5)
        return plain(executor, request)

    monkeypatch.setattr(executor, "_get_workflow_aggregates", slowly)

    assert count_of(served) is None
    wait_until(lambda: count_of(served) is not None)
    assert count_of(served) == Count(400, is_exact=True)
    assert executor.count(COUNTS) == 1


def test_a_count_is_asked_for_again_and_the_last_one_stands_meanwhile(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "REST_FACTOR", 0)
    executor = served.connect(rows=make_rows())
    assert count_of(served) == Count(400, is_exact=True)

    executor.workflows["new"] = workflow("new")
    wait_until(lambda: count_of(served) == Count(401, is_exact=True))
    executor.silent.add(COUNTS)

    assert count_of(served) == Count(401, is_exact=True)


def test_an_answer_without_numbers_is_no_count(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = served.connect(rows=make_rows())
    groups = [{"group": {}, "count": 3}, {"group": {}, "count": "many"}]
    monkeypatch.setattr(
        executor, "_get_workflow_aggregates", lambda _: {"output": groups}
    )

    assert count_of(served) is None


def test_the_count_is_of_the_chosen_database(served: Served, browser: Browser) -> None:
    served.connect("x1", rows=make_rows(100), versions=("one",))
    served.connect("x2", rows=make_rows(300), versions=("other",))
    labels = [row.label for row in served.application.system_databases.order_by("pk")]
    client = browser(served.world.alice)

    found = [
        client.get(f"{served.world.url}?{urlencode({'database': label})}")
        for label in labels
    ]

    assert ">100 workflows<" in found[0].content.decode()
    assert ">300 workflows<" in found[1].content.decode()
