"""Pages of real applications: each workflow once, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import html
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

COUNT, OF_ONE_MOMENT = 500, 200
NEW, OLD = "3.2.0", "1.14.0"
APPLICATIONS = [(NEW, "sqlite"), (NEW, "postgresql"), (OLD, "sqlite")]
Clone = dict[str, Any]


def clones() -> list[Clone]:
    """300 of different moments, and 200 of the moment in their middle."""
    base = 1_700_000_000_000
    made = []
    for number in range(COUNT):
        moment = 150 if number < OF_ONE_MOMENT else number - OF_ONE_MOMENT
        made.append(
            {
                "workflow_uuid": f"w{number:03}/{'aBé'[number % 3]}",
                "created_at": base + moment * 1_000,
                "updated_at": base + 10**7,
                "status": ("SUCCESS", "ERROR", "CANCELLED")[number % 3],
            }
        )
    return made


def fill(database: Database, model_id: str, rows: list[Clone]) -> None:
    """Put rows like the model's into the application's own database."""
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


class Crowded:
    """An application whose workflows crowd one moment, its pages and its API."""

    def __init__(self, conductor: Conductor, version: str, kind: str, home: Path):
        self.name = f"paged-{kind}-{version}".replace(".", "-")
        conductor.provision(self.name)
        self.conductor = conductor
        self.application = Application(
            conductor,
            self.name,
            "python",
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
        fill(self.application.database, "model", clones())
        self.console = Console(conductor.urls[-1])
        key = conductor.provision(permission="application.read")
        self.http = httpx.Client(
            base_url=f"{conductor.urls[-1]}/v2/orgs/acme/apps/{self.name}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=40,
        )

    def truth(self, passes: Callable[[str, str], bool] = lambda *_: True) -> list[str]:
        statuses = self.application.database.statuses()
        return sorted(one for one, status in statuses.items() if passes(one, status))

    def by_offset(self, **body: Any) -> list[str]:
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
        self, between: Callable[[int], None] = lambda _: None, **query: str
    ) -> list[str]:
        """Follow the console's pages from the newest to the end."""
        found: list[str] = []
        begin = f"/orgs/acme/apps/{self.name}/workflows/"
        path = f"{begin}?{urlencode(query)}"
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

    # Still, by the API, both ways and by filters.
    for body, passes in (
        ({"sortDesc": True}, lambda *_: True),
        ({"sortDesc": False}, lambda *_: True),
        ({"sortDesc": True, "status": ["ERROR"]}, lambda _, s: s == "ERROR"),
        ({"workflowIdPrefix": ["w1"]}, lambda one, _: one.startswith("w1")),
    ):
        found = crowded.by_offset(**body)
        assert len(found) == len(set(found)), body
        assert sorted(found) == crowded.truth(passes), body

    # Still, by the console.
    assert sorted(crowded.by_links()) == everything
    found = crowded.by_links(status="ERROR")
    assert sorted(found) == crowded.truth(lambda _, status: status == "ERROR")

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
    assert sorted(crowded.by_links()) == everything
    page = crowded.console.page(f"/orgs/acme/apps/{crowded.name}/workflows/")
    assert f"{len(everything)} known workflows" in page
