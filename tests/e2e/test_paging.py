"""Pages of real applications: each workflow once, whatever happens meanwhile, by every
filter, and counted as the application's own database counts them."""

from __future__ import annotations

import contextlib
import html
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import psycopg
import pytest

from benchmarks.stack import wait_until
from tests.chaos.rig import FULL
from tests.e2e.filters import CASES, COUNT, Case, Row, clones
from tests.e2e.world import (
    FINAL,
    Application,
    Conductor,
    Console,
    Database,
    make_database,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.services,
    pytest.mark.parametrize("conductor", ["services"], indirect=True),
]

PAGE = 50
APPLICATIONS = [
    ("python", "3.2.0", "sqlite"),
    ("python", "3.2.0", "postgresql"),
    ("python", "1.14.0", "sqlite"),
]
if FULL:
    APPLICATIONS.append(("typescript", "5.2.11", "postgresql"))


def fill(database: Database, model_id: str, rows: list[Row]) -> list[str]:
    """Put rows like the model's into the application's own database; return the names
    of its columns."""
    is_sqlite = database.url.startswith("sqlite")
    table = "workflow_status" if is_sqlite else "dbos.workflow_status"
    mark = "?" if is_sqlite else "%s"
    connection: Any = (
        sqlite3.connect(database.url.removeprefix("sqlite:///"), timeout=20)
        if is_sqlite
        else psycopg.connect(database.url)
    )
    with contextlib.closing(connection):
        cursor = connection.cursor()
        cursor.execute(
            f"SELECT * FROM {table} WHERE workflow_uuid = {mark}", (model_id,)
        )
        columns = [column[0] for column in cursor.description]
        model = dict(zip(columns, cursor.fetchone(), strict=True))
        marks = ", ".join([mark] * len(columns))
        cursor.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})",
            [tuple((model | row)[name] for name in columns) for row in rows],
        )
        connection.commit()
    return columns


class Crowded:
    """An application whose workflows crowd one moment, its pages and its API."""

    def __init__(
        self, conductor: Conductor, language: str, version: str, kind: str, home: Path
    ):
        self.version = version
        self.name = f"paged-{kind}-{language}-{version}".replace(".", "-")
        conductor.provision(self.name)
        self.conductor = conductor
        self.application = Application(
            conductor,
            self.name,
            language,
            version,
            home,
            database_url=make_database("paged") if kind == "postgresql" else "",
        )
        self.process = self.application.start_connected()
        self.process.begin("model", steps=1, secs=0.01)

        def is_over() -> bool:
            statuses = self.application.database.statuses()
            return statuses.get("model", "") in FINAL

        wait_until("the model is there", is_over, secs=45, every=0.2)
        self.columns = fill(self.application.database, "model", clones())
        self.console = Console(conductor.urls[-1])
        key = conductor.provision(permission="application.read")
        self.http = httpx.Client(
            base_url=f"{conductor.urls[-1]}/v2/orgs/acme/apps/{self.name}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=40,
        )

    @property
    def is_old(self) -> bool:
        return self.version.startswith("1.")

    def refusal_of(self, case: Case) -> str:
        """Return what is said where the SDK cannot be asked this, else nothing."""
        if self.is_old and case.since > (0, 0):
            return "does not support"
        is_sqlite = self.application.database.url.startswith("sqlite")
        if is_sqlite and "attributes" in case.body:
            return "not supported on SQLite"
        return ""

    def truth(self, case: Case = CASES[0]) -> list[str]:
        """Return the ids that pass, as the application's own database has them."""
        rows = self.application.database.rows("*", "workflow_status")
        named = [dict(zip(self.columns, row, strict=True)) for row in rows]
        for row in named:
            if isinstance(row.get("attributes"), str):
                row["attributes"] = json.loads(row["attributes"])
        return sorted(row["workflow_uuid"] for row in named if case.passes(row))

    def by_offset(self, body: Row) -> list[str]:
        """Follow the API's pages of 50."""
        found: list[str] = []
        while True:
            answer = self.http.post(
                "/workflows/search", json={**body, "limit": 50, "offset": len(found)}
            )
            assert answer.status_code == 200, answer.text
            page = [row["workflowId"] for row in answer.json()]
            found += page
            if len(page) < 50:
                return found

    def by_links(
        self, between: Callable[[int], None] = lambda _: None, **query: Any
    ) -> list[str]:
        """Follow the console's pages from the newest to the end."""
        found: list[str] = []
        begin = f"/orgs/acme/apps/{self.name}/workflows/"
        path = f"{begin}?{urlencode(query, doseq=True)}"
        for number in range(1, 100):
            answer = self.console.http.get(path)
            assert answer.status_code == 200, answer.text[-3000:]
            page = answer.text
            rows = re.findall(r'fw-normal mono" title="([^"]*)"', page)
            found += [html.unescape(one) for one in rows]
            link = re.search(r'href="([^"]*cursor=[^"]*)">Older', page)
            if link is None:
                return found
            path = begin + html.unescape(link[1])
            between(number)
        raise AssertionError("the pages do not end")

    def count(self, **query: Any) -> str:
        """Return what the console's first page says about how many there are."""
        path = f"/orgs/acme/apps/{self.name}/workflows/"
        page = self.console.http.get(f"{path}?{urlencode(query, doseq=True)}").text
        found = re.search(r'id="workflow-count">([^<]*)<', page)
        return html.unescape(found[1]) if found else ""

    def known(self) -> int:
        sql = (
            "SELECT count(*) FROM workflows_workflowsnapshot s"
            " JOIN registry_application a ON a.id = s.application_id"
            f" WHERE a.name = '{self.name}'"
        )
        return int(self.conductor.rows(sql)[0][0])


