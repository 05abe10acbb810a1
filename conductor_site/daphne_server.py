"""Daphne with what thousands of executors need and stock Daphne lacks.

Refusals with status and body, a deep listen backlog, keys out of every log, liveness by
any traffic, and an end within seconds. Daphne and its base classes carry no types, so
this module is where untyped calls are kept.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

# Daphne installs Twisted's asyncio reactor, before any other import of Twisted.
from daphne.server import Server as DaphneServer  # isort: skip
from autobahn.exception import Disconnected
from autobahn.twisted import websocket as autobahn_twisted
from autobahn.websocket import protocol as autobahn_protocol
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol
from twisted.internet import defer, error
from twisted.internet import reactor as installed_reactor
from twisted.logger import LogLevel, formatEvent, globalLogBeginner
from twisted.web import http

from conductor_site.logging import REDACTED, redact
from conductor_site.receiving import FREE_BYTES, Budget, Reservation

# autobahn composes, in colour, what it would say at debug level for every connection
# and frame, whether or not anybody listens: a third of what a handshake costs.
for _module in (autobahn_protocol, autobahn_twisted):
    for _name in {"pformat", "hltype", "hlval"} & vars(_module).keys():
        setattr(_module, _name, lambda _: "")

# Twisted does not know this one.
http.RESPONSES.setdefault(429, b"Too Many Requests")

# Its declared interfaces do not tell what the asyncio reactor can do.
reactor: Any = installed_reactor

logger = logging.getLogger(__name__)
access = logging.getLogger("conductor.access")

BACKLOG = 4096
# A vanished peer is noticed after PING_SECS + PONG_SECS + two rounds of the checker.
PING_SECS = 10.0
PONG_SECS = 10.0
CHECK_SECS = 1.0
# Executors send what they are asked for, and a ping now and then.
UNASKED_PER_CHECK = 100
# No SDK cuts its text into pieces as small as these.
FRAGMENT_BYTES = 1024
PIECE_BYTES = 4096
# A connection that waits for room is not read, and SDKs wait 15 s for a pong.
WAIT_SECS = 10.0
# Who asked gave up after 25 s.
MESSAGE_SECS = 30.0
# Every SDK gives up its handshake after 5 to 10 s; a storm may need longer than one.
HANDSHAKE_SECS = 20.0
HTTP_SECS = 120.0
MAX_BODY_BYTES = 10 * 2**20
DISCARD_BYTES = 2**20
# Frames of the websocket protocol: final frame and opcode, and the bit for a mask.
PING, PONG, MASKED = 0x89, 0x8A, 0x80
PING_FRAME = bytes((PING, 6)) + b"alive?"
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
TOO_BIG = 1009
NAME = "conductor"

_ABSOLUTE = re.compile(rb"https?://[^/?]*", re.IGNORECASE)
_SECRET_PATHS = re.compile(
    r"^(.*/(?:websocket/[^/]+|invitations|reset/key|confirm-email))/.+$", re.DOTALL
)


def redact_path(path: str, *, is_websocket: bool = False) -> str:
    """Return a path fit for a log: no query, no key, no invitation or reset secret.

    A websocket path ends in an executor's key even where the rest of it is wrong.
    """
    path = path.partition("?")[0]
    path, found = _SECRET_PATHS.subn(rf"\1/{REDACTED}", path)
    if is_websocket and not found:
        path = path.rpartition("/")[0] + f"/{REDACTED}"
    return redact(path)


class Repeats:
    """Lets the first of equal lines through, then one a minute that tells how many.

    An executor that is refused comes back every second for ever.
    """

    SECS = 60.0
    LIMIT = 1_000

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}

    def count(self, line: str) -> int:
        """Return how many lines this one stands for; 0 if it is not to be logged."""
        now = time.monotonic()
        since, held_back = self._seen.get(line, (-math.inf, 0))
        if now - since < self.SECS:
            self._seen[line] = (since, held_back + 1)
            return 0
        if len(self._seen) >= self.LIMIT:
            self._seen.clear()
        self._seen[line] = (now, 0)
        return held_back + 1


_refusals = Repeats()
_dropped_messages = Repeats()


def _log_access(protocol: str, action: str, details: dict[str, Any]) -> None:
    is_websocket = protocol == "websocket"
    path = redact_path(details["path"], is_websocket=is_websocket)
    if is_websocket:
        # Ten thousand executors that reconnect are no news; one refused may be.
        client = details.get("client")
        if not action.startswith("refused"):
            access.debug("websocket %s %s from %s", action, path, client)
        elif times := _refusals.count(f"{action} {path}"):
            more = f", {times} times" if times > 1 else ""
            access.info("websocket %s %s from %s%s", action, path, client, more)
        return
    access.info(
        "%s %s %s %.0f ms",
        details["method"],
        path,
        details["status"],
        details["time_taken"] * 1000,
    )


def _problem(status: int, detail: str, **more: str) -> bytes:
    title = http.RESPONSES.get(status, b"Refused").decode()
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json.dumps(body | more).encode()


def _refusal(status: int, path: str, detail: str) -> tuple[str, bytes]:
    """Refuse alike on every path; see `conductor_site.edge` for what the site does."""
    return "application/problem+json", _problem(status, detail)


class ExecutorProtocol(WebSocketProtocol):  # type: ignore[misc]
    """One websocket. Adds denial responses, close reasons and liveness."""

    path: bytes = b""
    client_addr: list[Any] | None = None
    frame_data: list[bytes] | None
    message_data: list[bytes] | None
    _denial: dict[str, Any] | None = None
    _discards = False
    _heard_at = 0.0
    _pinged_at: float | None = None
    # Messages that came, messages sent that none came back for, and frames that came
    # without either since the last check.
    _received = 0
    _asked = 0
    _unasked = 0
    # Whose share the room of its messages is taken from.
    _owner: Hashable = None
    _room: Reservation | None = None
    _is_paused = False
    # Since when there has been no room for anything that came.
    _lacks_since: float | None = None
    _message_began = 0.0
    _drops_message = False

    # --- Refusing a handshake

    def handle_reply(self, message: dict[str, Any]) -> None:
        match message.get("type"):
            case "websocket.http.response.start":
                if not hasattr(self, "handshake_deferred"):
                    raise ValueError("The handshake is over; it cannot be denied")
                self._denial = {**message, "body": b""}
            case "websocket.http.response.body":
                if self._denial is None:
                    raise ValueError("Denial body without a denial start")
                self._denial["body"] += message.get("body", b"")
                if not message.get("more_body", False):
                    self._deny(self._denial)
            case "conductor.owner":
                self._owner = message["owner"]
            case "websocket.close" if self.state != self.STATE_CONNECTING:
                # Daphne drops the reason, and autobahn's public method refuses the
                # codes 1001-2999 that a server must be able to send.
                reason = (message.get("reason") or "").encode()[:120]
                self.say_goodbye(message.get("code") or 1000, reason)
            case _:
                try:
                    super().handle_reply(message)
                except Disconnected as exc:
                    # The name that ASGI gives to sending on a closed connection.
                    raise ConnectionResetError("The connection is closed") from exc

    def _deny(self, denial: dict[str, Any]) -> None:
        del self.handshake_deferred
        self._send_response(denial["status"], denial.get("headers", []), denial["body"])
        self.dropConnection(abort=False)
        self._reject(denial["status"])

    def serverReject(self) -> None:
        if not hasattr(self, "handshake_deferred"):
            return
        del self.handshake_deferred
        self.sendHttpErrorResponse(403, "Access denied")
        self.dropConnection(abort=False)
        self._reject(403)

    def handle_exception(self, exception: BaseException) -> None:
        if self.state == self.STATE_CONNECTING:
            if hasattr(self, "handshake_deferred"):
                del self.handshake_deferred
                self.sendHttpErrorResponse(500, "Internal server error")
            self.dropConnection(abort=False)
            self._reject(500)
        else:
            self.say_goodbye(1011, b"internal error")

    def _reject(self, status: int) -> None:
        self.server.protocol_disconnected(self)
        self.server.log_action(
            "websocket",
            f"refused with {status}",
            {"path": self.request.path, "client": _peer_name(self.client_addr)},
        )

    def sendHttpErrorResponse(
        self, code: int, reason: str, responseHeaders: Any = None
    ) -> None:
        # Old TypeScript SDKs end their process over a refusal that is not JSON.
        headers = [(b"content-type", b"application/problem+json")]
        for name, value in responseHeaders or []:
            headers.append((str(name).encode("latin1"), str(value).encode("latin1")))
        # They print `error`.
        self._send_response(code, headers, _problem(code, reason, error=reason))

    def _send_response(
        self, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        lines = [b"HTTP/1.1 %d %s" % (status, http.RESPONSES.get(status, b"Refused"))]
        own = {b"content-length", b"connection", b"transfer-encoding"}
        for name, value in headers:
            if b"\r" in name + value or b"\n" in name + value:
                raise ValueError("A header of the denial contains a line break")
            if name.lower() not in own:
                lines.append(name + b": " + value)
        lines += [
            b"server: " + NAME.encode(),
            b"content-length: %d" % len(body),
            b"connection: close",
        ]
        self.sendData(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    # --- An open socket

    def say_goodbye(self, code: int, reason: bytes) -> None:
        """Start the closing handshake; does nothing on a socket that is not open."""
        if self.state == self.STATE_OPEN:
            reason = reason.decode(errors="ignore").encode()
            self.sendCloseFrame(code=code, reasonUtf8=reason)

    def onOpen(self) -> None:
        self._heard_at = time.monotonic()
        super().onOpen()

    # --- Receiving a message

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)
        self._message_began = self._heard_at

    def onMessageFrameBegin(self, length: int) -> None:
        # Asked at the head of each frame, so that nothing over the limit is stored.
        limit = self.server.message_limit(
            self.path.decode("latin1"), self._received, self._asked
        )
        super().onMessageFrameBegin(length)
        if self._discards:
            return
        if self.message_data_total_length > limit:
            self._max_message_size_exceeded(self.message_data_total_length, limit, "")
        elif self.message_data_total_length > FREE_BYTES and not self._drops_message:
            self._reserve(self.message_data_total_length)
        if length < FRAGMENT_BYTES and not self.current_frame.fin:
            self._count_unasked()

    def onMessageFrameData(self, payload: bytes) -> None:
        if self._drops_message:
            return
        pieces = self.frame_data
        if pieces and len(pieces[-1]) < PIECE_BYTES:
            # However it dribbles, little is kept beside the bytes themselves.
            pieces[-1] += payload
        else:
            super().onMessageFrameData(payload)

    def onMessageEnd(self) -> None:
        super().onMessageEnd()
        self._drops_message = False
        self._free_room()

    def _reserve(self, size: int) -> None:
        """Read on only where there is room for so much of the message."""
        if self._room is None:
            self._room = Reservation(self._owner, self._go_on)
        is_whole = self.current_frame.fin
        if not self.server.budget.reserve(self._room, size, is_whole=is_whole):
            self._is_paused = True
            self._lacks_since = self._lacks_since or time.monotonic()
            self.transport.pauseProducing()

    def _go_on(self) -> None:
        self._lacks_since = None
        self._resume()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            # Who is not read cannot be heard.
            self._heard_at = time.monotonic()
            self.transport.resumeProducing()

    def _free_room(self) -> None:
        if self._room is not None:
            self.server.budget.release(self._room)
            self._room = None
        self._resume()

    def _drop_message(self) -> None:
        """Throw away what has come of a message, and what comes; its connection stays.

        Whoever asked for it has given up, and a link may be slow without ill will.
        """
        self._drops_message = True
        self.frame_data, self.message_data = [], []
        self._free_room()
        if times := _dropped_messages.count(f"{self._owner}"):
            logger.warning(
                "dropped an answer that took too long, or had no room for too long",
                extra={"peer": repr(self), "bytes": self.message_data_total_length}
                | {"times": times},
            )

    def _is_message_late(self, now: float) -> bool:
        if self._drops_message:
            return False
        lacks_since = self._lacks_since or now
        if self._is_paused and now - lacks_since > self.server.wait_secs:
            return True
        return bool(now - self._message_began > self.server.message_secs)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self._discards:
            return
        self._received += 1
        if self._asked:
            self._asked -= 1
        else:
            self._count_unasked()
        if not self._drops_message:
            self._lacks_since = None
            super().onMessage(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        # Whoever still refers to it, what it received is free at once.
        self._discard()
        super().onClose(wasClean, code, reason)

    def serverSend(self, content: Any, binary: bool = False) -> None:
        self._asked += 1
        super().serverSend(content, binary)

    def onPing(self, payload: bytes) -> None:
        self._count_unasked()
        super().onPing(payload)

    def _count_unasked(self) -> None:
        """Part with a peer that sends far more frames than anybody asked it for."""
        self._unasked += 1
        if self._unasked > UNASKED_PER_CHECK:
            logger.warning("too many frames: closing", extra={"peer": repr(self)})
            self._discard()
            self.say_goodbye(
                POLICY_VIOLATION, b"too many unasked messages or fragments"
            )

    def _discard(self) -> None:
        """Read on and throw away, so that the peer gets to see the close frame and not
        a reset."""
        self._discards = True
        # Of what has been read already, nothing is worth the time of parsing it.
        self.data = b""
        self.frame_data, self.message_data = [], []
        self._free_room()

    def dataReceived(self, data: bytes) -> None:
        # Any byte proves life: a peer in the middle of a long reply cannot pong.
        self._heard_at = time.monotonic()
        self._pinged_at = None
        if not self._discards and not self._is_handled_ping(data):
            super().dataReceived(data)

    def _is_handled_ping(self, data: bytes) -> bool:
        """Handle a ping or pong that comes alone, which is all that idle executors
        send, without the general parser: ten thousand of them cost half as much.

        Anything else, however little it differs, is left to autobahn.
        """
        if (
            not 6 <= len(data) <= 131
            or data[0] not in {PING, PONG}
            or data[1] != MASKED | (len(data) - 6)
            or self.state != self.STATE_OPEN
            or self.data
            or self.current_frame is not None
        ):
            return False
        if data[0] == PING:
            self._count_unasked()
            pong = bytes((PONG, len(data) - 6)) + _unmasked(data[2:6], data[6:])
            self.sendData(pong)
        return True

    def sendData(
        self, data: bytes, sync: bool = False, chopsize: int | None = None
    ) -> None:
        """Write at once where nothing else waits to be written: to wait for the next
        round of the event loop costs that time, and two calls of the system more."""
        transport = self.transport
        if (
            sync
            or chopsize
            or self.send_queue
            or transport.dataBuffer
            or transport._tempDataBuffer
            or not transport.connected
            or transport.disconnecting
        ):
            super().sendData(data, sync, chopsize)
            return
        written = transport.writeSomeData(data)
        if not isinstance(written, int):
            written = 0  # The connection is lost; the transport finds out by itself.
        if written < len(data):
            transport.write(data[written:])

    def check_timeouts(self) -> None:
        now = time.monotonic()
        self._unasked = 0
        if self.state == self.STATE_CONNECTING:
            if self.duration() > self.server.websocket_connect_timeout:
                self.serverReject()
        elif self.state == self.STATE_OPEN:
            if self.inside_message and self._is_message_late(now):
                self._drop_message()
            if self._is_paused:
                return
            if self._pinged_at is not None:
                if now - self._pinged_at >= self.server.ping_timeout:
                    self.dropConnection(abort=True)
            elif now - self._heard_at >= self.server.ping_interval:
                self._pinged_at = now
                self.sendData(PING_FRAME)

    def _max_message_size_exceeded(self, size: int, limit: int, reason: str) -> None:
        logger.warning(
            "message over the limit: closing its connection",
            extra={"size": size, "limit": limit, "client": self.client_addr},
        )
        self._discard()
        self.say_goodbye(TOO_BIG, b"message too big")

    def __repr__(self) -> str:
        path = redact_path(self.path.decode("latin1"), is_websocket=True)
        return f"<websocket client={self.client_addr!r} path={path!r}>"


class ExecutorFactory(WebSocketFactory):  # type: ignore[misc]
    """Makes `ExecutorProtocol`s."""

    protocol = ExecutorProtocol


class Pace:
    """Holds an application up while its client does not read: Twisted buffers without
    a limit. A push producer, in Twisted's words."""

    def __init__(self) -> None:
        self.may_go = asyncio.Event()
        self.may_go.set()

    def pauseProducing(self) -> None:
        self.may_go.clear()

    def resumeProducing(self) -> None:
        self.may_go.set()

    def stopProducing(self) -> None:
        self.may_go.set()


