"""restic's cryptography: AES-256-CTR and Poly1305-AES over bytes. Pure; scrypt is in `repo.kdf`.

A record is ``nonce 16 | ciphertext | tag 16``.  The nonce is the whole initial counter; the tag is
Poly1305 over the ciphertext with the key ``r | AES-128-ECB(k, nonce)``.  A record is decrypted only
after its tag was verified.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.model import KeyFile, MasterKey, parse_master_key

OVERHEAD: Final = 32
"""Bytes that a record is longer than its plaintext."""

_NONCE: Final = 16
_TAG: Final = 16
_NO_NONCE: Final = bytes(_NONCE)


class BadMacError(DamagedError):
    """A record's tag does not belong to its content: it is damaged, or the key is another's."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The three keys that open records: AES-256, and Poly1305-AES's k and r."""

    encrypt: bytes = field(repr=False)
    mac_k: bytes = field(repr=False)
    mac_r: bytes = field(repr=False)
    _local: threading.local = field(
        default_factory=threading.local, init=False, repr=False, compare=False
    )

    def ciphers(self) -> tuple[CipherContext, CipherContext]:
        """Return this thread's AES contexts: one for the MAC's blocks, one that decrypts.

        Making them costs several times what they do for a small blob.
        """
        try:
            pair: tuple[CipherContext, CipherContext] = self._local.pair
        except AttributeError:
            block = Cipher(AES(self.mac_k), ECB())  # noqa: S305 - one block, as Poly1305-AES asks
            pair = (block.encryptor(), Cipher(AES(self.encrypt), CTR(_NO_NONCE)).decryptor())
            self._local.pair = pair
        return pair


def keys_from_bytes(raw: bytes) -> Keys:
    """Split the 64 bytes of a key derivation into encryption key, MAC key and MAC nonce key."""
    return Keys(raw[:32], raw[32:48], raw[48:64])


def open_master_key(user_keys: Keys, key_file: KeyFile) -> Keys:
    """Decrypt the master key in `key_file`.

    `user_keys` are derived from the password. Raises BadMacError when the password is wrong.
    """
    return _keys(parse_master_key(open_record(user_keys, key_file.data or b"")))


def _keys(master: MasterKey) -> Keys:
    encrypt, mac = master.encrypt or b"", master.mac
    k, r = (mac.k or b"", mac.r or b"") if mac else (b"", b"")
    if (len(encrypt), len(k), len(r)) != (32, 16, 16):
        raise DamagedError("The repository's master key is incomplete. Run 'cesbr check'.")
    return Keys(encrypt, k, r)


def open_record(keys: Keys, record: bytes | memoryview) -> bytes:
    """Verify and decrypt one record.

    Raises BadMacError when it is not what was written, DamagedError when it cannot be a record.
    """
    if len(record) < OVERHEAD:
        raise DamagedError(f"Invalid record: only {len(record)} bytes.")
    view = memoryview(record)
    nonce, sealed, tag = bytes(view[:_NONCE]), view[_NONCE:-_TAG], bytes(view[-_TAG:])
    if nonce == _NO_NONCE:  # restic refuses it too: no writer ever draws it
        raise DamagedError("Invalid record: its nonce is zero.")
    block, stream = keys.ciphers()
    try:
        Poly1305.verify_tag(keys.mac_r + block.update(nonce), sealed, tag)
    except InvalidSignature:
        raise BadMacError("Invalid record: MAC verification failed.") from None
    stream.reset_nonce(nonce)
    return stream.update(sealed)


def seal_record(keys: Keys, plain: bytes, nonce: bytes) -> bytes:
    """Write one record, the inverse of `open_record`; no `nonce` may ever be used twice."""
    sealed = Cipher(AES(keys.encrypt), CTR(nonce)).encryptor().update(plain)
    aes = Cipher(AES(keys.mac_k), ECB()).encryptor()  # noqa: S305 - as above
    return nonce + sealed + Poly1305.generate_tag(keys.mac_r + aes.update(nonce), sealed)
