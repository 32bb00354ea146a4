"""The paths of a backup: which of them are there, why one could not be read, as restic's flags."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.restic.events import Failed, bytes_of_path

PathLike = str | bytes | os.PathLike[str]

_PATTERN_SIGNS: Final = str.maketrans({char: "\\" + char for char in "\\*?["})


def absolute(path: PathLike) -> bytes:
    """Return `path` as an absolute path; restic reports relative ones as it was given them."""
    found = os.fsencode(path)
    return found if found.startswith(b"/") else os.path.join(os.getcwdb(), found)


def split_missing(paths: Sequence[bytes]) -> tuple[list[bytes], dict[bytes, str]]:
    """Return the paths that are there, and those that are not with what to say of them.

    restic skips a missing path with a remark and, before 0.19, calls that a success.
    """
    there: list[bytes] = []
    missing: dict[bytes, str] = {}
    for path in paths:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            missing[path] = "does not exist"
        except OSError:
            there.append(path)  # restic reports why it cannot be read
        else:
            there.append(path)
    return there, missing


def item_errors(failed: Mapping[str, Failed]) -> dict[bytes, str]:
    """Return why each item could not be read, by its path's true bytes."""
    paths = {bytes_of_path(item, _names_in): event for item, event in failed.items()}
    return {path: event.reason or _reason(path) for path, event in paths.items()}


def _names_in(directory: bytes) -> list[bytes]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _reason(path: bytes) -> str:
    """Find out why `path` cannot be read, where restic (0.14, for directories) does not say."""
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

    A value stands behind ``=`` and is never taken for a flag.  Raises UsageError for a tag that
    restic would not keep as it is.
    """
    found: list[str] = []
    for tag in tags:
        if not tag or "," in tag:  # restic would make several tags of it
            raise UsageError(f"{tag!r} cannot be a tag; a tag is not empty and has no comma.")
        found.append(f"--tag={tag}")
    for name, value in (("host", host), ("parent", parent), ("time", time)):
        if value is not None:
            found.append(f"--{name}={value}")
    found += [f"--exclude={os.fsdecode(path).translate(_PATTERN_SIGNS)}" for path in exclude]
    return found
