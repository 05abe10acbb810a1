"""What a server takes of one address and one person, through the doors that ship.

Settings set the limits, here low ones. The numbers that follow `Before` are what a
server without these limits did.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from benchmarks.stack import wait_until
from tests.e2e.world import Embedded
from tests.executors.test_fuzz_frames import closing_code
from tests.site.test_deadlines import FORM, dribble

IDENTITY, WRONG_KEYS, PAGES, SECS = 20, 5, 3, 2
SETTINGS = {
    "CONDUCTOR_IDENTITY_REQUESTS_PER_MINUTE": IDENTITY,
    "CONDUCTOR_WRONG_KEYS_PER_MINUTE": WRONG_KEYS,
    "CONDUCTOR_MAX_OPEN_PAGES_PER_PERSON": PAGES,
    "CONDUCTOR_REQUEST_HEAD_SECS": SECS,
    "CONDUCTOR_REQUEST_BODY_SECS": SECS,
}


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, str(value))
        running = Embedded(tmp_path_factory.mktemp("limits"))
    running.key = running.provision("orders")
    try:
        yield running
    finally:
        running.stop()


def test_anonymous_requests_of_one_address_are_limited(conductor: Embedded) -> None:
    """Before: any number was looked up, each over a database connection of its own."""
    form = {"grant_type": "refresh_token", "refresh_token": "x", "client_id": "y"}
    with httpx.Client(base_url=conductor.urls[0], timeout=30) as client:
        answers = [
            client.post("/identity/token", data=form) for _ in range(IDENTITY + 10)
        ]

    statuses = [answer.status_code for answer in answers]
    assert 429 not in statuses[:IDENTITY]
    assert set(statuses[IDENTITY:]) == {429}
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def dial(conductor: Embedded, key: str) -> int:
    """Return the status of a handshake."""
    url = f"{conductor.urls[0].replace('http', 'ws', 1)}/websocket/orders/{key}"
    try:
        with connect(url, compression=None, proxy=None):
            return 101
    except InvalidStatus as exc:
        return exc.response.status_code


def test_wrong_keys_of_one_address_are_refused_unasked(conductor: Embedded) -> None:
    """Before: all were looked up, and 800 delayed a good handshake to 6.5 s."""
    number = 0

    def attempt() -> int:
        nonlocal number
        number += 1
        return dial(conductor, f"dbos_{number:08d}_{'x' * 43}")

    assert {attempt() for _ in range(WRONG_KEYS)} == {401}
    # The list of good keys, which come in all the same, is read with a heartbeat.
    wait_until("it is refused unasked", lambda: attempt() == 429, secs=30, every=0.2)
    assert dial(conductor, conductor.key) == 101


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\nHost: x\r\nX: ", FORM])
def test_dribbled_request_ends_in_time(conductor: Embedded, beginning: bytes) -> None:
    """Before: it lived for 200 s."""
    _, _, port = conductor.urls[0].rpartition(":")

    answer, secs = dribble(int(port), beginning)

    assert answer.startswith(b"HTTP/1.1 408")
    assert secs >= SECS


@pytest.fixture(scope="module")
def cookie(conductor: Embedded) -> str:
    """The session of somebody who is signed in."""
    return str(conductor.console().http.cookies["conductor_session"])


def open_page(conductor: Embedded, cookie: str) -> ClientConnection:
    return connect(
        f"{conductor.urls[0].replace('http', 'ws', 1)}/orgs/acme/apps/orders/live/",
        additional_headers={"Cookie": f"conductor_session={cookie}"},
        origin=conductor.urls[0],  # type: ignore[arg-type]
        compression=None,
        proxy=None,
        close_timeout=1,
        legacy=True,
    )


def test_open_pages_of_a_person_are_limited(conductor: Embedded, cookie: str) -> None:
    """Before: a person could open any number."""
    with contextlib.ExitStack() as stack:
        for _ in range(PAGES):
            stack.enter_context(open_page(conductor, cookie))
        with pytest.raises(InvalidStatus) as caught:
            open_page(conductor, cookie).close()
    assert caught.value.response.status_code == 429


@pytest.mark.parametrize(
    "message", ["x" * 1025, ["x" * 600, "x" * 600]], ids=["whole", "in parts"]
)
def test_a_page_may_send_next_to_nothing(
    conductor: Embedded, cookie: str, message: str | list[str]
) -> None:
    """Before: 128 MiB, and four unfinished messages held 220 MiB."""
    # Those of the test before may still be counted for a moment.
    page = wait_until(
        "there is room", lambda: patiently(conductor, cookie), secs=20, every=0.2
    )
    with contextlib.closing(page):
        with contextlib.suppress(ConnectionClosed):
            page.send(message)
        assert closing_code(page) == 1009


def patiently(conductor: Embedded, cookie: str) -> ClientConnection | None:
    try:
        return open_page(conductor, cookie)
    except InvalidStatus:
        return None
