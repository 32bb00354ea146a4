"""Deriving keys ahead: scrypt runs in a thread while the program still imports its modules.

Key derivation takes half a second by design.  What needs it later takes the running derivation up
instead of beginning its own.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Final

from cesbrfs.access import Secret, local_folder, redact
from cesbrfs.errors import CesbrError
from cesbrfs.repo.model import KeyFile, parse_key_file
from cesbrfs.repo.scrypt import stretch

_WORTH_KEEPING: Final = 0.1
"""Seconds that a derivation takes at least whose result others may want to have."""


class _Derivation(threading.Thread):
    """One derivation under way; `outcome` is there once the thread has ended."""

    def __init__(self, password: bytes, key_file: KeyFile, keep_seconds: float) -> None:
        super().__init__(name="key derivation", daemon=True)
        self._password = password
        self._key_file = key_file
        self._keep_seconds = keep_seconds
        self.outcome: bytes | CesbrError | None = None

    def run(self) -> None:
        try:
            self.outcome = self._kept() if self._keep_seconds else self._stretched()
        except CesbrError as error:
            self.outcome = error

    def _stretched(self) -> bytes:
        return stretch(self._password, self._key_file)

    def _kept(self) -> bytes:
        from cesbrfs.repo import keyring  # noqa: PLC0415 - brings ctypes with it

        raw = keyring.recall(self._password, self._key_file)
        if raw is None:
            began = time.monotonic()
            raw = self._stretched()
            if time.monotonic() - began > _WORTH_KEEPING:
                keyring.keep(self._password, self._key_file, raw, self._keep_seconds)
        return raw


_Question = tuple[bytes, int | None, int | None, int | None, bytes | None]
_started: Final[dict[_Question, _Derivation]] = {}


def _question(password: bytes, key_file: KeyFile) -> _Question:
    return (password, key_file.N, key_file.r, key_file.p, key_file.salt)


def kept_keys(shown: str, cache_dir: Path) -> Path:
    """Return the folder that keeps the key file of a repository behind a network, as it is there.

    `shown` is the repository's address without secrets.
    """
    return cache_dir / "keys" / hashlib.sha256(shown.encode(errors="surrogateescape")).hexdigest()


def derive_ahead(url: str, password: Secret, cache_dir: Path, keep_seconds: float = 0) -> None:
    """Begin to derive the keys that the only key file of a repository asks for.

    Others that are started within `keep_seconds` need not do it again.

    Does nothing where none is at hand, or more than one: which it will be is not known yet.  Of a
    repository behind a network it is the one that was opened last.
    """
    local = local_folder(url)
    folder = Path(local, "keys") if local is not None else kept_keys(redact(url), cache_dir)
    try:
        names = os.listdir(folder)
        if len(names) != 1:
            return
        with open(folder / names[0], "rb") as file:
            key_file = parse_key_file(file.read())
    except (OSError, CesbrError):
        return  # whoever opens the repository gets to know why
    question = _question(password.value, key_file)
    if question not in _started:
        _started[question] = _Derivation(password.value, key_file, keep_seconds)
        _started[question].start()


def derived(password: bytes, key_file: KeyFile) -> bytes:
    """Return what `stretch` returns, or raise what it raises; waits where it is under way."""
    started = _started.pop(_question(password, key_file), None)
    if started is None:
        return stretch(password, key_file)
    started.join()
    if isinstance(started.outcome, bytes):
        return started.outcome
    return stretch(password, key_file)  # raises again what it raised in the thread