class Request(WebRequest):  # type: ignore[misc]
    """One HTTP request. Adds a limit to its body, which Twisted would store whole; to
    an answer in parts, a pace that the client sets, and an end that shows if it broke
    off; and a `repr` that may be logged."""

    uri: bytes
    _received = 0
    _refused = False
    # Of an answer in parts only.
    _pace: Pace | None = None
    _moved_at = 0.0

    def gotLength(self, length: int | None) -> None:
        self._refused = (length or 0) > self.server.max_body_bytes
        super().gotLength(None if self._refused else length)
        if self._refused:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        limit = self.server.max_body_bytes
        if not self._refused and self._received > limit:
            self._refused = True
            self._refuse()
        if not self._refused:
            super().handleContentChunk(data)
        elif self._received > 2 * limit + DISCARD_BYTES:
            self.channel.transport.abortConnection()

    def _refuse(self) -> None:
        """Answer at once. What the client still sends is thrown away for a while, so
        that it gets to read the answer and not a reset."""
        # The request itself learns what it is when it is complete.
        method = self.channel._command.decode("latin1")
        path = _without_authority(self.channel._path).decode("latin1")
        content_type, body = self.server.refusal(413, path, self.server.too_large)
        self.channel.transport.write(_last_response(413, content_type, body))
        access.info("%s %s 413", method, redact_path(path))

    def process(self) -> Any:
        if self._refused:
            self.channel.loseConnection()
            return None
        self.uri = _without_authority(self.uri)
        self.path = self.uri.partition(b"?")[0]
        return super().process()

    # --- An answer in parts

    def handle_reply(self, message: dict[str, Any]) -> None:
        self._moved_at = time.monotonic()
        if message.get("more_body") and self._pace is None and not self.finished:
            self._pace = Pace()
            self.registerProducer(self._pace, True)
        super().handle_reply(message)

    async def paced(self) -> None:
        """Wait until the client has read what is on its way."""
        if self._pace is not None:
            await self._pace.may_go.wait()

    def finish(self) -> None:
        if self._pace is not None:
            self.unregisterProducer()
        super().finish()

    def handle_exception(self, exception: BaseException) -> None:
        if self._response_started:
            self._break_off()
        else:
            super().handle_exception(exception)

    def check_timeouts(self) -> None:
        if self._pace is None:
            super().check_timeouts()
        elif time.monotonic() - self._moved_at > self.server.http_timeout:
            self._break_off(at_once=True)

    def _break_off(self, *, at_once: bool = False) -> None:
        """End the connection without the end of the answer, so that nobody takes what
        came for all there is."""
        if self.finished or self.channel is None:
            return
        access.info("broke off %s", redact_path(self.uri.decode("latin1")))
        if at_once:
            self.channel.transport.abortConnection()
            return
        if self._pace is not None:
            self.unregisterProducer()
        self.channel.loseConnection()

    def basic_error(self, status: int, status_text: bytes, body: str) -> None:
        # Daphne's own page is HTML for everybody, and names Daphne.
        path = self.uri.decode("latin1")
        content_type, content = self.server.refusal(status, path, body)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(content)).encode()),
        ]
        self.handle_reply(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        self.handle_reply({"type": "http.response.body", "body": content})

    def __repr__(self) -> str:
        uri = getattr(self, "uri", b"").decode("latin1")
        return f"<request client={self.client_addr!r} path={redact_path(uri)!r}>"


def _unmasked(mask: bytes, payload: bytes) -> bytes:
    """Return the payload of a client's frame of at most 125 bytes."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(
        size, "big"
    )


def _without_authority(target: bytes) -> bytes:
    """Return the path of a request's target, which to a proxy is a whole URL."""
    found = _ABSOLUTE.match(target)
    return b"/" + target[found.end() :].removeprefix(b"/") if found else target


def _last_response(status: int, content_type: str, body: bytes) -> bytes:
    """Return a response, written by hand, to what never became a request."""
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\nserver: %b\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%b"
    ) % (
        status,
        http.RESPONSES.get(status, b"Refused"),
        content_type.encode(),
        NAME.encode(),
        len(body),
        body,
    )


