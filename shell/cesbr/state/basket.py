"""The basket: what was selected for a restore, kept from session to session.

It is a file for each repository, which several shells may share.  A path names its backup by its
ID, never as ``latest``, and no path is below another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cesbr.state.state_dir import private_directory, write_private
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.util.escape import show, unshow

Parts = tuple[bytes, ...]
"""The names from the root of the backups on."""

_FORMAT: Final = 1


class BasketError(CesbrError):
    """The selection cannot be read or kept."""


class Basket:
    """The selected paths of one repository, sorted; kept in memory if `directory` is None."""

    def __init__(self, directory: Path | None, repository: str) -> None:
        directory = private_directory(directory / "selected") if directory else None
        self._repository: Final = repository
        self._directory: Final = directory
        self._file: Final = directory / f"{repository}.json" if directory else None
        self._in_memory: tuple[Parts, ...] = ()

    @property
    def paths(self) -> tuple[Parts, ...]:
        """What is selected now."""
        if self._file is None:
            return self._in_memory
        try:
            return parse(self._file.read_text("utf-8", "surrogateescape"))
        except FileNotFoundError:
            return ()
        except (OSError, UsageError) as error:
            reason = error.message if isinstance(error, UsageError) else f"{error}."
            raise BasketError(f"Cannot read {self._file}: {reason} Remove it.") from error

    def add(self, places: Iterable[Parts]) -> int:
        """Select these, too; return how many were not selected before."""
        with self._locked():
            before = self.paths
            after = topmost([*before, *places])
            self._keep(after)
            return len(set(after) - set(before))

    def remove(self, places: Iterable[Parts]) -> None:
        """Forget these."""
        with self._locked():
            gone = set(places)
            self._keep(tuple(parts for parts in self.paths if parts not in gone))

    def dump(self) -> str:
        """Return it as `parse` reads it."""
        return _dump(self._repository, self.paths)

    def _keep(self, paths: tuple[Parts, ...]) -> None:
        self._in_memory = paths
        if self._file is None:
            return
        try:
            text = _dump(self._repository, paths)
            write_private(self._file, text.encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise BasketError(f"Cannot write {self._file}: {error.strerror}.") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other shells from changing the file at the same time."""
        if self._directory is None:
            yield
            return
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def topmost(paths: Iterable[Parts]) -> tuple[Parts, ...]:
    """Return the paths sorted, without those below another one."""
    top: list[Parts] = []
    for parts in sorted(set(paths)):  # sorted: paths below another follow it directly
        if not top or parts[: len(top[-1])] != top[-1]:
            top.append(parts)
    return tuple(top)


def shown(parts: Parts) -> str:
    """Return a path in the escaped form that `parse` reads."""
    return "/" + "/".join(map(show, parts))


def _dump(repository: str, paths: Iterable[Parts]) -> str:
    value = {"format": _FORMAT, "repository": repository, "paths": list(map(shown, paths))}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def parse(text: str) -> tuple[Parts, ...]:
    """Return the paths of a saved selection; UsageError where it is none."""
    try:
        value = json.loads(text)
        if value["format"] != _FORMAT:
            raise UsageError(
                f"It has format {value['format']}, which this version does not support."
            )
        paths = [[unshow(part) for part in path.split("/") if part] for path in value["paths"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError("It is not a saved selection.") from None
    selected: list[Parts] = []
    for path, parts in zip(value["paths"], paths, strict=True):
        names = tuple(part for part in parts if part)
        if not names or len(names) < len(parts):
            raise UsageError(f"It contains {path!r}, which is not a path in a backup.")
        selected.append(names)
    return topmost(selected)
