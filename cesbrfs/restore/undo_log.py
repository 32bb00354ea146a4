"""The undo log of a restore: what it replaces, creates and deletes, to undo it. Blocking.

There is one private file per restore, with a JSON array per line. What will be replaced or deleted
is logged and flushed to disk before the first change; created files and directories are logged
before they get their names. A restore that is resumed continues its log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from cesbrfs.errors import NotFoundError, RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore.metadata import handle, read_attributes
from cesbrfs.util.append import append_lines
from cesbrfs.util.escape import show, unshow

_SUFFIX: Final = ".undo"
_FRACTION_BITS: Final = 24
"""Six hexadecimal digits."""


class WrittenFile(NamedTuple):
    """A file as the restore wrote it; `created`: none existed in its place."""

    inode: int
    size: int
    mtime_ns: int
    created: bool

    def is_there(self, status: os.stat_result) -> bool:
        """Return whether a file is the one that was written, unchanged."""
        found = (status.st_ino, status.st_size, status.st_mtime_ns)
        return found == (self.inode, self.size, self.mtime_ns)


@dataclass(slots=True)
class UndoRecord:
    """The content of an undo log.

    `target` is what all paths are relative to (`in_place`: the root of an instance), `paths` are
    the restored ones, `followed` the
    symlinks that lead to directories of the instance. `places` are the directories that contain
    replaced files; `empty` ones were removed. `replaced` and `deleted` were intended, `files` were
    about to be written.
    `directories` existed and have these attributes, or were created (None); `removed` directories
    were deleted. `undone` and `removing`: the log is finished, or is being removed.
    """

    id: str
    file: Path
    time: str = ""
    target: Path = Path("/")
    backup: str = ""
    paths: tuple[bytes, ...] = ()
    in_place: bool = False
    followed: tuple[tuple[bytes, ...], ...] = ()
    places: list[Path] = field(default_factory=list)
    empty: set[Path] = field(default_factory=set)
    replaced: dict[bytes, None] = field(default_factory=dict)
    deleted: dict[bytes, None] = field(default_factory=dict)
    files: dict[bytes, WrittenFile] = field(default_factory=dict)
    directories: dict[bytes, Node | None] = field(default_factory=dict)
    removed: dict[bytes, Node] = field(default_factory=dict)
    undone: bool = False
    removing: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to undo."""
        return not (self.replaced or self.deleted or self.files or self.directories or self.removed)

    def overlaps(self, other: UndoRecord) -> bool:
        """Whether both restores wrote to the same path, or one below a path of the other."""
        return self.target == other.target and any(
            _is_below(one, two) or _is_below(two, one) for one in self.paths for two in other.paths
        )

    def take(self, line: bytes) -> None:
        """Parse one line; incomplete and invalid lines are ignored."""
        with suppress(ValueError, RecursionError, LookupError, TypeError, AttributeError):
            self._take(msgspec.json.decode(line))

    def _take(self, fields: object) -> None:
        match fields:
            case ["restore", dict(header)]:
                self._begin(header)
            case ["place", str(path)]:
                place = Path(os.fsdecode(unshow(path) or b""))
                self.empty.discard(place)
                if place not in self.places:
                    self.places.append(place)
            case ["empty", str(path)]:
                self.empty.add(Path(os.fsdecode(unshow(path) or b"")))
            case ["undone"]:
                self.undone = True
            case ["removing"]:
                self.removing = True
            case [str(kind), str(path), *rest] if (name := unshow(path)) is not None:
                self._path(kind, name, rest)

    def _begin(self, header: Mapping[str, Any]) -> None:
        paths = tuple(name for p in header["paths"] if (name := unshow(p)) is not None)
        target = Path(os.fsdecode(unshow(header["target"]) or b"/"))
        self.time, self.backup = header["time"], header["backup"]
        self.target, self.paths, self.in_place = target, paths, header["in_place"]

    def _path(self, kind: str, name: bytes, rest: list[Any]) -> None:
        match kind, rest:
            case "follows", []:
                self.followed = (*self.followed, tuple(name.split(b"/")))
            case "replaces", []:
                self.replaced[name] = None
            case "deletes", []:
                self.deleted[name] = None
            case "file", [int(inode), int(size), int(mtime), bool(created)]:
                first = self.files.get(name)  # a resumed restore may write it a second time
                created = first.created if first else created
                self.files[name] = WrittenFile(inode, size, mtime, created)
            case "directory", [attributes]:
                self.directories.setdefault(name, attributes and _node(name, attributes))
            case "removes", [attributes]:
                self.removed.setdefault(name, _node(name, attributes))