class Channel(http.HTTPChannel):  # type: ignore[misc]
    """One HTTP connection. Says what is wrong with what is no HTTP, which no browser
    sends: a problem on every path. A request that does not come to its end in time, and
    a connection too many of one address, are refused."""

    # When the request began that is not here whole, and whether its head is.
    _began = 0.0
    _has_head = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self._begin()
        if self.factory.server.is_crowded(self.address()):
            self._refuse("Too many unfinished requests come from your address.", 429)

    def dataReceived(self, data: bytes) -> None:
        if self not in self.factory.server.unfinished and not self._handlingRequest:
            self._begin()
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        self._has_head = True
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        self.factory.server.unfinished.remove(self)
        super().allContentReceived()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.server.unfinished.remove(self)
        super().connectionLost(reason)

    def address(self) -> str:
        """Return the address at the other end, which may be a proxy's."""
        return str(getattr(self.transport.getPeer(), "host", ""))

    def check_deadline(self, head_secs: float, body_secs: float) -> None:
        """Part with a client whose request takes too long, however steadily it comes:
        the time is of the whole, so that dribbling gains nothing."""
        limit = head_secs + body_secs if self._has_head else head_secs
        if time.monotonic() - self._began > limit:
            self.factory.server.unfinished.remove(self)
            self._refuse("The request did not come to its end in time.", 408)

    def _begin(self) -> None:
        self._began, self._has_head = time.monotonic(), False
        self.factory.server.unfinished.add(self, self.address())

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._refuse("This is no HTTP request.")

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse("The target, or a header, of the request is too long.")

    def _refuse(self, detail: str, status: int = 400) -> None:
        content_type, body = _refusal(status, "", detail)
        self.transport.write(_last_response(status, content_type, body))
        access.info("no HTTP request %s", status)
        self.loseConnection()


