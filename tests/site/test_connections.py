"""A web process keeps no database connection for what is over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks.stack import Stack, free_port

pytestmark = pytest.mark.services


def test_requests_leave_no_database_connection_behind() -> None:
    port = free_port()
    with Stack() as stack:
        stack.start_web(port)
        before = connections(stack)
        # The session is looked up, so each request does ask the database.
        with httpx.Client(cookies={"conductor_session": "x" * 32}) as client:
            url = f"http://127.0.0.1:{port}/accounts/login/"
            with ThreadPoolExecutor(8) as pool:
                pages = list(pool.map(lambda _: client.get(url), range(80)))
        after = connections(stack)

    assert {page.status_code for page in pages} == {200}
    # Those of the server's own few threads may have come in between.
    assert after <= before + 8


def connections(stack: Stack) -> int:
    return stack.count(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", stack.database
    )
