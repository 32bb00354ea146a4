"""The restore drills of a repository: when each dogu last proved restorable, and last failed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from cesbr.state.state_dir import private_directory, write_private
from cesbrfs.errors import CesbrError

_FORMAT: Final = 1


class Drill(msgspec.Struct, frozen=True):
    """One drill of a dogu. `time` is in seconds since the epoch, `share` 1 for all files."""

    time: float
    backup: str
    share: float
    files: int
    bytes: int


class DrillHistory(msgspec.Struct):
    """The last successful and the last failed drill of each dogu."""

    passed: dict[str, Drill] = {}
    failed: dict[str, Drill] = {}

    def oldest(self, dogus: Iterable[str]) -> tuple[str, Drill | None] | None:
        """Return the dogu whose last success is the oldest, or that has none; None without dogus.

        A dogu that failed since its last success has none.
        """
        found = [(dogu, self.valid(dogu)) for dogu in dogus]
        return min(found, key=lambda one: one[1].time if one[1] else 0, default=None)

    def valid(self, dogu: str) -> Drill | None:
        """Return the last successful drill of a dogu unless it has failed since then."""
        passed, failed = self.passed.get(dogu), self.failed.get(dogu)
        return None if passed is None or (failed and failed.time >= passed.time) else passed


class _File(msgspec.Struct):
    format: int
    history: DrillHistory


def _file(directory: Path, repository: str) -> Path:
    return directory / "drills" / f"{repository}.json"


def read_drills(directory: Path | None, repository: str) -> DrillHistory:
    """Return what is recorded for a repository; nothing if it is not a valid record.

    Raises CesbrError if the file cannot be read.
    """
    if directory is None:
        return DrillHistory()
    file = _file(directory, repository)
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return DrillHistory()
    except OSError as error:
        raise CesbrError(
            f"Cannot read the recorded drills in {file}: {error.strerror}. Check the disk and the"
            " permissions."
        ) from error
    with suppress(ValueError, RecursionError):
        found = msgspec.json.decode(data, type=_File)
        if found.format == _FORMAT:
            return found.history
    return DrillHistory()


def shown_drills(directory: Path | None, repository: str) -> DrillHistory:
    """Like `read_drills`, but return nothing if the file cannot be read."""
    with suppress(CesbrError):
        return read_drills(directory, repository)
    return DrillHistory()


def record_drill(
    directory: Path | None, repository: str, dogu: str, drill: Drill, *, passed: bool
) -> None:
    """Record a drill; raises CesbrError if the record cannot be read or written."""
    kept = private_directory(directory / "drills") if directory is not None else None
    if directory is None or kept is None:
        raise CesbrError(
            "The result cannot be recorded: there is no state directory. Set HOME or"
            " XDG_STATE_HOME."
        )
    opened = os.open(kept, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        history = read_drills(directory, repository)
        (history.passed if passed else history.failed)[dogu] = drill
        file = _file(directory, repository)
        write_private(file, msgspec.json.encode(_File(_FORMAT, history)))
    except OSError as error:
        raise CesbrError(f"The result cannot be recorded: {error.strerror}.") from error
    finally:
        os.close(opened)
