"""Sockets: of executors, and of pages that want a hint when something changed.

Thin: a frame goes in, a call goes out, nothing waits here.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import replace
from typing import Any

from channels.consumer import get_handler_name
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib.auth.models import User

from apps import errors
from apps.executors import (
    admission,
    fingerprint,
    live,
    open_pages,
    parsers,
    quotas,
    runtime,
)
from apps.executors.admission import Admitted, Refused
from apps.executors.presence import Registration
from apps.executors.protocol import codec
from apps.executors.protocol.messages import ExecutorInfo, Request
from apps.executors.sockets import Lost, NotSent, Socket, TimedOut
from apps.executors.untrusted import storable_json, storable_text
from apps.registry import auth, selectors
from apps.registry.middleware import ensure_local_user
from apps.registry.models import Permission

logger = logging.getLogger(__name__)

INTRODUCTION_SECS = 20.0
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013
_UNKNOWN_PEER = codec.Peer(None, None)


class _RefusingConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    # Executor sockets need no channel of their own: see docs/adr/0001.
    channel_layer_alias = "none"

    # Channels sends every message to a thread first, to tidy up that thread's database
    # connections. It is one thread for all sockets, so whoever keeps it busy would hold
    # up every executor's reply; and no consumer here leaves a connection in it.

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Call the handler of a message on the event loop."""
        await getattr(self, get_handler_name(message))(message)

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """Leave the groups and end, without visiting a thread."""
        for group in self.groups:
            await self.channel_layer.group_discard(group, self.channel_name)
        await self.disconnect(message["code"])
        raise StopConsumer

    async def refuse(self, refused: Refused) -> None:
        """Answer the handshake with an HTTP status and a problem body."""
        if "websocket.http.response" not in (self.scope.get("extensions") or {}):
            await self.close()
            return
        body = refused.body()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if refused.retry_after_secs:
            headers.append((b"retry-after", str(refused.retry_after_secs).encode()))
        await self.send_raw(
            "websocket.http.response.start", status=refused.status, headers=headers
        )
        await self.send_raw("websocket.http.response.body", body=body)

    async def send_raw(self, kind: str, **fields: Any) -> None:
        await self.base_send({"type": kind, **fields})


class ExecutorConsumer(_RefusingConsumer):
    """One executor process, from handshake to disconnect."""

    admitted: Admitted | None = None
    socket: Socket | None = None
    introduction: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        route = self.scope["url_route"]["kwargs"]
        remote_ip = (self.scope.get("client") or ("", 0))[0]
        try:
            verdict = await admission.admit(
                route["application_name"],
                route.get("secret", ""),
                remote_ip=remote_ip,
            )
        except Exception:
            logger.exception("admission failed")
            verdict = Refused(
                503, "Conductor cannot reach its database. Retrying helps."
            )
        if isinstance(verdict, Admitted) and (surplus := quotas.take(verdict)):
            verdict = admission.refuse_surplus(
                verdict, surplus, route["application_name"], remote_ip
            )
        if isinstance(verdict, Refused):
            await self.refuse(verdict)
            return
        self.admitted = verdict
        self.socket = Socket(
            connection_id=str(uuid.uuid4()),
            application_id=verdict.application_id,
            api_key_id=verdict.api_key_id,
            send=self._send_text,
            close=self._close,
        )
        await self._name_owner(verdict)
        await self.accept()
        self.introduction = runtime.spawn(self._introduce(self.socket, remote_ip))

    async def _name_owner(self, admitted: Admitted) -> None:
        """Say whose share of the server's budget its large messages are taken from."""
        if "conductor.owner" in (self.scope.get("extensions") or {}):
            await self.send_raw("conductor.owner", owner=admitted.organization_id)

    async def _introduce(self, socket: Socket, remote_ip: str) -> None:
        """Ask who is there, then register. The only source of the executor's id."""
        request_id = str(uuid.uuid4())
        request = ExecutorInfo()
        try:
            text = await socket.ask(
                codec.encode(request, request_id, _UNKNOWN_PEER),
                request_id=request_id,
                timeout_s=INTRODUCTION_SECS,
            )
            info = await self._parse(request, text)
        except errors.ProtocolError:
            await self._close(POLICY_VIOLATION, "executor_info was not readable")
            return
        except Exception:  # gone, silent, or sending failed: it will come again
            await self._close(TRY_AGAIN_LATER, "no answer to executor_info")
            return
        executor_id = info.executor_id or ""
        if not executor_id or storable_text(executor_id, 255) != executor_id:
            await self._close(POLICY_VIOLATION, "executor_info without executor_id")
            return
        registration = Registration(
            connection_id=socket.connection_id,
            application_id=socket.application_id,
            executor_id=executor_id,
            application_version=storable_text(info.application_version, 255),
            hostname=storable_text(info.hostname, 255),
            language=storable_text(info.language, 32),
            dbos_version=storable_text(info.dbos_version, 64),
            metadata=storable_json(info.executor_metadata or {}),
            api_key_id=socket.api_key_id,
            remote_ip=remote_ip,
        )
        peer = codec.Peer(
            registration.language or None, registration.dbos_version or None
        )
        marks = await self._ask_for_marks(socket, peer)
        runtime.register(socket, replace(registration, marks=marks))
        if not marks:
            await self._ask_for_marks_later(socket, peer)

    async def _parse(self, request: Request, text: str) -> Any:
        assert self.admitted is not None
        return await parsers.parse(
            request,
            text,
            application_id=self.admitted.application_id,
            organization_id=self.admitted.organization_id,
        )

    async def _ask_for_marks(self, socket: Socket, peer: codec.Peer) -> tuple[str, ...]:
        """Ask which system database it works on. No answer keeps nobody out."""
        request_id = str(uuid.uuid4())
        asked = fingerprint.question(peer)
        try:
            text = await socket.ask(
                codec.encode(asked, request_id, peer),
                request_id=request_id,
                timeout_s=fingerprint.TIMEOUT_S,
            )
            if len(text) > fingerprint.ANSWER_CHARS:
                return ()
            return fingerprint.read_marks(asked, await self._parse(asked, text))
        except (errors.ConductorError, NotSent, Lost, TimedOut):
            return ()

    async def _ask_for_marks_later(self, socket: Socket, peer: codec.Peer) -> None:
        """Ask again now and then: its database was stalled, or is still empty."""
        wait_s = fingerprint.ASK_AGAIN_FIRST_S
        while socket.is_open:
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, fingerprint.ASK_AGAIN_LAST_S)
            marks = await self._ask_for_marks(socket, peer)
            known = socket.registration
            if (
                marks
                and known is not None
                and socket.is_open
                and not socket.is_outdated
            ):
                runtime.register(socket, replace(known, marks=marks))
                return

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if self.socket is not None and text_data is not None:
            self.socket.deliver(text_data)
        # No SDK sends binary frames; one that comes is dropped, not answered.

    async def disconnect(self, code: int) -> None:
        if self.admitted is not None:
            quotas.give_back(self.admitted)
        if self.introduction is not None:
            self.introduction.cancel()
            # The traceback of its error holds this consumer, and so would hold itself.
            self.introduction = None
        if self.socket is not None:
            self.socket.closed()
            runtime.unregister(self.socket)

    async def _send_text(self, text: str) -> None:
        await self.send(text_data=text)

    async def _close(self, code: int, reason: str) -> None:
        try:
            await self.close(code=code, reason=reason)
        except Exception:  # closing what is closed already differs between servers
            logger.debug("socket was closed already")