@pytest.fixture(scope="module", params=APPLICATIONS, ids="-".join)
def crowded(
    conductor: Conductor,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Crowded]:
    made = Crowded(conductor, *request.param, tmp_path_factory.mktemp("paged"))
    yield made
    made.application.stop()


def test_each_comes_once_live_and_across_the_moment_of_leaving(
    crowded: Crowded,
) -> None:
    everything = crowded.truth()
    assert len(everything) == COUNT + 1

    # Still, by the API and by the console, with every filter.
    for case in CASES:
        check_search(crowded, case)
    for case in CASES:
        if case.query is not None:
            check_list(crowded, case)

    # While work arrives.
    found = crowded.by_links(
        lambda number: crowded.process.begin(f"new-{number}", steps=1, secs=0.01)
    )
    assert len(found) == len(set(found))
    assert set(everything) <= set(found)

    # When the application leaves between two pages, and from snapshots afterwards.
    wait_until(
        "the sync knows all", lambda: crowded.known() >= len(crowded.truth()), secs=120
    )

    def leave(number: int) -> None:
        if number == 4:
            crowded.application.stop()
            wait_until(
                "it has left",
                lambda: not crowded.conductor.healthy(crowded.name),
                secs=60,
            )

    everything = crowded.truth()
    assert sorted(crowded.by_links(leave)) == everything
    for case in CASES:
        if case.query is not None:
            check_list(crowded, case, is_live=False)


def check_search(crowded: Crowded, case: Case) -> None:
    """The API's search has each that passes once. What an SDK cannot be asked is
    refused with its reason, and never answered by a wrong list."""
    reason = crowded.refusal_of(case)
    if reason:
        answer = crowded.http.post("/workflows/search", json=case.body)
        assert answer.status_code == 502, case.name
        assert reason in answer.json()["detail"], case.name
        return
    found = crowded.by_offset({"sortDesc": True, **case.body})
    assert len(found) == len(set(found)), case.name
    assert sorted(found) == crowded.truth(case), case.name


def check_list(crowded: Crowded, case: Case, *, is_live: bool = True) -> None:
    """The console has each that passes once, and counts them."""
    truth = crowded.truth(case)
    found = crowded.by_links(**case.query or {})
    assert len(found) == len(set(found)), case.name
    assert sorted(found) == truth, case.name

    noun = "workflow" if is_live else "known workflow"
    count = f"{len(truth)} {noun}{'' if len(truth) == 1 else 's'}"
    is_counted = not crowded.is_old and case.is_countable
    if is_live and len(truth) > PAGE and not is_counted:
        count = f"{PAGE} on this page"
    assert crowded.count(**case.query or {}) == count, case.name
