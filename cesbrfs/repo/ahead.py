"""Deriving keys ahead: scrypt runs in a thread while the program still imports its modules.

Key derivation takes half a second by design.  What needs it later takes the running derivation up
instead of beginning its own.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from cesbrfs.access import Secret
from cesbrfs.errors import CesbrError
from cesbrfs.repo.crypto import Keys, derive
from cesbrfs.repo.model import KeyFile, parse_key_file


class _Derivation(threading.Thread):
    """One derivation under way; `outcome` is there once the thread has ended."""

    def __init__(self, password: bytes, key_file: KeyFile) -> None:
        super().__init__(name="key derivation", daemon=True)
        self._password = password
        self._key_file = key_file
        self.outcome: Keys | CesbrError | None = None

    def run(self) -> None:
        try:
            self.outcome = derive(self._password, self._key_file)
        except CesbrError as error:
            self.outcome = error


_Question = tuple[bytes, int | None, int | None, int | None, bytes | None]
_started: Final[dict[_Question, _Derivation]] = {}


def _question(password: bytes, key_file: KeyFile) -> _Question:
    return (password, key_file.N, key_file.r, key_file.p, key_file.salt)


def derive_ahead(folder: str | None, password: Secret) -> None:
    """Begin to derive the keys that the only key file of a local repository asks for.

    Does nothing where there is none, or more than one: which it will be is not known yet.
    """
    if folder is None:
        return
    try:
        names = os.listdir(os.path.join(folder, "keys"))
        if len(names) != 1:
            return
        with open(os.path.join(folder, "keys", names[0]), "rb") as file:
            key_file = parse_key_file(file.read())
    except (OSError, CesbrError):
        return  # whoever opens the repository gets to know why
    started = _Derivation(password.value, key_file)
    _started[_question(password.value, key_file)] = started
    started.start()


def derived(password: bytes, key_file: KeyFile) -> Keys:
    """Return what `crypto.derive` returns, or raise what it raises; waits where it is under way."""
    started = _started.pop(_question(password, key_file), None)
    if started is None:
        return derive(password, key_file)
    started.join()
    if isinstance(started.outcome, Keys):
        return started.outcome
    return derive(password, key_file)  # raises again what it raised in the thread
