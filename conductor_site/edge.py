"""What stands before everything else, whichever ASGI server runs the application: whose
address a connection has, how much a request may carry, and in which form who asks is
refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string

from apps.api import PROBLEM_TYPE, problem

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApplication = Callable[[Any, Any, Any], Awaitable[None]]

# The first segments of all paths whose clients are programs. Whatever goes wrong below
# them, with or without an operation, is told as a problem and never as a page.
API_ROOTS = frozenset({"api", "conductor", "mcp", "schemas", "v1", "v1alpha1", "v2"})
UNASKED_MESSAGE_BYTES = 64 * 1024
PAGE_MESSAGE_BYTES = 1024
API_PATHS = frozenset({"openapi.json", "openapi.yaml", "openapi-3.0.json"})


def is_api_path(path: str) -> bool:
    """Whether a path, or the target of a request, is of the HTTP API."""
    root, _, rest = path.partition("?")[0].removeprefix("/").partition("/")
    return root in API_ROOTS or (root in API_PATHS and not rest)


def is_executor_path(path: str) -> bool:
    """Whether a path is one that executors connect to: see apps.executors.routing."""
    segments = path.removesuffix("/").split("/")
    return len(segments) > 3 and segments[-3] == "websocket"


def refusal(status: int, path: str, detail: str) -> tuple[str, bytes]:
    """Return the content type and the body of what is refused before Django sees it."""
    if is_api_path(path):
        return PROBLEM_TYPE, problem(status, detail).content
    context = {"title": HTTPStatus(status).phrase, "detail": detail}
    page = render_to_string("refused.html", context)
    return "text/html; charset=utf-8", page.encode()


def message_limit(largest: int) -> Callable[[str, int, int], int]:
    """Return what decides how large the next message of a websocket may be.

    Executors answer: the first answer says who they are, later ones may be large; what
    nobody asked for is small. Pages send nothing.
    """

    def limit(path: str, received: int, asked: int) -> int:
        if not is_executor_path(path):
            return PAGE_MESSAGE_BYTES
        return largest if received and asked else min(UNASKED_MESSAGE_BYTES, largest)

    return limit


def too_large(limit: int) -> str:
    return f"A request carries at most {filesizeformat(limit)}."


class TrustedProxies:
    """Sets `scope["client"]` to the address that the outermost trusted proxy saw.

    Every proxy appends the address it was called from to X-Forwarded-For, so with `n`
    of them the n-th entry from the right is true, and what stands left of it is the
    client's own claim. Without trusted proxies the header is that as a whole.
    """

    def __init__(self, application: AsgiApplication, count: int) -> None:
        self.application = application
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.count and scope["type"] in ("http", "websocket"):
            address = forwarded_address(scope.get("headers") or (), self.count)
            if address is not None:
                # Its port is unknown; 0 is what the ASGI servers put there.
                scope = {**scope, "client": [address, 0]}
        await self.application(scope, receive, send)


def forwarded_address(headers: Any, count: int) -> str | None:
    """The client's address by `count` trusted proxies; None where they did not say."""
    values = [value for name, value in headers if name.lower() == b"x-forwarded-for"]
    entries = b",".join(values).decode("latin1").split(",")
    if len(entries) < count:
        return None
    return _address(entries[-count].strip())


def _address(text: str) -> str | None:
    """The address in `1.2.3.4`, `1.2.3.4:5`, `::1` or `[::1]:5`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


class _TooLarge(Exception):
    pass


class BodyLimit:
    """Answers 413 to a request that carries more than `limit` bytes. Django would first
    read it whole."""

    def __init__(self, application: AsgiApplication, limit: int) -> None:
        self.application = application
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body") or b"")
            if received > self.limit:
                raise _TooLarge
            return message

        try:
            if _declared_length(scope) > self.limit:
                raise _TooLarge
            await self.application(scope, counted, send)
        except _TooLarge:
            content_type, body = refusal(413, scope["path"], too_large(self.limit))
            headers = [
                (b"content-type", content_type.encode()),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            await send(
                {"type": "http.response.start", "status": 413, "headers": headers}
            )
            await send({"type": "http.response.body", "body": body})


def _declared_length(scope: Scope) -> int:
    for name, value in scope.get("headers") or ():
        if name.lower() == b"content-length":
            # A server that passes another text on counts for itself.
            return int(value) if value.isdigit() and len(value) < 20 else 0
    return 0
