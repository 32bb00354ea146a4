"""Damage one file of a copy of a repository, in one of several ways."""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.damage.truth import Blob, Place

KINDS: Final = ("config", "key", "snapshot", "index", "tree pack", "data pack", "cache")
"""Kinds of files that are damaged. "cache" is a file of the warm cache, not of the repository."""
PACKS: Final = ("tree pack", "data pack")
_REGIONS: Final = ("body", "header", "trailer")
_TRAILER_BYTES: Final = 4


@dataclass(slots=True)
class Damage:
    """A damage: `what` of the files `files` (paths in the repository).

    `region` is the part of a pack that was changed. `changed` has the changed byte ranges of each
    file, and `created` the new files.
    """

    kind: str
    what: str
    files: list[str]
    region: str = ""
    detail: str = ""
    changed: dict[str, tuple[float, float]] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.what} of {self.kind} {' and '.join(self.files)} {self.detail}".rstrip()


_WHOLE: Final = (0.0, math.inf)


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a new inode: the old one is shared with the undamaged repository."""
    path.unlink()
    path.write_bytes(data)


class Damager:
    """Damages files of the directory `top`, whose files are hard links to the originals."""

    def __init__(self, top: Path, damage: Damage, chosen: random.Random, others: list[str]) -> None:
        self._top = top
        self._damage = damage
        self._random = chosen
        self._others = others
        self._file = damage.files[0]
        self._path = top / self._file
        self._data = self._path.read_bytes()

    def apply(self) -> None:
        """Apply the damage, and record what it changed."""
        _DAMAGES[self._damage.what](self)

    def _write(self, data: bytes, start: float, end: float) -> None:
        _replace(self._path, data)
        self._damage.changed[self._file] = (start, end)

    def _range(self) -> tuple[int, int]:
        """Return the bytes that may be changed: the file, or a region of a pack."""
        size = len(self._data)
        if self._damage.kind not in PACKS:
            return 0, size
        header = size - _TRAILER_BYTES - int.from_bytes(self._data[-_TRAILER_BYTES:], "little")
        (self._damage.region,) = self._random.choices(_REGIONS, (3, 1, 1))
        bounds = {
            "body": (0, header),
            "header": (header, size - _TRAILER_BYTES),
            "trailer": (size - _TRAILER_BYTES, size),
        }
        return bounds[self._damage.region]

    def flip(self) -> None:
        """Flip one bit."""
        start, end = self._range()
        at, bit = self._random.randrange(start, end), self._random.randrange(8)
        data = bytearray(self._data)
        data[at] ^= 1 << bit
        self._damage.detail = f"(bit {bit} of byte {at})"
        self._write(bytes(data), at, at + 1)

    def overwrite(self) -> None:
        """Overwrite some bytes with zeros, with random bytes or with another part of the file."""
        start, end = self._range()
        at = self._random.randrange(start, end)
        length = self._random.randrange(1, min(end - at, 4096) + 1)
        source = self._random.randrange(len(self._data))
        new = self._random.choice(
            (
                bytes(length),
                self._random.randbytes(length),
                self._data[source : source + length].ljust(length, b"\0"),
            )
        )
        self._damage.detail = f"(bytes {at} to {at + length})"
        self._write(self._data[:at] + new + self._data[at + length :], at, at + length)

    def truncate(self) -> None:
        """Remove the end of the file."""
        size = self._random.randrange(1, max(2, len(self._data)))
        self._damage.detail = f"(to {size} of {len(self._data)} bytes)"
        self._write(self._data[:size], size, math.inf)

    def empty(self) -> None:
        """Remove all content."""
        self._write(b"", *_WHOLE)

    def remove(self) -> None:
        """Remove the file."""
        self._path.unlink()
        self._damage.changed[self._file] = _WHOLE

    def swap(self) -> None:
        """Exchange the contents of two files of a kind, or take those of a file of another kind."""
        other = self._random.choice(self._others)
        path = self._top / other
        theirs = path.read_bytes()
        self._damage.files.append(other)
        self._write(theirs, *_WHOLE)
        _replace(path, self._data)
        self._damage.changed[other] = _WHOLE

    def append(self) -> None:
        """Append random bytes, zeros, or the content of the file."""
        more = self._random.choice((self._random.randbytes(100), bytes(1), self._data))
        self._damage.detail = f"({len(more)} bytes)"
        # Files are sealed as a whole; a pack is read by ranges.
        pack = self._damage.kind in PACKS
        self._write(self._data + more, *((len(self._data), math.inf) if pack else _WHOLE))

    def duplicate(self) -> None:
        """Copy the file to another name of the same form."""
        name = self._random.randbytes(32).hex()
        directory = self._path.parent
        if self._damage.kind in PACKS:
            directory = self._top / "data" / name[:2]
            directory.mkdir(exist_ok=True)
        suffix = self._path.suffix if self._damage.kind == "cache" else ""
        copy = directory / f"{name}{suffix}"
        shutil.copyfile(self._path, copy)
        self._damage.created.append(str(copy.relative_to(self._top)))

    def directory(self) -> None:
        """Replace the file by a directory."""
        self._path.unlink()
        self._path.mkdir()
        self._damage.changed[self._file] = _WHOLE


_DAMAGES: Final[Mapping[str, Callable[[Damager], None]]] = {
    "bit flip": Damager.flip,
    "overwrite": Damager.overwrite,
    "truncation": Damager.truncate,
    "emptying": Damager.empty,
    "removal": Damager.remove,
    "swap": Damager.swap,
    "appended data": Damager.append,
    "duplicate": Damager.duplicate,
    "directory": Damager.directory,
}
DAMAGES: Final = tuple(_DAMAGES)
_IN_PLACE: Final = ("bit flip", "overwrite")


def repair(top: Path, damage: Damage, original: Path) -> None:
    """Undo a damage of the files below `top`, which are hard links to those below `original`."""
    for file in (*damage.changed, *damage.created):
        path = top / file
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        if file in damage.changed:
            os.link(original / file, path)


def files_by_kind(directory: Path, places: Mapping[Blob, Sequence[Place]]) -> dict[str, list[str]]:
    """Return the files of a repository by kind, as paths in `directory`."""
    trees = {place.pack for (kind, _), found in places.items() if kind == "tree" for place in found}
    kinds = {"keys": "key", "snapshots": "snapshot", "index": "index"}
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for top, _, names in os.walk(directory):
        for name in names:
            path = os.path.relpath(os.path.join(top, name), directory)
            kind = kinds.get(path.partition("/")[0], "config")
            if path.startswith("data/"):
                kind = "tree pack" if path in trees else "data pack"
            found[kind].append(path)
    return {kind: sorted(paths) for kind, paths in found.items()}


def files_of_cache(directory: Path) -> list[str]:
    """Return the files of a cache directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(directory)) for path in files)


def choose(chosen: random.Random, files: Mapping[str, Sequence[str]]) -> tuple[Damage, list[str]]:
    """Choose a damage of one of `files` by kind; return it and the other files to swap with."""
    kinds = [kind for kind in KINDS if files[kind]]
    (kind,) = chosen.choices(kinds, [2 + (kind in PACKS) - (kind == "config") for kind in kinds])
    (what,) = chosen.choices(DAMAGES, [2 if what in _IN_PLACE else 1 for what in DAMAGES])
    file = chosen.choice(files[kind])
    others = [other for other in files[kind] if other != file]
    if not others or chosen.random() < 0.1:  # some swaps are of two kinds
        others = [other for found in files.values() for other in found if other != file]
        others = [other for other in others if (other in files["cache"]) == (kind == "cache")]
    if kind == "config" and what == "duplicate":
        what = "bit flip"
    if not others and what == "swap":
        what = "emptying"
    return Damage(kind, what, [file]), others
