"""Who may open an executor socket. Decided before the handshake, cheaply.

Executors retry a refusal every second for ever, so both verdicts are remembered for a
few seconds and a refusal is counted in memory, to be written in batches.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import ClassVar

from django.conf import settings
from django.db import close_old_connections, transaction
from django.db.models import F
from django.db.models.functions import Now

from apps import database
from apps.executors import clock, meters
from apps.executors.models import RejectedConnection
from apps.executors.untrusted import storable_text
from apps.registry import auth, keys
from apps.registry.limits import AddressLimit
from apps.registry.models import ApiKey, Application, Permission

REMEMBER_SECS = 5.0
REMEMBER_LIMIT = 20_000
# New keys that wait to be looked up, and how many one query looks up.
WAITING_LIMIT = 5_000
BATCH_LIMIT = 500
HASHES_LIMIT = 50_000
HASHES_SECS = 10.0
MAX_KEY_CHARS = 200
MAX_NAME_CHARS = 256
MISSING_KEY = (
    "The API key is missing. Make one in the console under API keys and set it as the "
    "conductor key of this process: executors connect to "
    "…/websocket/<application>/<key>."
)
# Distinct rejections kept per organization; the oldest go first.
REJECTIONS_LIMIT = 1_000

Reason = RejectedConnection.Reason


@dataclass(frozen=True, slots=True)
class Admitted:
    application_id: int
    api_key_id: int | None
    organization_id: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """An HTTP status and the sentence that the SDK will print in its own log."""

    status: int
    detail: str
    reason: str = ""
    organization_id: int | None = None
    api_key_id: int | None = None
    key_prefix: str = ""
    retry_after_secs: int = 0

    def body(self) -> bytes:
        """RFC 9457 problem. Short, UTF-8 and JSON: anything else harms old SDKs."""
        return json.dumps(
            {
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
            }
        ).encode()


Verdict = Admitted | Refused

_Attempt = tuple[str, str]  # An application's name and a secret.
_Key = tuple[str, str]  # The secret's hash and the name.

_remembered: dict[_Key, tuple[float, asyncio.Future[Verdict]]] = {}
_rejections: dict[tuple[int, str, str, str], tuple[Refused, int, str]] = {}
# Who was let in lately has a thread that others do not queue for. A hint, no verdict.
_good_lately: OrderedDict[_Key, None] = OrderedDict()
_known_threads = ThreadPoolExecutor(
    1, thread_name_prefix="admission-db", initializer=database.keep_own_connection
)
_unknown_thread = ThreadPoolExecutor(
    1, thread_name_prefix="admission-new-db", initializer=database.keep_own_connection
)
# As many of one address are looked up.
_wrong_keys = AddressLimit(settings.CONDUCTOR_WRONG_KEYS_PER_MINUTE)
# Hashes of keys that are no wrong ones, looked up once an address is over its limit.
_hashes: set[str] = set()
_hashes_at = -math.inf


async def admit(application_name: str, secret: str, *, remote_ip: str) -> Verdict:
    """Decide about one attempt. One query per key and name in `REMEMBER_SECS`."""
    if not secret:
        # Nobody's organization is known, so no row can count it; the metric does.
        meters.count_rejected(meters.MISSING_KEY)
        return Refused(401, MISSING_KEY)
    if len(secret) > MAX_KEY_CHARS or len(application_name) > MAX_NAME_CHARS:
        return Refused(401, "The API key or application name is too long.")
    application_name = storable_text(application_name, MAX_NAME_CHARS)
    key = (hashlib.sha256(secret.encode()).hexdigest(), application_name)
    now = time.monotonic()
    entry = _remembered.get(key)
    is_new = entry is None or now - entry[0] > REMEMBER_SECS
    if entry is None or is_new:
        if refused := _refuse_unasked(key, remote_ip):
            return refused
        if len(_remembered) >= REMEMBER_LIMIT:
            _remembered.clear()
        entry = (now, _begin_judging(key, application_name, secret))
        _remembered[key] = entry
    try:
        verdict = await asyncio.shield(entry[1])
    except Exception:
        _remembered.pop(key, None)
        raise
    if isinstance(verdict, Admitted):
        _note_good(key)
    else:
        meters.count_rejected(verdict.reason or Reason.UNKNOWN_APPLICATION)
        _count(verdict, application_name, remote_ip)
        if is_new and verdict.status == HTTPStatus.UNAUTHORIZED:
            _wrong_keys.count(remote_ip)
    return verdict


def _refuse_unasked(key: _Key, remote_ip: str) -> Refused | None:
    """Refuse before the database is asked: after many wrong keys of the same address,
    one that may be wrong too; and whoever is new while too many wait."""
    if key in _good_lately:
        return None
    wait = _wrong_keys.wait_secs(remote_ip)
    if wait and key[0] not in _hashes and _hashes_at > -math.inf:
        detail = "Too many wrong API keys came from this address. Check its processes."
        return Refused(429, detail, retry_after_secs=wait)
    if len(_Batch.waiting) >= WAITING_LIMIT:
        return Refused(503, "Too many executors connect at once.", retry_after_secs=1)
    return None


def _note_good(key: _Key) -> None:
    _good_lately[key] = None
    _good_lately.move_to_end(key)
    if len(_good_lately) > REMEMBER_LIMIT:
        _good_lately.popitem(last=False)


def _begin_judging(
    key: _Key, application_name: str, secret: str
) -> asyncio.Future[Verdict]:
    loop = asyncio.get_running_loop()
    if key in _good_lately:
        return loop.run_in_executor(
            _known_threads, _judge_in_thread, application_name, secret
        )
    verdict: asyncio.Future[Verdict] = loop.create_future()
    _Batch.waiting.append(((application_name, secret), verdict))
    if not _Batch.is_running:
        _Batch.is_running = True
        _Batch.task = loop.create_task(_judge_waiting(loop))
    return verdict


class _Batch:
    """New attempts that wait for the one look-up that answers them all."""

    waiting: ClassVar[list[tuple[_Attempt, asyncio.Future[Verdict]]]] = []
    is_running: ClassVar = False
    task: ClassVar[asyncio.Task[None] | None] = None


async def _judge_waiting(loop: asyncio.AbstractEventLoop) -> None:
    try:
        while batch := _Batch.waiting[:BATCH_LIMIT]:
            del _Batch.waiting[: len(batch)]
            judging = loop.run_in_executor(
                _unknown_thread, _judge_batch_in_thread, [one for one, _ in batch]
            )
            # Whatever goes wrong is for each of them to know.
            await asyncio.wait([judging])
            failure = judging.exception()
            for index, (_, verdict) in enumerate(batch):
                if verdict.done():
                    continue
                if failure is None:
                    verdict.set_result(judging.result()[index])
                else:
                    verdict.set_exception(failure)
    finally:
        _Batch.is_running = False


def refresh_hints() -> None:
    """Look up which keys are no wrong ones, while an address sends many that are.
    Called with every heartbeat."""
    global _hashes, _hashes_at
    now = time.monotonic()
    if not _wrong_keys.is_exceeded() or now - _hashes_at < HASHES_SECS:
        return
    _hashes, _hashes_at = keys.list_hashes(HASHES_LIMIT), now


def _judge_in_thread(application_name: str, secret: str) -> Verdict:
    close_old_connections()
    return _judge(application_name, secret)


def _judge_batch_in_thread(attempts: list[_Attempt]) -> list[Verdict]:
    close_old_connections()
    return _judge_batch(attempts)


def _judge_batch(attempts: list[_Attempt]) -> list[Verdict]:
    if settings.CONDUCTOR_AUTH == "none":
        return [_judge_without_keys(name) for name, _ in attempts]
    meant = keys.find_meant({secret for _, secret in attempts})
    now = clock.now()
    return [
        _judge_one(meant.get(secret), name, secret, now) for name, secret in attempts
    ]


def _judge(application_name: str, secret: str) -> Verdict:
    return _judge_batch([(application_name, secret)])[0]


def _judge_one(
    meant: ApiKey | None, application_name: str, secret: str, now: datetime
) -> Verdict:
    if meant is None or not keys.is_secret_of(secret, meant):
        return _refuse_unknown(meant)
    return _judge_key(meant, application_name, now)


def _refuse_unknown(meant: ApiKey | None) -> Refused:
    """The same answer to all; told to the organization whose key was meant."""
    detail = "Unknown API key. Check the conductor key of this process."
    if meant is None:
        return Refused(401, detail, Reason.BAD_KEY)
    organization_id, prefix = meant.organization_id, meant.prefix
    return Refused(401, detail, Reason.BAD_KEY, organization_id, meant.pk, prefix)


def _judge_without_keys(application_name: str) -> Verdict:
    application = Application.objects.filter(
        organization__name="local", name=application_name
    ).first()
    if application is None:
        return Refused(404, f"No application named {application_name!r}. Register it.")
    return Admitted(application.pk, None, application.organization_id)


def _judge_key(key: ApiKey, application_name: str, now: datetime) -> Verdict:
    def refuse(status: int, reason: Reason, detail: str) -> Refused:
        return Refused(status, detail, reason, key.organization_id, key.pk, key.prefix)

    if key.revoked_at is not None:
        return refuse(401, Reason.REVOKED_KEY, _why_unusable(key))
    if not key.is_usable(now):
        return refuse(401, Reason.EXPIRED_KEY, _why_unusable(key))
    actor = auth.key_actor(key)
    if not actor.may(Permission.WEBSOCKET_CONNECT):
        return refuse(
            403,
            Reason.MISSING_PERMISSION,
            f"API key {key.name!r} lacks the permission websocket.connect.",
        )
    application = Application.objects.filter(
        organization_id=key.organization_id, name=application_name
    ).first()
    if application is None:
        return refuse(
            404,
            Reason.UNKNOWN_APPLICATION,
            f"No application named {application_name!r}. Register it in the console.",
        )
    if not actor.sees(application):
        return refuse(
            403,
            Reason.WRONG_APPLICATION,
            f"API key {key.name!r} is not for application {application_name!r}.",
        )
    return Admitted(application.pk, key.pk, key.organization_id)


def _why_unusable(key: ApiKey) -> str:
    happened = "has expired" if key.revoked_at is None else "was revoked"
    return f"API key {key.name!r} {happened}."


def reconsider(admitted: Collection[Admitted]) -> dict[Admitted, str]:
    """Say which of those that were let in would not be any more, and why.

    Two queries, however many.
    """
    now = clock.now()
    found = ApiKey.objects.in_bulk({a.api_key_id for a in admitted if a.api_key_id})
    applications = set(
        Application.objects.filter(
            pk__in={a.application_id for a in admitted}
        ).values_list("pk", flat=True)
    )
    why: dict[Admitted, str] = {}
    for one in admitted:
        key = found.get(one.api_key_id or 0)
        if one.application_id not in applications:
            why[one] = "This application was removed from Conductor."
        elif settings.CONDUCTOR_AUTH == "none":
            continue
        elif key is None:
            why[one] = "The API key of this connection is gone."
        elif not key.is_usable(now):
            why[one] = _why_unusable(key)
    return why


def forget_verdicts() -> None:
    """Let every next attempt be judged anew. Call it on the server's loop."""
    _remembered.clear()


