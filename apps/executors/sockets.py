"""The open executor sockets of this server process, and asking over one of them.

Everything here runs on the server's event loop; nothing here touches a database.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.executors.protocol import codec

if TYPE_CHECKING:
    from apps.executors.presence import Registration

logger = logging.getLogger(__name__)

# Python and Go serve one request at a time and stop reading pongs when a backlog
# builds up (protocol reference 1.7, 1.8), so few are sent before the first answer.
IN_FLIGHT_LIMIT = 4
QUEUE_LIMIT = 256

# An executor: its application's id, and the id it reports.
Key = tuple[int, str]


class NotSent(Exception):
    """The request never left us: the socket is gone, or its queue is full."""


class Lost(Exception):
    """The request was sent, and the connection ended before the answer."""


class TimedOut(Exception):
    """The request was sent, or waited for its turn, until its time was up."""


@dataclass(eq=False, slots=True)
class Socket:
    """One accepted connection of an executor."""

    connection_id: str
    application_id: int
    api_key_id: int | None
    send: Callable[[str], Awaitable[None]]
    close: Callable[[int, str], Awaitable[None]]
    registration: Registration | None = None
    is_open: bool = True
    # Its executor has a newer connection; see presence.Drift.
    is_outdated: bool = False
    _pending: dict[str, asyncio.Future[str]] = field(default_factory=dict)
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    async def ask(self, text: str, *, request_id: str, timeout_s: float) -> str:
        """Send one request and return the raw reply text.

        Raises: NotSent, Lost, TimedOut.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._take_turn()
                reply = asyncio.get_running_loop().create_future()
                self._pending[request_id] = reply
                try:
                    await self._send(text)
                    answer: str = await reply
                    return answer
                finally:
                    self._pending.pop(request_id, None)
                    self._wake_next()
                    # The traceback of its error holds this frame.
                    del reply
        except TimeoutError:
            raise TimedOut from None

    async def _send(self, text: str) -> None:
        try:
            await self.send(text)
        except OSError as exc:
            # It closed, and we are still to hear of it: ASGI has servers say it so.
            raise NotSent from exc

    async def _take_turn(self) -> None:
        if not self.is_open:
            raise NotSent
        if len(self._pending) < IN_FLIGHT_LIMIT and not self._waiting:
            return
        if len(self._waiting) >= QUEUE_LIMIT:
            raise NotSent
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled():
                self._wake_next()
            raise
        if not self.is_open:
            raise NotSent

    def _wake_next(self) -> None:
        while self._waiting and len(self._pending) < IN_FLIGHT_LIMIT:
            turn = self._waiting.pop(0)
            if not turn.done():
                turn.set_result(None)
                return

    def deliver(self, text: str) -> None:
        """Hand a frame of the executor to whoever asked; drop what nobody asked for."""
        request_id = codec.peek_request_id(text) if self._pending else None
        if request_id is None and len(self._pending) == 1:
            # Its id stands elsewhere, and there is only one that it can be for.
            (request_id,) = self._pending
        reply = self._pending.pop(request_id, None) if request_id else None
        if reply is None or reply.done():
            logger.debug("reply nobody waits for", extra={"bytes": len(text)})
            return
        reply.set_result(text)

    def closed(self) -> None:
        self.is_open = False
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(Lost())
                # Whoever asked may have given up already; that is no error.
                reply.exception()
        self._pending.clear()
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()


open_sockets: dict[str, Socket] = {}


def connected(keys: Collection[Key]) -> set[Key]:
    """Return which of these executors have a socket open here. From any thread."""
    wanted = set(keys)
    return {
        socket.registration.key
        for socket in list(open_sockets.values())
        if socket.registration is not None and socket.registration.key in wanted
    }


async def ask(
    connection_id: str, text: str, *, request_id: str, timeout_s: float
) -> str:
    """Ask over one of this process' sockets. Raises: NotSent, Lost, TimedOut."""
    socket = open_sockets.get(connection_id)
    if socket is None:
        raise NotSent
    return await socket.ask(text, request_id=request_id, timeout_s=timeout_s)