class LiveConsumer(_RefusingConsumer):
    """An open page of one application. It is told that something changed, not what."""

    channel_layer_alias = "default"
    open_sockets = open_pages.OpenPages(
        per_person=settings.CONDUCTOR_MAX_OPEN_PAGES_PER_PERSON,
        # Many people may come by one proxy, or from one office.
        per_address=settings.CONDUCTOR_MAX_OPEN_PAGES_PER_ADDRESS,
    )

    async def connect(self) -> None:
        address = (self.scope.get("client") or ("", 0))[0]
        person = str(getattr(self.scope.get("user"), "pk", None) or "")
        if not self.open_sockets.take(self, person, address):
            await self.refuse(Refused(429, "Too many open pages.", retry_after_secs=10))
            return
        if not await self._join():
            self.open_sockets.drop(self)

    async def _join(self) -> bool:
        try:
            group = live.group_of(await self._application_id())
        except errors.NotSignedIn:
            await self.refuse(Refused(401, "Sign in first."))
        except errors.NotFound as exc:
            await self.refuse(Refused(404, exc.message))
        except errors.Forbidden as exc:
            await self.refuse(Refused(403, exc.message))
        else:
            await self.channel_layer.group_add(group, self.channel_name)
            self.groups = [group]  # left again by Channels, at the disconnect
            await self.accept()
            return True
        return False

    async def disconnect(self, code: int) -> None:
        self.open_sockets.drop(self)

    async def application_changed(self, event: dict[str, Any]) -> None:
        try:
            await self._application_id()
        except errors.ConductorError:
            await self.close(code=POLICY_VIOLATION)
        else:
            await self.send(text_data="application-changed")

    @database_sync_to_async  # type: ignore[untyped-decorator]
    def _application_id(self) -> int:
        """Decide anew each time: a member may be gone since the last hint."""
        route = self.scope["url_route"]["kwargs"]
        user = self.scope["user"]
        if settings.CONDUCTOR_AUTH == "none":
            user = ensure_local_user()
        if not isinstance(user, User):
            raise errors.NotSignedIn
        actor = auth.member_actor(auth.membership_of(user, route["org"]), user)
        return selectors.get_application_for(
            actor=actor, name=route["app"], permission=Permission.APPLICATION_READ
        ).pk


class UnknownPathConsumer(_RefusingConsumer):
    """Any other websocket path."""

    async def connect(self) -> None:
        await self.refuse(
            Refused(404, "Executors connect to …/websocket/<application>/<key>.")
        )
