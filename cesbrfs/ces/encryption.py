"""Decrypt and encrypt registry values: CES encryption with RSA, or RSA and AES-GCM. Pure.

The formats are those of cesapp-lib. Values up to 64 bytes are RSA-encrypted, in base64. Longer
values are JSON, ``{"encryption": {"type": "AES_GCM", "key": …, "nonce": …}, "value": …}``, with an
RSA-encrypted AES key. The key provider, `oaesp` or `pkcs1v15`, selects the RSA padding.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # imported on demand, as few values are encrypted
    from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

PROVIDERS: Final = ("oaesp", "pkcs1v15")
RSA_BYTES: Final = 256
"""Length of an RSA-2048 ciphertext in bytes; CES uses 2048-bit keys."""

_OAEP_LABEL: Final = b"ces-config"
_NONCE_BYTES: Final = 12
_AES_KEY_BYTES: Final = frozenset({16, 24, 32})
_MIN_PADDING_BYTES: Final = 8
_RSA_ONLY_BYTES: Final = 64
"""Maximum length of a value in bytes that is encrypted with RSA alone."""


class InvalidCiphertextError(ValueError):
    """An encrypted value is malformed; the text is the reason."""


@dataclass(frozen=True, slots=True)
class EncryptedValue:
    """A parsed encrypted value.

    `rsa` is the RSA ciphertext of the value or, in the long form, of the AES key. `data` is then
    the AES-GCM ciphertext with its `nonce`.
    """

    rsa: bytes = field(repr=False)
    nonce: bytes = field(default=b"", repr=False)
    data: bytes | None = field(default=None, repr=False)


def parse_encrypted(value: str, sizes: Collection[int] = (RSA_BYTES,)) -> EncryptedValue | None:
    """Parse an encrypted value; return None if `value` is not encrypted.

    The long form is text in braces that contains "encryption"; InvalidCiphertextError if malformed.
    The short form is base64 of one of `sizes` in bytes.
    """
    text = value.strip()
    if text.startswith("{") and text.endswith("}"):
        return _long_form(text) if '"encryption"' in text.lower() else None
    try:
        rsa = _decode(text)
    except ValueError:
        return None
    return EncryptedValue(rsa) if len(rsa) in sizes else None


def decrypt(encrypted: EncryptedValue, key: RSAPrivateKey, provider: str) -> bytes | None:
    """Decrypt a value; return None if `key` is the wrong key.

    Raises InvalidCiphertextError if the key is right but the value is damaged.
    """
    plaintext = _decrypt(encrypted.rsa, key, provider)
    if plaintext is None or encrypted.data is None:
        return plaintext
    if len(plaintext) not in _AES_KEY_BYTES:
        raise InvalidCiphertextError("invalid AES key length")
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(plaintext).decrypt(encrypted.nonce, encrypted.data, None)
    except InvalidTag:
        raise InvalidCiphertextError("authentication tag does not match") from None


def encrypt(value: bytes, key: RSAPublicKey, provider: str) -> str:
    """Encrypt a value as CES does, so that `decrypt` with the private key returns it."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    padding = PKCS1v15() if provider == "pkcs1v15" else _oaep()
    if len(value) <= _RSA_ONLY_BYTES:
        return _encode(key.encrypt(value, padding))
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    aes, nonce = AESGCM.generate_key(max(_AES_KEY_BYTES) * 8), os.urandom(_NONCE_BYTES)
    return json.dumps(
        {
            "encryption": {
                "type": "AES_GCM",
                "key": _encode(key.encrypt(aes, padding)),
                "nonce": _encode(nonce),
            },
            "value": _encode(AESGCM(aes).encrypt(nonce, value, None)),
        }
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _oaep() -> AsymmetricPadding:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP

    return OAEP(MGF1(hashes.SHA256()), hashes.SHA256(), label=_OAEP_LABEL)


def _decode(text: str) -> bytes:
    return base64.b64decode("".join(text.split("\n")), validate=True)


def _long_form(text: str) -> EncryptedValue:
    try:
        outer = _fields(json.loads(text))
        encryption = _fields(outer.get("encryption"))
        kind = encryption.get("type")
        parts = [encryption.get("key"), encryption.get("nonce"), outer.get("value")]
        rsa, nonce, data = (_decode(part) if isinstance(part, str) else b"" for part in parts)
    except (ValueError, RecursionError) as error:
        raise InvalidCiphertextError("invalid JSON or base64") from error
    if kind != "AES_GCM":
        raise InvalidCiphertextError(f"unsupported encryption type {kind!r} (expected 'AES_GCM')")
    if not rsa or not data or len(nonce) != _NONCE_BYTES:
        raise InvalidCiphertextError("key, nonce or value is missing")
    return EncryptedValue(rsa, nonce, data)


def _fields(parsed: object) -> dict[str, object]:
    """Return the fields of a JSON object in lower case; Go ignores the case of names."""
    if not isinstance(parsed, dict):
        raise ValueError  # noqa: TRY004 - one error type for all malformed input
    return {name.lower(): value for name, value in parsed.items()}


def _decrypt(rsa: bytes, key: RSAPrivateKey, provider: str) -> bytes | None:
    if len(rsa) * 8 != key.key_size:
        return None
    if provider == "pkcs1v15":
        return _unpad_pkcs1v15(_raw_rsa(rsa, key))
    try:
        return key.decrypt(rsa, _oaep())
    except ValueError:
        return None


def _raw_rsa(rsa: bytes, key: RSAPrivateKey) -> bytes:
    """Decrypt with RSA without removing the padding.

    With a wrong key OpenSSL returns random bytes, as a protection from padding oracles. Here there
    is no attacker to observe the result, and a wrong key must be detected.
    """
    numbers, ciphertext = key.private_numbers(), int.from_bytes(rsa, "big")
    # By the Chinese remainder theorem: a third of the time.
    by_p, by_q = pow(ciphertext, numbers.dmp1, numbers.p), pow(ciphertext, numbers.dmq1, numbers.q)
    plain = by_q + numbers.iqmp * (by_p - by_q) % numbers.p * numbers.q
    return plain.to_bytes(len(rsa), "big")


def _unpad_pkcs1v15(padded: bytes) -> bytes | None:
    """Remove PKCS #1 v1.5 padding: 00 02, at least eight nonzero bytes, 00 (RFC 8017, 7.2)."""
    end = padded.find(0, 2)
    if not padded.startswith(b"\0\2") or end < 2 + _MIN_PADDING_BYTES:
        return None
    return padded[end + 1 :]
