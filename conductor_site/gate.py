"""Shares out the requests that need the database: so many at once, by who asks.

Anonymous requests, and those whose credentials nobody knows yet, have lanes of their
own, so that however many come, whoever is signed in is served. What is past a limit is
answered here, before a thread or the database is asked for anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.cookies import CookieError, SimpleCookie

from django.conf import settings
from django.db.utils import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from apps.registry import acquainted
from apps.registry.limits import AddressLimit, source_of
from conductor_site.edge import (
    AsgiApplication,
    Receive,
    Scope,
    Send,
    is_api_path,
    refusal,
)

ANONYMOUS_AT_ONCE = 4
NEWCOMERS_AT_ONCE = 4
# A person with sixty tabs, all of which wait for an executor, is served.
PER_CALLER_AT_ONCE = 64
# An operation that waits for an executor needs neither thread nor connection.
PER_TOKEN_AT_ONCE = 256
# That wait for their turn: from one address without credentials, of one caller, and of
# all that nobody knows.
WAITING_PER_SOURCE = 64
WAITING_PER_CALLER = 200
WAITING_OF_A_LANE = 1_000
WAIT_SECS = 15.0

FREE_PREFIXES = ("/static/", "/healthz", "/openapi", "/docs")
TOO_MANY = "Too many requests at once. Try again in a moment."
TOO_OFTEN = "Too many requests from your address. Try again in a minute."


class Overcrowded(Exception):
    """There is no room to wait, or the wait was too long."""

    def __init__(self, status: int, retry_after_secs: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.retry_after_secs = status, retry_after_secs
        self.detail = detail


class Lane:
    """At most `at_once`; of those that wait, at most `per_source` of each source."""

    def __init__(self, at_once: int, *, waiting: int, per_source: int) -> None:
        self.turns = asyncio.Semaphore(at_once)
        self.limit, self.per_source = waiting, per_source
        self.waiting: Counter[str] = Counter()
        self.users = 0

    @asynccontextmanager
    async def turn(
        self, source: str, wait_secs: float
    ) -> AsyncIterator[Callable[[], None]]:
        """Wait for a turn and have it, or until what is yielded is called, to end it
        sooner. Raises: Overcrowded."""
        if self.turns.locked():
            if self.waiting[source] >= self.per_source:
                raise Overcrowded(429, 5, TOO_MANY)
            if self.waiting.total() >= self.limit:
                raise Overcrowded(503, 5, TOO_MANY)
        self.waiting[source] += 1
        try:
            async with asyncio.timeout(wait_secs):
                await self.turns.acquire()
        except TimeoutError:
            raise Overcrowded(503, 5, TOO_MANY) from None
        finally:
            self.waiting[source] -= 1
            if not self.waiting[source]:
                del self.waiting[source]
        is_over = False

        def end() -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                self.turns.release()

        try:
            yield end
        finally:
            end()


class Gate:
    """Lets a request through when it is its turn."""

    def __init__(
        self,
        application: AsgiApplication,
        *,
        anonymous: int = ANONYMOUS_AT_ONCE,
        newcomers: int = NEWCOMERS_AT_ONCE,
        per_caller: int = PER_CALLER_AT_ONCE,
        per_token: int = PER_TOKEN_AT_ONCE,
        wait_secs: float = WAIT_SECS,
    ) -> None:
        self.application = application
        self.anonymous = Lane(
            anonymous, waiting=WAITING_OF_A_LANE, per_source=WAITING_PER_SOURCE
        )
        # From one address, many people may come whom this process does not know yet.
        self.newcomers = Lane(
            newcomers, waiting=WAITING_OF_A_LANE, per_source=WAITING_OF_A_LANE
        )
        self.per_caller, self.per_token = per_caller, per_token
        self.wait_secs = wait_secs
        self.callers: dict[str, Lane] = {}
        self.limits = (
            # Programs that wait for a person ask every five seconds.
            (
                "/identity/",
                AddressLimit(settings.CONDUCTOR_IDENTITY_REQUESTS_PER_MINUTE),
            ),
            (
                "/accounts/",
                AddressLimit(settings.CONDUCTOR_ACCOUNT_REQUESTS_PER_MINUTE),
            ),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        credential = credential_of(scope)
        if path.startswith(FREE_PREFIXES) or (not credential and is_api_path(path)):
            await self.application(scope, receive, send)
            return
        try:
            source = source_of((scope.get("client") or ("", 0))[0])
            self._limit(scope, source)
            async with self._turn(credential, source, is_api_path(path)):
                await self.application(scope, receive, send)
        except Overcrowded as exc:
            await _answer(exc, path, send)

    def _limit(self, scope: Scope, source: str) -> None:
        if scope["method"] != "POST":
            return
        for prefix, limit in self.limits:
            if scope["path"].startswith(prefix) and (wait := limit.count(source)):
                raise Overcrowded(429, wait, TOO_OFTEN)

    @asynccontextmanager
    async def _turn(
        self, credential: str, source: str, is_api: bool
    ) -> AsyncIterator[None]:
        if not credential or not acquainted.is_known(credential):
            lane = self.newcomers if credential else self.anonymous
            loop = asyncio.get_running_loop()
            async with lane.turn(source, self.wait_secs) as end:
                # Once they are found to be good, newcomers stand in nobody's way: what
                # follows may wait long for an executor.
                with acquainted.awaited(
                    credential, lambda: loop.call_soon_threadsafe(end)
                ):
                    yield
            return
        own = self.callers.get(credential)
        if own is None:
            own = self.callers[credential] = Lane(
                self.per_token if is_api else self.per_caller,
                waiting=WAITING_PER_CALLER,
                per_source=WAITING_PER_CALLER,
            )
        own.users += 1
        try:
            async with own.turn(source, self.wait_secs):
                yield
        finally:
            own.users -= 1
            if not own.users:
                del self.callers[credential]


def credential_of(scope: Scope) -> str:
    """Return the fingerprint of a request's token, or session; empty without either."""
    headers = scope.get("headers") or ()
    texts = {name.lower(): value.decode("latin1") for name, value in headers}
    if is_api_path(scope["path"]):
        scheme, _, token = texts.get(b"authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        return acquainted.fingerprint(token) if token else ""
    try:
        cookies = SimpleCookie(texts.get(b"cookie", ""))
    except CookieError:
        return ""
    session = cookies.get(settings.SESSION_COOKIE_NAME)
    return acquainted.fingerprint(session.value) if session and session.value else ""


async def _answer(refused: Overcrowded, path: str, send: Send) -> None:
    content_type, body = refusal(refused.status, path, refused.detail)
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(refused.retry_after_secs).encode()),
    ]
    await send(
        {"type": "http.response.start", "status": refused.status, "headers": headers}
    )
    await send({"type": "http.response.body", "body": body})


class AcquaintanceMiddleware:
    """Notes the sessions of people who are found to be signed in."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        session = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        fingerprint = acquainted.fingerprint(session) if session else ""
        # Only newcomers are looked up here, which Django remembers for the page.
        if fingerprint and not acquainted.is_known(fingerprint):
            # The page itself says so where the database is away.
            with contextlib.suppress(DatabaseError, InterfaceError):
                if request.user.is_authenticated:
                    acquainted.note(fingerprint)
        return self.get_response(request)
