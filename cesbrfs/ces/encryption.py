"""CES encryption of registry values: RSA for a short one, RSA and AES-GCM for a longer one.

The formats are cesapp-lib's.  Up to 64 bytes: what RSA makes of the value, in base64.  More: JSON,
``{"encryption": {"type": "AES_GCM", "key": …, "nonce": …}, "value": …}``, in which RSA encrypted
the key.  The provider, `oaesp` or `pkcs1v15`, is the padding.  Pure functions over bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # few values are encrypted, so few need it
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

PROVIDERS: Final = ("oaesp", "pkcs1v15")
RSA_BYTES: Final = 256
"""What RSA-2048, which CES uses, makes of any value."""

_LABEL: Final = b"ces-config"
_NONCE_BYTES: Final = 12
_AES_BYTES: Final = frozenset({16, 24, 32})
_PKCS1_PADDING: Final = 8


class BrokenValueError(ValueError):
    """An encrypted value does not hold what its form promises; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted value.

    RSA encrypted `rsa`: the value itself, or the AES key of `data`, with `nonce`.
    """

    rsa: bytes = field(repr=False)
    nonce: bytes = field(default=b"", repr=False)
    data: bytes | None = field(default=None, repr=False)


def parse_sealed(value: str, sizes: Collection[int] = (RSA_BYTES,)) -> Sealed | None:
    """Return `value` taken apart if it has the form of an encrypted one, None for a plain one.

    The long form is text in braces that speaks of "encryption"; BrokenValueError when that is not
    whole.  The short form is base64 of exactly one of these `sizes` in bytes.
    """
    text = value.strip()
    if text.startswith("{") and text.endswith("}"):
        return _long_form(text) if '"encryption"' in text.lower() else None
    try:
        rsa = _decode(text)
    except ValueError:
        return None
    return Sealed(rsa) if len(rsa) in sizes else None


def unseal(sealed: Sealed, key: RSAPrivateKey, provider: str) -> bytes | None:
    """Return the value, None when `key` is not its key.

    BrokenValueError when it is, but the value is damaged.
    """
    found = _decrypt(sealed.rsa, key, provider)
    if found is None or sealed.data is None:
        return found
    if len(found) not in _AES_BYTES:
        raise BrokenValueError("its key has no length that AES knows")
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(found).decrypt(sealed.nonce, sealed.data, None)
    except InvalidTag:
        raise BrokenValueError("its check sum does not match") from None


def _decode(text: str) -> bytes:
    return base64.b64decode("".join(text.split("\n")), validate=True)


def _long_form(text: str) -> Sealed:
    try:
        outer = _fields(json.loads(text))
        encryption = _fields(outer.get("encryption"))
        kind = encryption.get("type")
        parts = [encryption.get("key"), encryption.get("nonce"), outer.get("value")]
        rsa, nonce, data = (_decode(part) if isinstance(part, str) else b"" for part in parts)
    except (ValueError, RecursionError) as error:
        raise BrokenValueError("it is no JSON with its parts in base64") from error
    if kind != "AES_GCM":
        raise BrokenValueError(f"it is encrypted with {kind!r} instead of 'AES_GCM'")
    if not rsa or not data or len(nonce) != _NONCE_BYTES:
        raise BrokenValueError("it lacks its key, its nonce or its value")
    return Sealed(rsa, nonce, data)


def _fields(found: object) -> dict[str, object]:
    """Return an object's fields; Go reads their names without regard to case."""
    if not isinstance(found, dict):
        raise ValueError  # noqa: TRY004 - one kind of error for what is not in its form
    return {name.lower(): value for name, value in found.items()}


def _decrypt(rsa: bytes, key: RSAPrivateKey, provider: str) -> bytes | None:
    if len(rsa) * 8 != key.key_size:
        return None
    if provider == "pkcs1v15":
        return _unpad(_textbook(rsa, key))
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

    try:
        return key.decrypt(rsa, OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), label=_LABEL))
    except ValueError:
        return None


def _textbook(rsa: bytes, key: RSAPrivateKey) -> bytes:
    """Return what RSA alone gives back, padding and all.

    OpenSSL answers a wrong key with random bytes, so that an attacker learns nothing; here nobody
    listens, and a wrong key has to be told from a right one.
    """
    numbers, sealed = key.private_numbers(), int.from_bytes(rsa, "big")
    # By the Chinese remainder theorem, which takes a third of the time.
    by_p, by_q = pow(sealed, numbers.dmp1, numbers.p), pow(sealed, numbers.dmq1, numbers.q)
    plain = by_q + numbers.iqmp * (by_p - by_q) % numbers.p * numbers.q
    return plain.to_bytes(len(rsa), "big")


def _unpad(padded: bytes) -> bytes | None:
    """Take the padding of PKCS #1 v1.5 away: 0, 2, eight or more bytes that are not 0, and 0."""
    end = padded.find(0, 2)
    if not padded.startswith(b"\0\2") or end < 2 + _PKCS1_PADDING:
        return None
    return padded[end + 1 :]
