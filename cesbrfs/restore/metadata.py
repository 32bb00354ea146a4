"""Apply owner, extended attributes, mode and times to restored files. Blocking.

What the file system does not support or the user may not set is reported once for all files of a
kind, and the file stays restored. If the file system fails, the OSError is raised. The order
matters: chown clears set-user-ID bits and capabilities, an ACL changes the mode, and all of them
change times.
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
from cesbrfs.util.os_errors import raise_failure

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
    """Warnings from several threads, counted by kind with the first path of each."""

    _found: dict[tuple[str, str], _Warning] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, path: bytes, hint: str = "", count: int = 1) -> None:
        """Record that `what` happened to `path`, or to `count` paths of which it is the first."""
        with self._lock:
            self._found.setdefault((what, hint), _Warning(path)).count += count

    def drain(self) -> list[tuple[str, bytes, str, int]]:
        """Return the arguments of `add` for everything recorded, and forget it."""
        with self._lock:
            found, self._found = self._found, {}
        return [(what, note.first, hint, note.count) for (what, hint), note in found.items()]

    def sentences(self) -> list[str]:
        """Return a sentence for each kind."""
        return [
            f"{what}: '{show(note.first)}'"
            + (f" and {note.count - 1} more" if note.count > 1 else "")
            + (f"; {hint}." if hint else ".")
            for (what, hint), note in self._found.items()
        ]


def read_attributes(at: int | bytes, *, follow: bool = True) -> dict[str, bytes]:
    """Return those extended attributes of a file that the user may read.

    Raises OSError if the file system fails.
    """
    found: dict[str, bytes] = {}
    try:
        for name in os.listxattr(at, follow_symlinks=follow):
            try:
                found[name] = os.getxattr(at, name, follow_symlinks=follow)
            except OSError as error:  # just removed, or for root only
                raise_failure(error)
    except OSError as error:  # not supported
        raise_failure(error)
    return found


def handle(descriptor: int) -> bytes:
    """Return a path to the file of an O_PATH descriptor, for calls that need a path."""
    return b"/proc/self/fd/%d" % descriptor


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """Metadata of `node` to apply to the restored `path`.

    Without `owned` no owner was recorded, and the file keeps the one it was created with.
    """

    node: Node
    path: bytes
    owned: bool = True

    def apply(self, at: int | bytes, warnings: Warnings, *, inherits_acl: bool = True) -> None:
        """Apply everything to a descriptor, a path from `handle`, or the path of a symlink.

        Raises OSError if the file system fails.

        Without `inherits_acl` it cannot have ACLs of its directory, which would be removed.
        """
        node = self.node
        link = stat.S_ISLNK(node.mode)
        if link and _REPLACEMENT in node.target:
            warnings.add(
                "The target of a symbolic link contains U+FFFD, which restic before 0.16 records"
                " instead of bytes that are not UTF-8",
                self.path,
                "check where it should point to",
            )
        user = group = True
        if self.owned:
            user, group = self._own(at, warnings, follow=not link)
        if inherits_acl or node.xattrs:
            self._attributes(at, warnings, follow=not link)
        mode = stat.S_IMODE(node.mode)
        if stat.S_ISREG(node.mode):  # never set-ID for somebody who did not own the file
            mode &= ~(0 if user else stat.S_ISUID)
            mode &= ~(0 if group else stat.S_ISGID)
        try:
            if not link:
                os.chmod(at, mode)
        except OSError as error:
            self._note(warnings, "The mode could not be set", error)
        try:
            os.utime(at, ns=(node.atime_ns, node.mtime_ns), follow_symlinks=not link)
        except (OSError, OverflowError) as error:
            self._note(warnings, "The times could not be set", error)

    def _note(self, warnings: Warnings, what: str, error: Exception, hint: str = "") -> None:
        raise_failure(error)
        number = error.errno if isinstance(error, OSError) else None
        warnings.add(f"{what} ({os.strerror(number or errno.EINVAL)})", self.path, hint)

    def _own(self, at: int | bytes, warnings: Warnings, *, follow: bool) -> tuple[bool, bool]:
        """Set the recorded user and group; return for each whether the file has it now."""
        try:
            os.chown(at, self.node.uid, self.node.gid, follow_symlinks=follow)
        except OSError as error:
            hint = "restore as root to restore owners" if os.geteuid() else ""
            self._note(warnings, "The owner could not be set", error, hint)
        else:
            return True, True
        owner = self.node.uid == os.geteuid()
        try:  # users may give their files to groups they are in
            os.chown(at, -1, self.node.gid, follow_symlinks=follow)
        except OSError:
            return owner, False
        return owner, True

    def _attributes(self, at: int | bytes, warnings: Warnings, *, follow: bool) -> None:
        """Set the recorded extended attributes, and remove ACLs inherited from the directory."""
        recorded = {os.fsdecode(name): value for name, value in self.node.xattrs}
        try:
            inherited = set(os.listxattr(at, follow_symlinks=follow)).intersection(ACLS)
            for name in inherited - recorded.keys():
                os.removexattr(at, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                self._note(warnings, "An inherited ACL could not be removed", error)
        for name, value in recorded.items():
            try:
                os.setxattr(at, name, value, follow_symlinks=follow)
            except (OSError, ValueError) as error:
                hint = "this requires root" if os.geteuid() and name.startswith(ROOTS) else ""
                shown = show(os.fsencode(name))
                self._note(warnings, f"The attribute {shown} could not be set", error, hint)
