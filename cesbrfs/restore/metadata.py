"""Owner, extended attributes, mode and times of what was restored.  Blocking.

What cannot be set does not undo a restored file: it is noted and told once for all files of a kind.
The order matters: a change of owner takes set-user-ID bits and capabilities away, an ACL changes
the mode, and everything changes times.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.repo.format.model import Node
from cesbrfs.util.escape import show

ACLS: Final = ("system.posix_acl_access", "system.posix_acl_default")
ROOTS: Final = ("trusted.", "security.")
_UNSUPPORTED: Final = frozenset({errno.ENOTSUP, errno.ENOSYS})
_REPLACEMENT: Final = "\ufffd".encode()


@dataclass(slots=True)
class _Warning:
    first: bytes
    count: int = 0


@dataclass(slots=True)
class Warnings:
    """What could not be restored faithfully, gathered by kind from several threads."""

    _found: dict[tuple[str, str], _Warning] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, path: bytes, hint: str = "") -> None:
        """Note that `what` happened to `path`."""
        with self._lock:
            self._found.setdefault((what, hint), _Warning(path)).count += 1

    def sentences(self) -> list[str]:
        """Return a sentence for each kind."""
        return [
            f"{what}: '{show(note.first)}'"
            + (f" and {note.count - 1} more" if note.count > 1 else "")
            + (f"; {hint}." if hint else ".")
            for (what, hint), note in self._found.items()
        ]


def handle(descriptor: int) -> bytes:
    """Return a path to what an O_PATH descriptor stands for, where none but a path will do."""
    return b"/proc/self/fd/%d" % descriptor


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What something is to wear: the attributes of `node`, which is restored as `path`.

    Without `owned` nobody recorded an owner, and it stays whose it is.
    """

    node: Node
    path: bytes
    owned: bool = True

    def apply(self, at: int | bytes, notes: Warnings) -> None:
        """Set everything on a descriptor, on what `handle` returns, or on the path of a symlink."""
        link = stat.S_ISLNK(self.node.mode)
        if link and _REPLACEMENT in self.node.target:
            notes.add(
                "The target of a link has U+FFFD, which restic before 0.16 records in place of"
                " bytes that are not UTF-8",
                self.path,
                "check where it should lead to",
            )
        owner, group = self._own(at, notes, follow=not link)
        self._attributes(at, notes, follow=not link)
        mode = stat.S_IMODE(self.node.mode)
        if stat.S_ISREG(self.node.mode):  # else it would run as somebody who never allowed it
            mode &= ~(0 if owner else stat.S_ISUID)
            mode &= ~(0 if group else stat.S_ISGID)
        try:
            if not link:
                os.chmod(at, mode)
        except OSError as error:
            self._note(notes, "The mode could not be set", error)
        try:
            times = (self.node.atime_ns, self.node.mtime_ns)
            os.utime(at, ns=times, follow_symlinks=not link)
        except (OSError, OverflowError) as error:
            self._note(notes, "The times could not be set", error)

    def _note(self, notes: Warnings, what: str, error: Exception, hint: str = "") -> None:
        number = error.errno if isinstance(error, OSError) else None
        notes.add(f"{what} ({os.strerror(number or errno.EINVAL)})", self.path, hint)

    def _own(self, at: int | bytes, notes: Warnings, *, follow: bool) -> tuple[bool, bool]:
        """Give it to its recorded owner and group; tell which of the two it now has."""
        if not self.owned:
            return True, True
        try:
            os.chown(at, self.node.uid, self.node.gid, follow_symlinks=follow)
        except OSError as error:
            hint = "restore as root to have owners restored" if os.geteuid() else ""
            self._note(notes, "The owner could not be set", error, hint)
        else:
            return True, True
        owner = self.node.uid == os.geteuid()
        try:  # without root, one's own files may still be given to one's own groups
            os.chown(at, -1, self.node.gid, follow_symlinks=follow)
        except OSError:
            return owner, False
        return owner, True

    def _attributes(self, at: int | bytes, notes: Warnings, *, follow: bool) -> None:
        """Set the recorded extended attributes, and drop ACLs that its folder passed on to it."""
        recorded = {os.fsdecode(name): value for name, value in self.node.xattrs}
        try:
            inherited = set(os.listxattr(at, follow_symlinks=follow)).intersection(ACLS)
            for name in inherited - recorded.keys():
                os.removexattr(at, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                self._note(notes, "An inherited ACL could not be removed", error)
        for name, value in recorded.items():
            try:
                os.setxattr(at, name, value, follow_symlinks=follow)
            except (OSError, ValueError) as error:
                hint = "only root can" if os.geteuid() and name.startswith(ROOTS) else ""
                shown = show(os.fsencode(name))
                self._note(notes, f"The attribute {shown} could not be set", error, hint)
