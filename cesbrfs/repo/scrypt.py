"""The slow step from a password to keys, apart: it begins before anything heavy is imported."""

from __future__ import annotations

from typing import Final

from cesbrfs.errors import DamagedError
from cesbrfs.repo.model import KeyFile

_MEMORY: Final = 1 << 30
"""No key file may ask for more memory than this (restic's own need 32 MiB)."""
USUAL_WORK: Final = 1 << 22
"""Product of the parameters up to which a key file is tried at once (restic's: 2**20, 0.5 s)."""
_WORK_MAX: Final = 1 << 24
"""No key file may ask for a larger product."""
ALL_WORK_MAX: Final = 1 << 25
"""Nor may all key files together, until the one is found that the password opens."""


def work_of(key_file: KeyFile) -> int:
    """Return how much work a key file asks for, as the product of its parameters."""
    return (key_file.N or 0) * (key_file.r or 0) * (key_file.p or 0)


def stretch(password: bytes, key_file: KeyFile) -> bytes:
    """Return the 64 bytes that are the keys which open `key_file`; takes about half a second.

    Raises DamagedError when the file's parameters are none that scrypt can work with.
    """
    from cryptography.hazmat.primitives.kdf.scrypt import (  # noqa: PLC0415 - in a thread, mostly
        Scrypt,
    )

    cost, block, parallel, salt = key_file.N, key_file.r, key_file.p, key_file.salt
    if key_file.kdf != "scrypt" or not cost or not block or not parallel or salt is None:
        raise DamagedError("A key file does not say how its key is derived; run 'cesbr check'.")
    memory = 128 * block * (cost + parallel + 2)
    if min(cost, block, parallel) < 0:
        raise DamagedError("A key file has a negative parameter; no restic wrote it.")
    if memory > _MEMORY or work_of(key_file) > _WORK_MAX:
        raise DamagedError("A key file asks for too much work to derive its key; no restic did so.")
    try:
        # A sixth faster than hashlib's, which depends on the system's OpenSSL.
        return Scrypt(salt=salt, length=64, n=cost, r=block, p=parallel).derive(password)
    except ValueError as error:
        raise DamagedError(f"A key file has parameters scrypt refuses ({error}).") from error
