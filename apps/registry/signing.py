"""The key with which Conductor's OpenID provider signs.

Made when it is first needed and kept in the database, which every process shares,
encrypted with SECRET_KEY: a copy of the database alone signs nothing. After a change of
SECRET_KEY there is a new one; what the old one signed lived for minutes.
"""

from __future__ import annotations

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from apps.registry.models import SigningKey

BITS = 2048
ONLY = 1


def private_key_pem() -> str:
    """Return the private key, for RS256. Safe to call in several processes at once."""
    row, _ = SigningKey.objects.get_or_create(
        pk=ONLY, defaults={"encrypted_pem": _encrypted(_new_pem())}
    )
    try:
        return _cipher().decrypt(row.encrypted_pem.encode()).decode()
    except InvalidToken:
        # Whoever comes second finds the first one's key.
        SigningKey.objects.filter(encrypted_pem=row.encrypted_pem).update(
            encrypted_pem=_encrypted(_new_pem())
        )
        row.refresh_from_db()
        return _cipher().decrypt(row.encrypted_pem.encode()).decode()


def _new_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _encrypted(pem: str) -> str:
    return _cipher().encrypt(pem.encode()).decode()


def _cipher() -> Fernet:
    derived = HKDF(hashes.SHA256(), length=32, salt=None, info=b"conductor signing key")
    key = derived.derive(settings.SECRET_KEY.encode())
    return Fernet(base64.urlsafe_b64encode(key))
