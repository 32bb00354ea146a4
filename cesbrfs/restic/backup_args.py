"""Build the arguments of a backup, and find out which paths are missing or not readable."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.restic.events import Failed, bytes_of_path

PathLike = str | bytes | os.PathLike[str]

REPLACED_FILES: Final = ".cesbr-undo"
"""Directories in which restores keep replaced files, and which are not backed up."""
_PATTERN_SIGNS: Final = str.maketrans({char: "\\" + char for char in "\\*?["})


def absolute(path: PathLike) -> bytes:
    """Return `path` as an absolute path, because restic reports errors of a path as given."""
    raw = os.fsencode(path)
    return raw if raw.startswith(b"/") else os.path.join(os.getcwdb(), raw)


def split_missing(paths: Sequence[bytes]) -> tuple[list[bytes], dict[bytes, str]]:
    """Split `paths` into existing ones, and missing ones with an error message.

    restic skips a missing path with a message and, before 0.19, exits with 0.
    """
    existing: list[bytes] = []
    missing: dict[bytes, str] = {}
    for path in paths:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            missing[path] = "does not exist"
        except OSError:
            existing.append(path)  # restic reports why it cannot be read
        else:
            existing.append(path)
    return existing, missing


def item_errors(failed: Mapping[str, Failed]) -> dict[bytes, str]:
    """Return why each item could not be read, keyed by the exact bytes of its path."""
    paths = {bytes_of_path(item, _names_in): event for item, event in failed.items()}
    return {path: event.reason or _reason(path) for path, event in paths.items()}


def _names_in(directory: bytes) -> list[bytes]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _reason(path: bytes) -> str:
    """Return why `path` cannot be read; restic 0.14 reports no reason for directories."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)
        elif stat.S_ISREG(mode):
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return os.strerror(error.errno).lower() if error.errno else "could not be read"
    return "could not be read"


def backup_flags(
    *,
    tags: Sequence[str],
    host: str | None,
    parent: str | None,
    time: str | None,
    exclude: Sequence[PathLike],
) -> list[str]:
    """Return the flags of a backup; `exclude` are literal paths.

    Values follow ``=``, so that none is parsed as a flag. Raises UsageError for a tag that is empty
    or contains a comma.
    """
    flags: list[str] = []
    for tag in tags:
        if not tag or "," in tag:  # restic would split it into several tags
            raise UsageError(f"Invalid tag {tag!r}: it is empty or contains a comma.")
        flags.append(f"--tag={tag}")
    for name, value in (("host", host), ("parent", parent), ("time", time)):
        if value is not None:
            flags.append(f"--{name}={value}")
    flags += [f"--exclude={os.fsdecode(path).translate(_PATTERN_SIGNS)}" for path in exclude]
    return flags
