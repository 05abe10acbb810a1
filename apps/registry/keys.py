"""API key secrets: `dbos_<prefix>_<secret>`, kept only as a SHA-256 and the prefix."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Collection
from datetime import datetime, timedelta

from django.db import models

from apps.registry.models import ApiKey

TOUCH_EVERY = timedelta(minutes=1)

_ALPHABET = string.ascii_letters + string.digits
_SECRET = re.compile(r"dbos_([A-Za-z0-9]{8})_[A-Za-z0-9]{43}")
_BEGINNING = re.compile(r"dbos_([A-Za-z0-9]{8})_")


def new_secret() -> tuple[str, str]:
    """Return a fresh secret and its look-up prefix. 43 characters are 256 bits."""
    prefix = _random(8)
    return f"dbos_{prefix}_{_random(43)}", prefix


def hide_secrets(text: str) -> str:
    """Leave of every API key in a text what names it."""
    return _SECRET.sub(r"dbos_\1_…", text)


def hash_secret(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def find_by_secret(secret: str) -> ApiKey | None:
    """Return the key that this secret opens, usable or not; None if it opens none.

    One query; the comparison takes the same time whatever the secret.
    """
    found = _SECRET.fullmatch(secret)
    if found is None:
        return None
    keys = ApiKey.objects.select_related("organization")
    key = keys.filter(prefix=found[1]).first()
    if key is None or not hmac.compare_digest(key.secret_hash, hash_secret(secret)):
        return None
    return key


def find_meant(secrets_given: Collection[str]) -> dict[str, ApiKey]:
    """Return, by secret, the key whose beginning it has. One query, however many.

    `is_secret_of` says whether it opens that key.
    """
    prefixes = {s: found[1] for s in secrets_given if (found := _BEGINNING.match(s))}
    if not prefixes:
        return {}
    rows = ApiKey.objects.select_related("organization")
    keys = {key.prefix: key for key in rows.filter(prefix__in=set(prefixes.values()))}
    return {s: keys[prefix] for s, prefix in prefixes.items() if prefix in keys}


def is_secret_of(secret: str, key: ApiKey) -> bool:
    """Whether a secret opens a key, usable or not; in the same time for all."""
    return _SECRET.fullmatch(secret) is not None and hmac.compare_digest(
        key.secret_hash, hash_secret(secret)
    )


def list_hashes(limit: int) -> set[str]:
    """Return the hashes of usable keys, those first that were used last."""
    rows = ApiKey.objects.filter(revoked_at=None).order_by(
        models.F("last_used_at").desc(nulls_last=True), "-pk"
    )
    return set(rows.values_list("secret_hash", flat=True)[:limit])


def find_by_beginning(secret: str) -> ApiKey | None:
    """Return the key that a wrong secret was meant to be, as after half a copy.

    It opens nothing; it only tells whose mistake this probably is.
    """
    found = _BEGINNING.match(secret)
    return None if found is None else ApiKey.objects.filter(prefix=found[1]).first()


def touch(key_ids: Collection[int], now: datetime) -> None:
    """Note that keys are in use; once a minute is enough."""
    stale = models.Q(last_used_at=None) | models.Q(last_used_at__lt=now - TOUCH_EVERY)
    ApiKey.objects.filter(stale, pk__in=key_ids).update(last_used_at=now)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