class RequestFactory(HTTPFactory):  # type: ignore[misc]
    """Makes `Channel`s, which make `Request`s."""

    protocol = Channel

    def buildProtocol(self, addr: Any) -> Any:
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = Request
        return protocol

    def log(self, request: Any) -> None:
        """Twisted's access log, which nobody reads; ours is `_log_access`."""


def _peer_name(address: list[Any] | None) -> str | None:
    return f"{address[0]}:{address[1]}" if address else None


def _forward_failures(event: dict[str, Any]) -> None:
    """Twisted's log, of which only failures matter, into ours."""
    if event.get("log_level") in {LogLevel.critical, LogLevel.error}:
        failure = event.get("log_failure")
        logger.error(
            "%s", formatEvent(event), extra={"failure": str(failure) if failure else ""}
        )


class Unfinished:
    """Connections whose request is not here whole, counted for each address."""

    def __init__(self) -> None:
        self.addresses: dict[Channel, str] = {}
        self.per_address: Counter[str] = Counter()

    def __contains__(self, channel: Channel) -> bool:
        return channel in self.addresses

    def add(self, channel: Channel, address: str) -> None:
        """Take a connection in that is not here."""
        self.addresses[channel] = address
        self.per_address[address] += 1

    def remove(self, channel: Channel) -> None:
        """Drop a connection, if it is here."""
        address = self.addresses.pop(channel, None)
        if address is not None:
            self.per_address[address] -= 1
            if not self.per_address[address]:
                del self.per_address[address]


