"""Deriving keys ahead: scrypt runs in a thread while the program still imports its modules.

Key derivation takes half a second by design.  What needs it later takes the running derivation up
instead of beginning its own.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Final

from cesbrfs.access import Secret, local_folder, redact
from cesbrfs.errors import CesbrError
from cesbrfs.repo.model import KeyFile, parse_key_file
from cesbrfs.repo.scrypt import stretch


class _Derivation(threading.Thread):
    """One derivation under way; `outcome` is there once the thread has ended."""

    def __init__(self, password: bytes, key_file: KeyFile) -> None:
        super().__init__(name="key derivation", daemon=True)
        self._password = password
        self._key_file = key_file
        self.outcome: bytes | CesbrError | None = None

    def run(self) -> None:
        try:
            self.outcome = stretch(self._password, self._key_file)
        except CesbrError as error:
            self.outcome = error


_Question = tuple[bytes, int | None, int | None, int | None, bytes | None]
_started: Final[dict[_Question, _Derivation]] = {}


def _question(password: bytes, key_file: KeyFile) -> _Question:
    return (password, key_file.N, key_file.r, key_file.p, key_file.salt)


def kept_keys(shown: str, cache_dir: Path) -> Path:
    """Return the folder that keeps the key file of a repository behind a network, as it is there.

    `shown` is the repository's address without secrets.
    """
    return cache_dir / "keys" / hashlib.sha256(shown.encode(errors="surrogateescape")).hexdigest()


def derive_ahead(url: str, password: Secret, cache_dir: Path) -> None:
    """Begin to derive the keys that the only key file of a repository asks for.

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
        _started[question] = _Derivation(password.value, key_file)
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
