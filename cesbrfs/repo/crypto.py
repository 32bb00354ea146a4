"""restic's cryptography: scrypt, AES-256-CTR and Poly1305-AES over bytes.  Pure functions.

A record is ``nonce 16 | ciphertext | tag 16``.  The nonce is the whole initial counter; the tag is
Poly1305 over the ciphertext with the key ``r | AES-128-ECB(k, nonce)``.  A record is decrypted only
after its tag was verified.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from cryptography.hazmat.primitives.poly1305 import Poly1305

from cesbrfs.errors import DamagedError
from cesbrfs.repo.model import KeyFile, MasterKey, parse_master_key

OVERHEAD: Final = 32
"""Bytes that a record is longer than its plaintext."""

_NONCE: Final = 16
_TAG: Final = 16
_NO_NONCE: Final = bytes(_NONCE)
_SCRYPT_MEMORY: Final = 1 << 30
"""No key file may ask for more memory than this (restic's own need 32 MiB)."""
_SCRYPT_WORK: Final = 1 << 26
"""Nor for a larger product of its parameters (restic's own: about 2**20, half a second)."""


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


def derive(password: bytes, key_file: KeyFile) -> Keys:
    """Turn the password into the keys that open `key_file`; takes about half a second.

    Raises DamagedError when the file's parameters are none that scrypt can work with.
    """
    cost, block, parallel, salt = key_file.N, key_file.r, key_file.p, key_file.salt
    if key_file.kdf != "scrypt" or not cost or not block or not parallel or salt is None:
        raise DamagedError("A key file does not say how its key is derived; run 'cesbr check'.")
    memory = 128 * block * (cost + parallel + 2)
    if min(cost, block, parallel) < 0:
        raise DamagedError("A key file has a negative parameter; no restic wrote it.")
    if memory > _SCRYPT_MEMORY or cost * block * parallel > _SCRYPT_WORK:
        raise DamagedError("A key file asks for too much work to derive its key; no restic did so.")
    try:
        raw = hashlib.scrypt(
            password, salt=salt, n=cost, r=block, p=parallel, maxmem=memory + 4096, dklen=64
        )
    except ValueError as error:
        raise DamagedError(f"A key file has parameters scrypt refuses ({error}).") from error
    return Keys(raw[:32], raw[32:48], raw[48:64])


def open_master_key(
    key_file: KeyFile,
    password: bytes,
    derive: Callable[[bytes, KeyFile], Keys] = derive,
) -> Keys:
    """Open the master key in `key_file`; BadMacError when the password is not its own."""
    master = parse_master_key(open_record(derive(password, key_file), key_file.data or b""))
    return _keys(master)


def _keys(master: MasterKey) -> Keys:
    encrypt, mac = master.encrypt or b"", master.mac
    k, r = (mac.k or b"", mac.r or b"") if mac else (b"", b"")
    if (len(encrypt), len(k), len(r)) != (32, 16, 16):
        raise DamagedError("The repository's master key is incomplete; run 'cesbr check'.")
    return Keys(encrypt, k, r)


def open_record(keys: Keys, record: bytes | memoryview) -> bytes:
    """Verify and decrypt one record.

    Raises BadMacError when it is not what was written, DamagedError when it cannot be a record.
    """
    if len(record) < OVERHEAD:
        raise DamagedError(f"A record of {len(record)} bytes is too short to be one.")
    view = memoryview(record)
    nonce, sealed, tag = bytes(view[:_NONCE]), view[_NONCE:-_TAG], bytes(view[-_TAG:])
    if nonce == _NO_NONCE:  # restic refuses it too: no writer ever draws it
        raise DamagedError("A record has the nonce zero, which nothing writes.")
    block, stream = keys.ciphers()
    try:
        Poly1305.verify_tag(keys.mac_r + block.update(nonce), sealed, tag)
    except InvalidSignature:
        raise BadMacError("A record's MAC does not match its content.") from None
    stream.reset_nonce(nonce)
    return stream.update(sealed)


def seal_record(keys: Keys, plain: bytes, nonce: bytes) -> bytes:
    """Write one record, the inverse of `open_record`; no `nonce` may ever be used twice."""
    sealed = Cipher(AES(keys.encrypt), CTR(nonce)).encryptor().update(plain)
    aes = Cipher(AES(keys.mac_k), ECB()).encryptor()  # noqa: S305 - as above
    return nonce + sealed + Poly1305.generate_tag(keys.mac_r + aes.update(nonce), sealed)