class Server(DaphneServer):  # type: ignore[misc]
    """Daphne on a socket that is bound already. `run` returns when it has stopped."""

    def __init__(
        self,
        application: Any,
        *,
        listener: socket.socket,
        max_message_bytes: int,
        message_limit: Callable[[str, int, int], int] | None = None,
        budget: Budget,
        max_body_bytes: int = MAX_BODY_BYTES,
        refusal: Callable[[int, str, str], tuple[str, bytes]] = _refusal,
        too_large: str = "Too large",
        on_start: Callable[[asyncio.AbstractEventLoop], Awaitable[None]] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_stop: Callable[[], Awaitable[None]] | None = None,
        ping_secs: float = PING_SECS,
        pong_secs: float = PONG_SECS,
        http_secs: float = HTTP_SECS,
        head_secs: float,
        body_secs: float,
        max_unfinished: int,
        wait_secs: float = WAIT_SECS,
        message_secs: float = MESSAGE_SECS,
        drain_secs: float = 1.5,
        stop_secs: float = 4.5,
    ) -> None:
        super().__init__(
            application,
            endpoints=["bound already"],
            signal_handlers=False,
            action_logger=_log_access,
            http_timeout=http_secs,
            # Never end a connection for its age alone.
            websocket_timeout=-1,
            websocket_connect_timeout=HANDSHAKE_SECS,
            websocket_handshake_timeout=HANDSHAKE_SECS,
            websocket_max_message_size=max_message_bytes,
            websocket_max_frame_size=max_message_bytes,
            ping_interval=ping_secs,
            ping_timeout=pong_secs,
            application_close_timeout=10,
            server_name=NAME,
        )
        self.listener = listener
        # By a websocket's path, how many messages came over it, and how many that were
        # sent over it are not answered yet.
        self.message_limit = message_limit or (lambda *_: max_message_bytes)
        self.budget = budget
        self.max_body_bytes = max_body_bytes
        self.refusal = refusal
        self.too_large = too_large
        self.on_start = on_start
        self.on_ready = on_ready
        self.on_stop = on_stop
        # For all of a request's head, and then for all of its body.
        self.head_secs, self.body_secs = head_secs, body_secs
        self.wait_secs, self.message_secs = wait_secs, message_secs
        # Connections of one address whose requests are not here whole.
        self.max_unfinished = max_unfinished
        self.unfinished = Unfinished()
        self.drain_secs = drain_secs
        self.stop_secs = stop_secs
        self.exit_code = 0
        self.connections: dict[Any, dict[str, Any]] = {}
        self._port: Any = None
        self._stopping: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None

    # --- Running

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        self.http_factory = RequestFactory(self)
        self.ws_factory = ExecutorFactory(self, server=self.server_name)
        self.ws_factory.setProtocolOptions(
            autoPingInterval=0,
            autoPingTimeout=0,
            allowNullOrigin=True,
            openHandshakeTimeout=self.websocket_handshake_timeout,
            closeHandshakeTimeout=1,
            maxMessagePayloadSize=self.websocket_max_message_size,
            maxFramePayloadSize=self.websocket_max_frame_size,
        )
        observers: list[Any] = [_forward_failures]
        globalLogBeginner.beginLoggingTo(
            observers, redirectStandardIO=False, discardBuffer=True
        )
        loop = reactor._asyncioEventloop
        asyncio.set_event_loop(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        reactor.addSystemEventTrigger("before", "shutdown", self.kill_all_applications)
        reactor.callLater(1, self.application_checker)
        reactor.callLater(CHECK_SECS, self.timeout_checker)
        reactor.callWhenRunning(self._begin, loop)
        reactor.run(installSignalHandlers=False)
        return self.exit_code

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._starting = loop.create_task(self._start(loop))

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if self.on_start is not None:
                await self.on_start(loop)
            if self._stopping is None:
                self._listen()
                if self.on_ready is not None:
                    self.on_ready()
        except (OSError, error.CannotListenError) as exc:
            logger.critical("cannot listen: %s", exc)
            self.fail(1)
        except Exception:
            logger.critical("the start failed", exc_info=True)
            self.fail(1)

    def _listen(self) -> None:
        self.listener.setblocking(False)
        self.listener.listen(BACKLOG)
        self._port = reactor.adoptStreamPort(
            self.listener.fileno(), self.listener.family, self.http_factory
        )

    # --- Stopping

    def fail(self, code: int) -> None:
        """Stop because something broke. Call it on the server's own loop."""
        self.exit_code = self.exit_code or code
        self.stop()

    def stop(self) -> None:
        """Stop in good order. The second call, an impatient one, stops at once."""
        if self._stopping is None:
            loop = reactor._asyncioEventloop
            self._stopping = loop.create_task(self._stop_in_order())
            # A thread that waits for a hung peer must not hold the process up.
            watchdog = threading.Timer(self.stop_secs, self._exit_now)
            watchdog.daemon = True
            watchdog.start()
        elif reactor.running:
            self._stop_reactor()

    def _exit_now(self) -> None:
        logger.warning("still busy after %s s; exiting", self.stop_secs)
        logging.shutdown()
        os._exit(self.exit_code)

    async def _stop_in_order(self) -> None:
        # 1. No new connections: a Go SDK redials at once, and must be turned away.
        if self._port is not None:
            self._port.stopListening()
        self.listener.close()
        # 2. Tell every executor to go elsewhere.
        for protocol in list(self.connections):
            if isinstance(protocol, ExecutorProtocol):
                protocol.say_goodbye(GOING_AWAY, b"server is going away")
        # 3. Let what runs come to its end, for a moment.
        if running := self._applications():
            await asyncio.wait(running, timeout=self.drain_secs)
        try:
            if self.on_stop is not None:
                await self.on_stop()
        except Exception:
            logger.exception("stopping failed")
        self._stop_reactor()

    def _stop_reactor(self) -> None:
        try:
            reactor.stop()
        except error.ReactorNotRunning:
            logger.debug("stopping already")

    def _applications(self) -> list[asyncio.Future[Any]]:
        return [
            details["application_instance"]
            for details in self.connections.values()
            if "application_instance" in details
        ]

    def kill_all_applications(self) -> Any:
        """Cancel what is left. Stock Daphne fails here on a connection between two
        requests, which has no application."""
        running = [task for task in self._applications() if not task.done()]
        for task in running:
            task.cancel()
        if not running:
            return None
        finished = asyncio.ensure_future(asyncio.wait(running, timeout=1))
        return defer.Deferred.fromFuture(finished)

    # --- Connections

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] == "websocket":
            scope["extensions"] = {"websocket.http.response": {}, "conductor.owner": {}}
            scope.setdefault("scheme", "ws")
        return super().create_application(protocol, scope)

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        await super().handle_reply(protocol, message)
        if isinstance(protocol, Request):
            await protocol.paced()

    def is_crowded(self, address: str) -> bool:
        """Whether an address has too many connections with unfinished requests."""
        return self.unfinished.per_address[address] > self.max_unfinished > 0

    def timeout_checker(self) -> None:
        for channel in list(self.unfinished.addresses):
            channel.check_deadline(self.head_secs, self.body_secs)
        for protocol in list(self.connections):
            try:
                protocol.check_timeouts()
            except Exception:
                # One broken connection must not end the checks of all others.
                logger.exception("timeout check failed", extra={"peer": repr(protocol)})
        reactor.callLater(CHECK_SECS, self.timeout_checker)

    def application_checker(self) -> None:
        try:
            super().application_checker()
        except Exception:
            logger.exception("application check failed")
            reactor.callLater(1, self.application_checker)
