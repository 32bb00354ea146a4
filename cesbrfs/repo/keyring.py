"""What a password was stretched to, kept in the kernel's memory for some minutes, masked.

It is of use only to who has the password, whom it saves the half second that scrypt takes by
design: what is kept was masked with a much quicker scrypt of it.  It lies in the keyring of the
user, so that nobody else can read it, is never swapped out, and is forgotten after its time.
See docs/adr/0016.  Where the kernel has no keyrings, or lets nobody use them, nothing is kept.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import sys
from collections.abc import Mapping
from typing import Final

from cesbrfs.repo.model import KeyFile

_NUMBERS: Final[Mapping[str, tuple[int, int]]] = {
    "x86_64": (248, 250), "aarch64": (217, 219), "riscv64": (217, 219),
}  # fmt: skip
"""The system calls add_key and keyctl; glibc has no functions for them."""
_USER_KEYRING: Final = -4
_REVOKE: Final = 3
_SEARCH: Final = 10
_READ: Final = 11
_SET_TIMEOUT: Final = 15
_KIND: Final = b"user"

_COST: Final = 1 << 12
"""scrypt with this takes some 10 ms."""
_SALT_BYTES: Final = 16
_RAW_BYTES: Final = 64
_CHECK_BYTES: Final = 8


def keep(password: bytes, key_file: KeyFile, raw: bytes, seconds: float) -> None:
    """Keep `raw`, to which `password` is stretched for `key_file`."""
    salt = os.urandom(_SALT_BYTES)
    kept = salt + _masked(password, salt, raw) + _check(raw)
    number = _call(0, _KIND, _name(key_file), kept, len(kept), _USER_KEYRING)
    if number > 0 and _call(1, _SET_TIMEOUT, number, math.ceil(seconds)):
        _call(1, _REVOKE, number)  # nothing stays for ever


def recall(password: bytes, key_file: KeyFile) -> bytes | None:
    """Return what was kept for this key file and password, None where nothing was."""
    number = _call(1, _SEARCH, _USER_KEYRING, _KIND, _name(key_file), 0)
    if number <= 0:
        return None
    kept = ctypes.create_string_buffer(_SALT_BYTES + _RAW_BYTES + _CHECK_BYTES)
    if _call(1, _READ, number, kept, len(kept)) != len(kept):
        return None
    salt, masked = kept.raw[:_SALT_BYTES], kept.raw[_SALT_BYTES:-_CHECK_BYTES]
    raw = _masked(password, salt, masked)
    return raw if _check(raw) == kept.raw[-_CHECK_BYTES:] else None


def _name(key_file: KeyFile) -> bytes:
    """Return what the kernel shows in lists; a key file that is taken away is asked for no more."""
    told = repr((key_file.N, key_file.r, key_file.p, key_file.salt, key_file.data))
    return b"cesbr:" + hashlib.sha256(told.encode()).hexdigest()[:32].encode()


def _masked(password: bytes, salt: bytes, raw: bytes) -> bytes:
    """Mask or unmask `raw`."""
    mask = hashlib.scrypt(password, salt=salt, n=_COST, r=8, p=1, dklen=_RAW_BYTES)
    return bytes(one ^ other for one, other in zip(raw, mask, strict=True))


def _check(raw: bytes) -> bytes:
    return hashlib.sha256(b"cesbr" + raw).digest()[:_CHECK_BYTES]


def _call(which: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Make one of the system calls; a negative number where it failed, or there is none."""
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None or sys.maxsize < 1 << 32:  # a 32-bit program on such a machine
        return -1
    try:
        syscall = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return -1
    syscall.restype = ctypes.c_long
    long = [ctypes.c_long(given) if isinstance(given, int) else given for given in arguments]
    return int(syscall(ctypes.c_long(numbers[which]), *long))
