"""The record of a change of the encryption key that is not complete, in a private file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from cesbr.state.state_dir import private_directory
from cesbrfs.change_key import KeyChange
from cesbrfs.errors import CesbrError
from cesbrfs.util.atomicfile import write_atomic
from cesbrfs.util.secret import Secret


class _File(msgspec.Struct):
    old: str
    new: bytes


class KeyChangeRecord:
    """The record for one repository; `directory` is the state directory."""

    def __init__(self, directory: Path | None, repository: str) -> None:
        kept = private_directory(directory / "key-changes") if directory is not None else None
        if kept is None:
            raise CesbrError(
                "The change cannot be recorded: there is no state directory. Set HOME or"
                " XDG_STATE_HOME."
            )
        self._file = kept / f"{repository}.json"

    def read(self) -> KeyChange | None:
        """Return the change that was begun, None if there is none."""
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            found = msgspec.json.decode(self._file.read_bytes(), type=_File)
            return KeyChange(found.old, Secret(found.new))
        return None

    def write(self, change: KeyChange) -> None:
        """Record it durably."""
        try:
            write_atomic(self._file, msgspec.json.encode(_File(change.old, change.new.value)))
        except OSError as error:
            raise CesbrError(f"Cannot write {self._file}: {error.strerror}.") from error

    def remove(self) -> None:
        """Forget it."""
        with suppress(FileNotFoundError):
            os.unlink(self._file)
