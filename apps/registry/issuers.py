"""Other OpenID providers that Conductor trusts to say who somebody is.

`CONDUCTOR_OIDC_PROVIDERS` lists them. People sign in by them in the browser, which
django-allauth does, and programs call the API with their JWTs, which are verified here.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    field_validator,
    model_validator,
)

logger = logging.getLogger(__name__)

ALGORITHM = "RS256"
LEEWAY_SECS = 30
MAX_SUBJECT_CHARS = 191
# Keys are fetched anew after MAX_AGE_SECS, or for a token that names an unknown one;
# never more often than every RETRY_SECS, whatever is sent to us.
MAX_AGE_SECS = 3_600.0
RETRY_SECS = 30.0
MAX_DOCUMENT_BYTES = 2**20
TIMEOUT_SECS = 5.0


class Issuer(BaseModel):
    """One provider, as it is configured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Part of URLs and of what is stored of a person: it must not change.
    id: str = Field(pattern=r"^[a-z0-9-]{1,30}$")
    name: str = Field(min_length=1, max_length=60)
    issuer: str
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = SecretStr("")
    # Of the JWTs that the API takes; the client id where it is left out.
    audience: str = ""

    @field_validator("issuer")
    @classmethod
    def _is_guarded(cls, value: str) -> str:
        url = urlsplit(value)
        local = url.hostname in ("127.0.0.1", "localhost", "::1")
        if url.scheme != "https" and not (url.scheme == "http" and local):
            raise ValueError("an issuer is an https:// URL")
        return value

    @property
    def discovery_url(self) -> str:
        return f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"

    def as_app(self) -> dict[str, Any]:
        """The same, as django-allauth wants it."""
        return {
            "provider_id": self.id,
            "name": self.name,
            "client_id": self.client_id,
            "secret": self.client_secret.get_secret_value(),
            "settings": {"server_url": self.discovery_url},
        }


class _Issuers(BaseModel):
    issuers: tuple[Issuer, ...]

    @model_validator(mode="after")
    def _differ(self) -> _Issuers:
        for field in ("id", "issuer"):
            values = [getattr(one, field) for one in self.issuers]
            if len(set(values)) < len(values):
                raise ValueError(f"two providers have the same {field}")
        return self


def parse(text: str) -> tuple[Issuer, ...]:
    """Return the providers of a JSON list. Raises: pydantic's ValidationError."""
    found = TypeAdapter(list[Any]).validate_json(text) if text.strip() else []
    return _Issuers(issuers=tuple(found)).issuers


def name_of(provider_id: str) -> str:
    """What people call the provider of this id."""
    configured: tuple[Issuer, ...] = settings.CONDUCTOR_OIDC_PROVIDERS
    return next((one.name for one in configured if one.id == provider_id), provider_id)


# --- JWTs ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """A person, as a provider knows them. `email` is empty unless it is verified."""

    issuer: Issuer
    subject: str
    email: str


def verify(token: str) -> Identity | None:
    """Return whom a JWT of a configured issuer is about; None where it is not that, is
    for somebody else, or has expired."""
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
        claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
        issuer = _issuer(claimed)
        key = None if issuer is None else _keys_of(issuer).find(key_id)
        if issuer is None or key is None:
            return None
        claims = jwt.decode(
            token,
            key=key,
            algorithms=[ALGORITHM],
            issuer=issuer.issuer,
            audience=issuer.audience or issuer.client_id,
            leeway=LEEWAY_SECS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
    except jwt.PyJWTError:
        return None
    subject: str = claims["sub"]
    if not subject or len(subject) > MAX_SUBJECT_CHARS or "\0" in subject:
        return None
    return Identity(issuer, subject, _verified_email(claims))


def _issuer(url: Any) -> Issuer | None:
    configured: tuple[Issuer, ...] = settings.CONDUCTOR_OIDC_PROVIDERS
    return next((issuer for issuer in configured if issuer.issuer == url), None)


def _verified_email(claims: dict[str, Any]) -> str:
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str):
        return ""
    try:
        validate_email(email)
    except ValidationError:
        return ""
    return email.lower()


class _Keys:
    """The public keys of one issuer."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self._keys: dict[str, RSAPublicKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = threading.Lock()

    def find(self, key_id: Any) -> RSAPublicKey | None:
        """Return the key of this id; may fetch them. Blocks for seconds at most."""
        if not isinstance(key_id, str):
            return None
        if not self._knows(key_id):
            with self._lock:
                due = time.monotonic() - self._tried_at >= RETRY_SECS
                if due and not self._knows(key_id):
                    self._fetch()
        return self._keys.get(key_id)

    def _knows(self, key_id: str) -> bool:
        is_fresh = time.monotonic() - self._fetched_at < MAX_AGE_SECS
        return is_fresh and key_id in self._keys

    def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        try:
            found = _get_json(self.issuer.discovery_url)
            if found["issuer"] != self.issuer.issuer:
                raise ValueError("it says that it is another issuer")
            keys = jwt.PyJWKSet.from_dict(_get_json(found["jwks_uri"])).keys
        except (
            requests.RequestException,
            jwt.PyJWTError,
            ValueError,
            KeyError,
            TypeError,
        ) as exc:
            # Those that are known serve on while it is away.
            logger.warning(
                "the keys of an OpenID provider cannot be fetched",
                extra={"issuer": self.issuer.issuer, "error": str(exc)},
            )
            return
        self._keys = {
            key.key_id: key.key
            for key in keys
            if key.key_id and isinstance(key.key, RSAPublicKey)
        }
        self._fetched_at = time.monotonic()


@functools.cache
def _keys_of(issuer: Issuer) -> _Keys:
    return _Keys(issuer)


def _get_json(url: str) -> Any:
    """Raises: requests.RequestException, ValueError."""
    with requests.get(url, timeout=TIMEOUT_SECS, stream=True) as response:
        response.raise_for_status()
        body = response.raw.read(MAX_DOCUMENT_BYTES + 1, decode_content=True)
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError("its document is too large")
    return json.loads(body)
