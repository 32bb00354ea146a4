"""Create special files in one directory: all that a file system can contain.

`plant` creates the files. `dress` adds files with modes, owners and attributes; it runs after chown
of the volume, because chown clears setuid bits and capabilities. `set_times` runs last, as any
change updates the times.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from tests.sample.files import Scale

NAMES: tuple[bytes, ...] = (
    b"with space",
    b" leading and trailing ",
    b"it's",
    b'double "quotes"',
    b"""both ' and " of them""",
    b"WR[1].txt",
    b"WR1.txt",  # matches the pattern WR[1].txt
    b"star*",
    b"question?",
    b"back\\slash",
    b"back\\x41slash",
    b"new\nline",
    b"tab\there",
    b"carriage\rreturn",
    b"bell\x07 and escape \x1b[31m",
    b"not utf-8 \xff\xfe\xc3",
    b"latin-1 \xe4\xf6\xfc",
    b"-leading-dash",
    b"--help",
    b".leading-dot",
    b"...",
    b"_underscore",
    b"latest",
    b"%41",
    b"100%",
    b"$HOME",
    b"~",
    b"{a,b}",
    b"semi;colon & | > <",
    b"#hash",
    "emoji \N{ROCKET}".encode(),
    "composed \N{LATIN SMALL LETTER E WITH ACUTE}".encode(),
    "combined e\N{COMBINING ACUTE ACCENT}".encode(),
    "\N{RIGHT-TO-LEFT OVERRIDE}right to left".encode(),
    b"L" * 255,
    ("\N{EURO SIGN}" * 85).encode(),  # 255 bytes, 85 characters
)

TIMES_NS: dict[str, int] = {
    "nanoseconds": 1_700_000_000_123_456_789,
    "one nanosecond": 1_700_000_000_000_000_001,
    "epoch": 0,
    "before the epoch": -1_000_000_000_000_000_001,
    "1902": -2_145_916_800_000_000_000,
    "after 2038": 4_000_000_000_987_654_321,
    "2400": 13_569_465_600_000_000_000,
}

HOLE_BYTES = {"tiny": 2 << 20, "full": 32 << 20}
_MODES: dict[str, int] = {
    "setuid": 0o4755,
    "setgid": 0o2755,
    "sticky": 0o1644,
    "all bits": 0o7777,
    "write only": 0o200,
    "read only": 0o400,
}
_NOBODY = 65534
_BIG_ID = 3_000_000_000  # IDs are unsigned 32-bit integers


def _bytes_path(directory: Path, name: bytes) -> Path:
    return directory / os.fsdecode(name)


