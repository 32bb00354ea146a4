"""How a mount presents the recorded owners and permissions."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass

from cesbrfs.fuse import posix_acl
from cesbrfs.fuse.id_map import IdMap
from cesbrfs.fuse.inodes import HardLinkInode, Inode, StoredDir
from cesbrfs.repo.format.direntry import DirEntry
from cesbrfs.repo.format.model import Node
from cesbrfs.vfs.entries import MergedDir, SnapshotEntry


@dataclass(frozen=True, slots=True)
class Presentation:
    """How the mount presents attributes.

    `id_map` replaces the recorded owners it contains, `uid` and `gid` all others where they are not
    None. `fmask` and `dmask` are permission bits that files and directories are shown without.
    Without `xattrs` no extended attributes are shown. `for_all` mounts are open to other users: the
    kernel enforces the ACLs, and it reads them also where `xattrs` is off.
    """

    uid: int | None = None
    gid: int | None = None
    id_map: IdMap | None = None
    fmask: int = 0
    dmask: int = 0
    xattrs: bool = True
    for_all: bool = False

    @property
    def changes_attributes(self) -> bool:
        """Whether attributes differ from the recorded ones."""
        return self._changes_acls or self.uid is not None or self.gid is not None

    @property
    def _changes_acls(self) -> bool:
        return self.id_map is not None or bool(self.fmask or self.dmask)

    def mode(self, recorded: int) -> int:
        """Return a mode without the bits of the mask; links have no permissions of their own."""
        return recorded & ~self._removed(recorded)

    def _removed(self, mode: int) -> int:
        if stat.S_ISDIR(mode):
            return self.dmask
        return 0 if stat.S_ISLNK(mode) else self.fmask

    def owner(
        self, node: Node | DirEntry, holder: Inode | HardLinkInode | StoredDir
    ) -> tuple[int, int]:
        """Return the user and group of an inode. Secrets keep theirs."""
        if holder.private:
            return node.uid, node.gid
        uid, gid = self.uid, self.gid
        if self.id_map is not None and _is_recorded(holder):
            mapped_user, mapped_group = self.id_map.user(node.uid), self.id_map.group(node.gid)
            uid = uid if mapped_user is None else mapped_user
            gid = gid if mapped_group is None else mapped_group
        return node.uid if uid is None else uid, node.gid if gid is None else gid

    def acls(
        self, xattrs: Sequence[tuple[bytes, bytes]], mode: int
    ) -> Sequence[tuple[bytes, bytes]]:
        """Return extended attributes with ACLs that agree with the presented mode and owners."""
        if not self._changes_acls:
            return xattrs
        removed = {posix_acl.ACCESS: self._removed(mode), posix_acl.DEFAULT: 0}
        return [
            (
                name,
                posix_acl.adapt(value, removed[name], self._user, self._group)
                if name in removed
                else value,
            )
            for name, value in xattrs
        ]

    def _user(self, recorded: int) -> int:
        mapped = self.id_map.user(recorded) if self.id_map else None
        return recorded if mapped is None else mapped

    def _group(self, recorded: int) -> int:
        mapped = self.id_map.group(recorded) if self.id_map else None
        return recorded if mapped is None else mapped


def _is_recorded(holder: Inode | HardLinkInode | StoredDir) -> bool:
    """Return whether the owner of an inode was recorded in a backup."""
    if not isinstance(holder, Inode):
        return True
    entry = holder.entry
    if isinstance(entry, MergedDir):
        return entry.recorded
    return isinstance(entry, SnapshotEntry) and not entry.top