def refuse_surplus(
    admitted: Admitted, detail: str, application_name: str, remote_ip: str
) -> Refused:
    """Refuse, and count, who may connect and is one too many."""
    refused = Refused(
        429, detail, Reason.OVER_QUOTA, admitted.organization_id, admitted.api_key_id
    )
    _count(refused, storable_text(application_name, MAX_NAME_CHARS), remote_ip)
    return refused


def _count(refused: Refused, application_name: str, remote_ip: str) -> None:
    if refused.organization_id is None:
        return
    key = (
        refused.organization_id,
        application_name,
        refused.key_prefix,
        refused.reason,
    )
    _, count, _ = _rejections.get(key, (refused, 0, ""))
    if count or len(_rejections) < REJECTIONS_LIMIT:
        _rejections[key] = (refused, count + 1, remote_ip)


def flush_rejections() -> None:
    """Write what was counted since the last call; called by the instance's beat."""
    batch = dict(_rejections)
    for key in batch:
        _rejections.pop(key, None)
    if not batch:
        return
    organizations = {key[0] for key in batch}
    with transaction.atomic():
        for (organization_id, name, prefix, reason), (refused, n, ip) in batch.items():
            row, _ = RejectedConnection.objects.get_or_create(
                organization_id=organization_id,
                application_name=name,
                key_prefix=prefix,
                reason=reason,
                defaults={
                    "status": refused.status,
                    "first_seen_at": clock.now(),
                    "last_seen_at": clock.now(),
                },
            )
            RejectedConnection.objects.filter(pk=row.pk).update(
                count=F("count") + n,
                last_seen_at=Now(),
                remote_ip=ip,
                api_key_id=refused.api_key_id,
            )
        for organization_id in organizations:
            _prune(organization_id)


def _prune(organization_id: int) -> None:
    rows = RejectedConnection.objects.filter(organization_id=organization_id)
    surplus = rows.order_by("-last_seen_at").values_list("pk", flat=True)
    rows.filter(pk__in=list(surplus[REJECTIONS_LIMIT : 2 * REJECTIONS_LIMIT])).delete()