@contextlib.contextmanager
def _allowed(notes: list[str], what: str) -> Iterator[None]:
    """Add `what` to the notes if it fails: not root, or not supported by the file system."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL}:
            raise
        notes.append(f"{what}: {error.strerror}")


def plant(directory: Path, scale: Scale) -> list[str]:
    """Create the special files in `directory`; return what was not allowed."""
    notes: list[str] = []
    for part in (_names, _links, _shapes, _special, _times):
        below = directory / part.__name__.removeprefix("_")
        below.mkdir(parents=True)
        part(below, scale, notes)
    return notes


def _names(directory: Path, scale: Scale, notes: list[str]) -> None:
    for name in NAMES:
        _bytes_path(directory, name).write_bytes(b"content of " + name)
    inside = _bytes_path(directory, b"directory [1] \xff 'odd'\n")
    inside.mkdir()
    _bytes_path(inside, b"file * \\ \xfe").write_text("in an odd directory")
    deep = directory
    for depth in range(40):
        deep /= f"level {depth}"
        deep.mkdir()
    (deep / "bottom").write_text("far down")
    crowded = directory / "crowded"
    crowded.mkdir()
    for number in range(2000 if scale == "full" else 30):
        (crowded / f"{number:05}").touch()


def _links(directory: Path, scale: Scale, notes: list[str]) -> None:
    (directory / "here").mkdir()
    (directory / "there").mkdir()
    first = directory / "here/one"
    first.write_text("one file, three names")
    (directory / "here/two").hardlink_to(first)
    (directory / "there/three").hardlink_to(first)
    (directory / "to a file").symlink_to("here/one")
    (directory / "to a directory").symlink_to("here")
    (directory / "upwards").symlink_to("../links/there/three")
    (directory / "absolute").symlink_to("/etc/hostname")
    (directory / "dangling").symlink_to("nothing/here")
    (directory / "to itself").symlink_to("to itself")
    (directory / "long").symlink_to("x/" * 1000 + "y")
    # Its target is UTF-8: restic before 0.16 cannot store another, and no backup would be complete.
    os.symlink("n\u00f6t ascii\n".encode(), os.fsencode(directory) + b"/to odd bytes \xfe")
    with _allowed(notes, "hard link to a symbolic link"):
        os.link(directory / "to a file", directory / "again", follow_symlinks=False)


def _shapes(directory: Path, scale: Scale, notes: list[str]) -> None:
    hole = HOLE_BYTES[scale]
    for name, parts in {
        "hole at the start": (hole, b"end"),
        "hole in the middle": (b"start", hole, b"end"),
        "hole at the end": (b"start", hole),
        "nothing but a hole": (hole,),
    }.items():
        with (directory / name).open("wb") as out:
            for part in parts:
                if isinstance(part, int):
                    out.truncate(out.seek(part, os.SEEK_CUR))
                else:
                    out.write(part)
    (directory / "empty file").touch()
    (directory / "empty directory").mkdir()
    (directory / "one byte").write_bytes(b"\0")
    (directory / "no line end").write_text("a line that does not end")


def _special(directory: Path, scale: Scale, notes: list[str]) -> None:
    os.mkfifo(directory / "fifo")
    for name, kind, major, minor in (
        ("null", stat.S_IFCHR, 1, 3),
        ("loop", stat.S_IFBLK, 7, 0),
        ("large numbers", stat.S_IFCHR, 511, 70000),
    ):
        with _allowed(notes, f"device node {name}"):
            os.mknod(directory / name, kind | 0o600, os.makedev(major, minor))
    # The path of a socket has at most 108 bytes, so use the directory's descriptor in /proc.
    descriptor = os.open(directory, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{descriptor}/socket")
    finally:
        os.close(descriptor)


def _times(directory: Path, scale: Scale, notes: list[str]) -> None:
    for name in TIMES_NS:
        (directory / name).write_text(name)


def dress(directory: Path) -> list[str]:
    """Add files with modes, owners and attributes; return what was not allowed."""
    notes: list[str] = []
    for part in (_modes, _owners, _attributes):
        below = directory / part.__name__.removeprefix("_")
        below.mkdir()
        part(below, notes)
    return notes


def _modes(directory: Path, notes: list[str]) -> None:
    for name, mode in _MODES.items():
        (directory / name).write_text(name)
        (directory / name).chmod(mode)
    (directory / "sticky directory").mkdir()
    (directory / "sticky directory").chmod(0o1777)
    (directory / "setgid directory").mkdir()
    (directory / "setgid directory").chmod(0o2775)
    if os.geteuid() != 0:
        notes.append("files of mode 0000: nobody but root could back them up")
        (directory / "write only").unlink()
        return
    (directory / "nothing allowed").write_text("0000")
    (directory / "nothing allowed").chmod(0)
    (directory / "closed directory").mkdir()
    (directory / "closed directory/inside").write_text("inside")
    (directory / "closed directory").chmod(0)


def _owners(directory: Path, notes: list[str]) -> None:
    for name, uid, gid in (
        ("root", 0, 0),
        ("nobody", _NOBODY, _NOBODY),
        ("unknown", 12345, 54321),
        ("large ids", _BIG_ID, _BIG_ID),
    ):
        (directory / name).write_text(name)
        with _allowed(notes, f"owner {uid}:{gid}"):
            os.chown(directory / name, uid, gid)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Encode a POSIX ACL of (tag, permissions, id) as an xattr value (acl_ea.h)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NO_ID = 0xFFFFFFFF
_ACL = acl((1, 6, _NO_ID), (2, 4, _NOBODY), (4, 4, _NO_ID), (16, 4, _NO_ID), (32, 0, _NO_ID))
# struct vfs_cap_data, revision 2, effective: cap_net_bind_service (linux/capability.h).
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def _attributes(directory: Path, notes: list[str]) -> None:
    for name, attribute, value in (
        ("user", "user.comment", "a comment, \N{ROCKET}".encode()),
        ("empty value", "user.empty", b""),
        ("binary value", "user.binary", bytes(range(256))),
        ("long value", "user.long", b"v" * 2000),
        ("acl", "system.posix_acl_access", _ACL),
        ("trusted", "trusted.sample", b"only root sees it"),
        ("capability", "security.capability", _CAPABILITY),
    ):
        (directory / name).write_text(name)
        with _allowed(notes, f"attribute {attribute}"):
            os.setxattr(directory / name, attribute, value)
    (directory / "folder").mkdir()
    with _allowed(notes, "attributes of directories"):
        os.setxattr(directory / "folder", "user.comment", b"a directory's")
        os.setxattr(directory / "folder", "system.posix_acl_default", _ACL)


def set_times(directory: Path) -> list[str]:
    """Set special times (run this last); return what was not allowed."""
    notes: list[str] = []
    for name, time_ns in TIMES_NS.items():
        with _allowed(notes, f"time {name}"):
            os.utime(directory / "times" / name, ns=(time_ns, time_ns))
    return notes
