"""Compare two directory trees: types, content, modes, owners, times, attributes, links."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """Properties of a file of any type; `content` is a SHA-256, `rdev` a device number."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    content: str = ""
    target: bytes = b""
    rdev: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    twins: frozenset[bytes] = field(default=frozenset())


def records(top: bytes | str) -> dict[bytes, Record]:
    """Return a record for each path below `top`, by relative path; `top` itself is ``b""``.

    `twins` are all paths below `top` that are hard links to the same file.
    """
    top = os.fsencode(top)
    found: dict[bytes, Record] = {}
    inodes: dict[tuple[int, int], set[bytes]] = {}
    files: dict[bytes, tuple[int, int]] = {}
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        full = os.path.join(top, path) if path else top
        status = os.lstat(full)
        if stat.S_ISDIR(status.st_mode):
            waiting += [os.path.join(path, name) for name in os.listdir(full)]
        elif status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            inodes.setdefault(key, set()).add(path)
            files[path] = key
        found[path] = _record(full, status)
    for path, key in files.items():
        if len(inodes[key]) > 1:
            found[path] = _with_twins(found[path], frozenset(inodes[key]))
    return found


def _record(full: bytes, status: os.stat_result) -> Record:
    is_directory = stat.S_ISDIR(status.st_mode)
    device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    is_link = stat.S_ISLNK(status.st_mode)
    return Record(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=0 if is_directory else status.st_size,
        content=_digest(full) if stat.S_ISREG(status.st_mode) else "",
        target=os.readlink(full) if is_link else b"",
        rdev=status.st_rdev if device else 0,
        xattrs=_xattrs(full),
    )


def _with_twins(record: Record, twins: frozenset[bytes]) -> Record:
    return Record(
        record.mode, record.uid, record.gid, record.mtime_ns, record.size, record.content,
        record.target, record.rdev, record.xattrs, twins,
    )  # fmt: skip


def _digest(full: bytes) -> str:
    with open(full, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(full: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = os.listxattr(full, follow_symlinks=False)
    return tuple(
        sorted((os.fsencode(n), os.getxattr(full, n, follow_symlinks=False)) for n in names)
    )


def differences(ours: dict[bytes, Record], theirs: dict[bytes, Record]) -> list[str]:
    """Return one line for each path that differs; an empty list if the trees are equal."""
    lines = [f"only in the first: {path!r}" for path in sorted(ours.keys() - theirs.keys())]
    lines += [f"only in the second: {path!r}" for path in sorted(theirs.keys() - ours.keys())]
    lines += [
        f"{path!r}: {ours[path]} != {theirs[path]}"
        for path in sorted(ours.keys() & theirs.keys())
        if ours[path] != theirs[path]
    ]
    return lines