def _is_below(path: bytes, top: bytes) -> bool:
    return not top or path == top or path.startswith(top + b"/")


@dataclass(frozen=True, slots=True)
class NewUndo:
    """The undo log of a restore that begins: its file, and what is restored."""

    file: Path
    backup: str
    in_place: bool = False


class UndoLog:
    """Appends to the undo log of a restore; several threads and processes may do so at once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: Final = descriptor

    @classmethod
    def open(cls, file: Path) -> UndoLog:
        """Open the log `file`, created with mode 0600; raises RestoreError."""
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            return cls(os.open(file, flags, 0o600))
        except OSError as error:
            raise RestoreError(f"Cannot write the undo log {file}: {error.strerror}.") from error

    def add(self, *lines: tuple[object, ...], sync: bool = False) -> None:
        """Append lines; raises OSError."""
        append_lines(self.descriptor, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        if sync:
            os.fsync(self.descriptor)

    def begin(self, new: NewUndo, target: Path, paths: Iterable[bytes]) -> None:
        """Record which restore this is; raises OSError."""
        header = {
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "backup": new.backup,
            "target": show(os.fsencode(target)),
            "in_place": new.in_place,
            "paths": [show(path) for path in paths],
        }
        self.add(("restore", header))

    def files(self, files: Iterable[tuple[bytes, os.stat_result, bool]]) -> None:
        """Record files (path, status, whether created) that are about to get their names."""
        self.add(
            *(
                ("file", show(path), status.st_ino, status.st_size, status.st_mtime_ns, created)
                for path, status, created in files
            )
        )

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def attributes_of(opened: int, mode: int | None = None) -> dict[str, object]:
    """Return the attributes of an open directory (O_PATH) for the log, with `mode` if given.

    Raises OSError if the file system fails.
    """
    status = os.stat(opened)
    xattrs = read_attributes(handle(opened))
    return {
        "mode": status.st_mode if mode is None else mode | (status.st_mode & ~0o7777),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "atime": status.st_atime_ns,
        "mtime": status.st_mtime_ns,
        "xattrs": {show(os.fsencode(name)): value.hex() for name, value in xattrs.items()},
    }


def _node(name: bytes, attributes: Mapping[str, Any]) -> Node:
    xattrs = attributes["xattrs"].items()
    return Node(
        name,
        "dir",
        attributes["mode"],
        mtime_ns=attributes["mtime"],
        atime_ns=attributes["atime"],
        uid=attributes["uid"],
        gid=attributes["gid"],
        xattrs=tuple((unshow(key) or b"", bytes.fromhex(value)) for key, value in xattrs),
    )


def new_undo_id() -> str:
    """Return an ID for a restore that begins now.

    IDs sort by time, also within a second, because restores are undone in reverse order.
    """
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    fraction = (nanoseconds << _FRACTION_BITS) // 1_000_000_000
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}-{fraction:06x}"


def log_file(directory: Path, undo_id: str) -> Path:
    """Return the path of the undo log with this ID."""
    return directory / f"{undo_id}{_SUFFIX}"


def read_log(file: Path) -> UndoRecord:
    """Return the content of an undo log; raises OSError."""
    record = UndoRecord(file.name.removesuffix(_SUFFIX), file)
    with file.open("rb") as lines:
        for line in lines:
            record.take(line)
    return record


def read_logs(directory: Path) -> list[UndoRecord]:
    """Return all undo logs, oldest first; raises RestoreError."""
    records: list[UndoRecord] = []
    try:
        for file in sorted(directory.glob(f"*{_SUFFIX}")):
            with suppress(FileNotFoundError):
                records.append(read_log(file))
    except OSError as error:
        reason = error.strerror
        raise RestoreError(f"Cannot read the undo logs in {directory}: {reason}.") from error
    return records


def find_log(records: list[UndoRecord], wanted: str | None) -> UndoRecord:
    """Return the log whose ID begins with `wanted`, or the last one that is not undone.

    Raises NotFoundError.
    """
    if wanted is None:
        possible = [record for record in records if not (record.undone or record.removing)]
        if not possible:
            raise NotFoundError("There is no restore to undo.")
        return possible[-1]
    found = [record for record in records if record.id.startswith(wanted)]
    if len(found) != 1:
        what = "several restores begin with" if found else "there is no restore"
        raise NotFoundError(
            f"Cannot undo: {what} '{show(os.fsencode(wanted))}'. Run 'cesbr undo --list' for their"
            " IDs."
        )
    return found[0]
