"""Derive keys with scrypt, in a thread that runs while the program still imports its modules.

Key derivation takes half a second by design. `derive_ahead` starts it, and `derived` waits for a
running derivation instead of starting a second one.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Final

from cesbrfs.errors import CesbrError, DamagedError
from cesbrfs.repo.format.crypto import Keys, keys_from_bytes
from cesbrfs.repo.format.model import KeyFile, parse_key_file
from cesbrfs.repo.location import local_directory
from cesbrfs.util.secret import Secret, redact

_MEMORY: Final = 1 << 30
"""Maximum memory of a key derivation in bytes (restic's own key files need 32 MiB)."""
USUAL_WORK: Final = 1 << 22
"""Maximum work of a key file that is tried without being postponed (restic's: 2**20, 0.5 s)."""
_WORK_MAX: Final = 1 << 24
"""Maximum work of one key file."""
ALL_WORK_MAX: Final = 1 << 25
"""Maximum total work of the key files that are tried with one password."""


def work_of(key_file: KeyFile) -> int:
    """Return the work of deriving a key, as the product of the scrypt parameters N, r and p."""
    return (key_file.N or 0) * (key_file.r or 0) * (key_file.p or 0)


def scrypt_key(password: bytes, key_file: KeyFile) -> bytes:
    """Derive the 64 bytes of key material for `key_file`; takes about half a second.

    Raises DamagedError if the scrypt parameters are missing, invalid or too expensive.
    """
    from cryptography.hazmat.primitives.kdf.scrypt import (
        Scrypt,
    )

    cost, block, parallel, salt = key_file.N, key_file.r, key_file.p, key_file.salt
    if key_file.kdf != "scrypt" or not cost or not block or not parallel or salt is None:
        raise DamagedError("Invalid key file: no valid scrypt parameters. Run 'cesbr check'.")
    memory = 128 * block * (cost + parallel + 2)
    if min(cost, block, parallel) < 0:
        raise DamagedError("Invalid key file: negative scrypt parameter. Run 'cesbr check'.")
    if memory > _MEMORY or work_of(key_file) > _WORK_MAX:
        raise DamagedError("Key file rejected: its scrypt parameters exceed the limit.")
    try:
        # A sixth faster than hashlib.scrypt, which depends on the system's OpenSSL.
        return Scrypt(salt=salt, length=64, n=cost, r=block, p=parallel).derive(password)
    except ValueError as error:
        raise DamagedError(f"Invalid key file: invalid scrypt parameters ({error}).") from error


def derive_keys(password: bytes, key_file: KeyFile) -> Keys:
    """Derive the keys that decrypt `key_file` from `password`; raises like `scrypt_key`."""
    return keys_from_bytes(scrypt_key(password, key_file))


class _Derivation(threading.Thread):
    """A key derivation in a thread; `outcome` is set when the thread has ended."""

    def __init__(self, password: bytes, key_file: KeyFile) -> None:
        super().__init__(name="key derivation", daemon=True)
        self._password = password
        self._key_file = key_file
        self.outcome: bytes | CesbrError | None = None

    def run(self) -> None:
        try:
            self.outcome = scrypt_key(self._password, self._key_file)
        except CesbrError as error:
            self.outcome = error


_Question = tuple[bytes, int | None, int | None, int | None, bytes | None]
_started: Final[dict[_Question, _Derivation]] = {}


def _question(password: bytes, key_file: KeyFile) -> _Question:
    return (password, key_file.N, key_file.r, key_file.p, key_file.salt)


def kept_keys(display_url: str, cache_dir: Path) -> Path:
    """Return the cache directory for the key file of a remote repository.

    `display_url` is the repository's address without secrets.
    """
    digest = hashlib.sha256(display_url.encode(errors="surrogateescape"))
    return cache_dir / "keys" / digest.hexdigest()


def derive_ahead(url: str, password: Secret, cache_dir: Path) -> None:
    """Start deriving the keys of a repository that has exactly one key file.

    With several key files it is not known which one will be used. For a remote repository, this
    uses the cached copy of the key file that opened it last.
    """
    local = local_directory(url)
    directory = Path(local, "keys") if local is not None else kept_keys(redact(url), cache_dir)
    try:
        names = os.listdir(directory)
        if len(names) != 1:
            return
        with open(directory / names[0], "rb") as file:
            key_file = parse_key_file(file.read())
    except (OSError, CesbrError):
        return  # opening the repository reports the error
    question = _question(password.value, key_file)
    if question not in _started:
        _started[question] = _Derivation(password.value, key_file)
        _started[question].start()


def derived(password: bytes, key_file: KeyFile) -> bytes:
    """Like `scrypt_key`, but waits for the derivation if `derive_ahead` has started it."""
    started = _started.pop(_question(password, key_file), None)
    if started is None:
        return scrypt_key(password, key_file)
    started.join()
    if isinstance(started.outcome, bytes):
        return started.outcome
    return scrypt_key(password, key_file)  # raises the thread's error in this one
