"""The hop between processes: a request to the process that holds the socket.

In one process (embedded) it is a function call. In services mode it is raw Redis
pub/sub: `PUBLISH` tells how many received it, so an owner that is gone fails at once
instead of by timeout. Bodies are relayed unread; one larger than `INLINE_BYTES` goes
through a Redis list in pieces, because pub/sub cuts a subscriber off that lags by
32 MB. Source: docs/adr/0001.

A message is one line of JSON (the header), a newline, and the body.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Collection, Coroutine
from typing import Any, cast

import redis.asyncio as redis
from django.conf import settings
from redis.exceptions import RedisError

from apps import errors
from apps.executors import sockets
from apps.executors.sockets import Key, Lost, NotSent, TimedOut

logger = logging.getLogger(__name__)

INLINE_BYTES = 256 * 1024
PIECE_BYTES = 1024 * 1024
PIECES_LIVE_SECS = 120
# An answer travels back after the owner's own time limit; this is its travel time.
GRACE_SECS = 2.0
CONNECT_SECS = 3.0
# Where all server processes listen.
EVERYONE = "everyone"

# JSON writes a character of two bytes in six.
ESCAPED = 3


class TooLong(errors.ProtocolError):
    """A message has more bytes than one process takes from another."""

    def __init__(self) -> None:
        super().__init__(
            "The message is too long to be passed between Conductor's processes. "
            "CONDUCTOR_MAX_MESSAGE_BYTES must be the same for all of them."
        )


_OUTCOMES: dict[str, type[Exception]] = {
    "not_sent": NotSent,
    "lost": Lost,
    "timed_out": TimedOut,
    "too_long": TooLong,
}
_NAMES = {kind: name for name, kind in _OUTCOMES.items()}


def most_bytes() -> int:
    """Return how long a message may be: an answer is what a websocket took, a question
    the body of a request."""
    return INLINE_BYTES + max(
        settings.CONDUCTOR_MAX_MESSAGE_BYTES,
        ESCAPED * settings.CONDUCTOR_MAX_BODY_BYTES,
    )


def is_local() -> bool:
    """Whether this process holds every socket there is (embedded mode)."""
    return bool(settings.CONDUCTOR_EMBEDDED)


class Bus:
    """One process' end. `address` names it; a server process uses its instance id."""

    def __init__(self, address: str, *, has_sockets: bool) -> None:
        self.address = address
        self._channels = [f"conductor:to:{address}"]
        if has_sockets:
            self._channels.append(f"conductor:to:{EVERYONE}")
        self._redis: redis.Redis | None = None
        self._listener: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._answers: dict[str, asyncio.Future[str]] = {}
        self._roll_calls: dict[str, asyncio.Queue[tuple[str, set[Key]]]] = {}
        # asyncio keeps only weak references to tasks.
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        if is_local():
            return
        self._redis = redis.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_SECS,
            socket_keepalive=True,
            max_connections=64,
        )
        self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self._redis is not None:
            await self._redis.aclose()

    async def ask(
        self,
        *,
        instance_id: str,
        connection_id: str,
        request_id: str,
        text: str,
        timeout_s: float,
    ) -> str:
        """Ask over a socket, wherever it is.

        Raises: NotSent, Lost, TimedOut, TooLong.
        """
        if connection_id in sockets.open_sockets or self._redis is None:
            return await sockets.ask(
                connection_id, text, request_id=request_id, timeout_s=timeout_s
            )
        header = {
            "connection_id": connection_id,
            "request_id": request_id,
            "timeout_s": timeout_s,
            "reply_to": self.address,
        }
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            async with asyncio.timeout(timeout_s + GRACE_SECS):
                try:
                    await asyncio.wait_for(self._listening.wait(), CONNECT_SECS)
                    received = await self._publish(instance_id, header, text)
                except (RedisError, OSError, TimeoutError) as exc:
                    raise NotSent from exc
                if not received:
                    raise NotSent
                return await answer
        except TimeoutError:
            raise TimedOut from None
        finally:
            self._answers.pop(request_id, None)

    async def call_roll(
        self, keys: Collection[Key], *, timeout_s: float
    ) -> dict[str, set[Key]]:
        """Ask every server process which of these executors are connected to it.

        Return, by its address, the answer of each that gave one in time.
        """
        request_id = str(uuid.uuid4())
        header = {"roll_call": request_id, "reply_to": self.address}
        queue: asyncio.Queue[tuple[str, set[Key]]] = asyncio.Queue()
        self._roll_calls[request_id] = queue
        answers: dict[str, set[Key]] = {}
        try:
            async with asyncio.timeout(timeout_s):
                await self._listening.wait()
                received = await self._publish(
                    EVERYONE, header, json.dumps(sorted(keys)), whole=True
                )
                while len(answers) < received:
                    address, present = await queue.get()
                    answers[address] = present
        except (RedisError, OSError, TimeoutError) as exc:
            logger.info("roll call is incomplete", extra={"error": str(exc)})
        finally:
            del self._roll_calls[request_id]
        return answers

    async def any_listens(self, addresses: Collection[str]) -> bool:
        """Return whether one of these processes still has its connection to Redis.

        The kernel closes the connection of a process that was killed, at once; that of
        a process that is only frozen stays open. Where Redis does not say, one may.
        """
        if not addresses:
            return False
        assert self._redis is not None
        channels = [f"conductor:to:{address}" for address in addresses]
        try:
            counts = await self._redis.pubsub_numsub(*channels)
        except (RedisError, OSError):
            return True
        return any(count for _, count in counts)

    async def _answer_roll_call(self, header: dict[str, Any], body: bytes) -> None:
        asked = json.loads(await self._collect(header, body))
        present = sockets.connected({(key[0], key[1]) for key in asked})
        reply = {"present": header["roll_call"], "from": self.address}
        try:
            await self._publish(header["reply_to"], reply, json.dumps(sorted(present)))
        except (RedisError, OSError) as exc:
            logger.warning("bus could not answer", extra={"error": str(exc)})

    async def _note_present(self, header: dict[str, Any], body: bytes) -> None:
        queue = self._roll_calls.get(header["present"])
        if queue is not None:
            present = json.loads(await self._collect(header, body))
            queue.put_nowait((header["from"], {(key[0], key[1]) for key in present}))

    @property
    def is_listening(self) -> bool:
        return is_local() or self._listening.is_set()

    async def _publish(
        self, to: str, header: dict[str, Any], body: str, *, whole: bool = False
    ) -> int:
        """Send to an address; return how many received it. `whole`: not in pieces,
        which only one receiver could collect."""
        assert self._redis is not None
        data = body.encode()
        if len(data) > INLINE_BYTES and not whole:
            key = f"conductor:body:{uuid.uuid4()}"
            for start in range(0, len(data), PIECE_BYTES):
                await self._redis.rpush(key, data[start : start + PIECE_BYTES])
                await self._redis.expire(key, PIECES_LIVE_SECS)
            header, data = {**header, "body_key": key}, b""
        message = json.dumps(header).encode() + b"\n" + data
        received: int = await self._redis.publish(f"conductor:to:{to}", message)
        if not received:
            await self._drop(header)
        return received

    async def _drop(self, header: dict[str, Any]) -> None:
        """Free the pieces of a message that nobody reads; they expire in any case."""
        if "body_key" not in header:
            return
        assert self._redis is not None
        try:
            await self._redis.delete(header["body_key"])
        except (RedisError, OSError) as exc:
            logger.warning("bus could not free a body", extra={"error": str(exc)})

    async def _collect(self, header: dict[str, Any], data: bytes) -> str:
        """Return the body of a message. Raises: TooLong."""
        key = header.get("body_key")
        if key is None:
            return data.decode()
        assert self._redis is not None
        pieces: list[bytes] = []
        left = most_bytes()
        while (piece := await self._redis.lpop(key)) is not None:
            pieces.append(cast("bytes", piece))
            left -= len(piece)
            if left < 0:
                await self._drop(header)
                raise TooLong
        return b"".join(pieces).decode()

    async def _listen(self) -> None:
        """Receive until cancelled; subscribe anew whenever the connection breaks."""
        assert self._redis is not None
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(*self._channels)
                    async for message in pubsub.listen():
                        if message["type"] == "subscribe":
                            self._listening.set()
                        elif message["type"] == "message":
                            self._received_safely(message["data"])
            except (RedisError, OSError) as exc:
                logger.warning("bus lost Redis; retrying", extra={"error": str(exc)})
            self._listening.clear()
            await asyncio.sleep(0.5)

    def _received_safely(self, data: bytes) -> None:
        """One message that is not ours must not end the listening."""
        try:
            self._received(data)
        except (KeyError, TypeError, ValueError):
            logger.exception("bus message not understood")

    def _received(self, data: bytes) -> None:
        head, _, body = data.partition(b"\n")
        try:
            header = json.loads(head)
        except ValueError:
            logger.warning("bus message without a header")
            return
        if "roll_call" in header:
            self._spawn(self._answer_roll_call(header, body))
        elif "present" in header:
            self._spawn(self._note_present(header, body))
        elif "outcome" in header:
            self._received_answer(header, body)
        else:
            self._spawn(self._serve(header, body))

    def _received_answer(self, header: dict[str, Any], body: bytes) -> None:
        answer = self._answers.get(header["request_id"])
        if answer is None or answer.done():
            self._spawn(self._drop(header))
            return
        if header["outcome"] != "ok":
            answer.set_exception(_OUTCOMES[header["outcome"]]())
        elif "body_key" in header:
            self._spawn(self._resolve(answer, header, body))
        else:
            answer.set_result(body.decode())

    async def _resolve(
        self, answer: asyncio.Future[str], header: dict[str, Any], body: bytes
    ) -> None:
        try:
            text = await self._collect(header, body)
        except (TooLong, RedisError, OSError) as exc:
            if not answer.done():
                answer.set_exception(exc if isinstance(exc, TooLong) else Lost())
            return
        if not answer.done():
            answer.set_result(text)

    async def _serve(self, header: dict[str, Any], body: bytes) -> None:
        """Another process asks over one of our sockets."""
        reply = {"request_id": header["request_id"], "outcome": "ok"}
        text = ""
        try:
            text = await sockets.ask(
                header["connection_id"],
                await self._collect(header, body),
                request_id=header["request_id"],
                timeout_s=float(header["timeout_s"]),
            )
        except (NotSent, Lost, TimedOut, TooLong) as exc:
            reply["outcome"] = _NAMES[type(exc)]
        try:
            await self._publish(header["reply_to"], reply, text)
        except (RedisError, OSError) as exc:
            logger.warning("bus could not answer", extra={"error": str(exc)})

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_bus: Bus | None = None
_bus_loop: asyncio.AbstractEventLoop | None = None


async def current() -> Bus:
    """Return this process' bus, starting it where only asking is needed (a worker)."""
    global _bus, _bus_loop
    loop = asyncio.get_running_loop()
    if _bus is None or _bus_loop is not loop:
        _bus, _bus_loop = Bus(str(uuid.uuid4()), has_sockets=False), loop
        await _bus.start()
    return _bus


async def open_as(address: str) -> Bus:
    """Open this process' bus under an instance's address (a server process)."""
    global _bus, _bus_loop
    _bus = Bus(address, has_sockets=True)
    _bus_loop = asyncio.get_running_loop()
    await _bus.start()
    return _bus


def is_listening() -> bool:
    """Whether other processes reach this one."""
    return _bus is not None and _bus.is_listening


async def close() -> None:
    global _bus, _bus_loop
    if _bus is not None:
        await _bus.stop()
    _bus = _bus_loop = None
