"""The FUSE requests: thin handlers over the virtual tree, and the only place that answers errors.

A handler never dies: whatever goes wrong becomes an errno for the one who asked, and a log line.
What is stored in a snapshot never changes, so the kernel may keep it for as long as it likes; our
own folders are asked for again after a second.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import pyfuse3

from cesbrfs.catalog.backups import Backups
from cesbrfs.errors import CesbrError
from cesbrfs.fuse.filesystem import InodeFileSystem, blocks, errno_of
from cesbrfs.fuse.inodes import InodeAttrs, StoredDir
from cesbrfs.fuse.interrupts import InterruptedCallerError, InterruptWatcher
from cesbrfs.repo.format.direntry import DirEntry

_log = logging.getLogger(__name__)

_H = TypeVar("_H", bound=Callable[..., Coroutine[Any, Any, Any]])

FIXED_SECONDS: Final = 86_400.0
"""How long the kernel may keep what can never change."""
CHANGING_SECONDS: Final = 1.0
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_BLOCK_SIZE: Final = 4096
_IO_SIZE: Final = 128 << 10


@dataclass(frozen=True, slots=True)
class Presentation:
    """How the mount shows what it serves.

    `uid` and `gid` replace the recorded owners where they are not None; without `xattrs` no
    extended attributes are shown. `for_all` mounts are open to other users: the kernel enforces
    the recorded ACLs, and it reads them also where `xattrs` is off.
    """

    uid: int | None = None
    gid: int | None = None
    xattrs: bool = True
    for_all: bool = False


def _handler(handle: _H) -> _H:
    """Count the request, and turn every error into an errno."""
    name = handle.__name__

    @functools.wraps(handle)
    async def guarded(self: Operations, *args: Any) -> Any:
        requests = self.tree.status.requests
        requests[name] = requests.get(name, 0) + 1
        self.running += 1
        try:
            return await handle(self, *args)
        except pyfuse3.FUSEError:
            raise
        except InterruptedCallerError as error:
            raise pyfuse3.FUSEError(errno.EINTR) from error
        except CesbrError as error:
            number = errno_of(error)
            if number not in (errno.ENOENT, errno.ESTALE):
                self.tree.status.errors += 1
                _log.error("%s: %s", name, error)
            raise pyfuse3.FUSEError(number) from error
        except Exception as error:
            self.tree.status.errors += 1
            _log.exception("%s failed in a way that was not foreseen", name)
            raise pyfuse3.FUSEError(errno_of(error)) from error
        finally:
            self.running -= 1

    return cast("_H", guarded)


class Operations(pyfuse3.Operations):
    """Answers the kernel's requests from a `InodeFileSystem`."""

    supports_dot_lookup = False  # there is no export over NFS
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: InodeFileSystem, presentation: Presentation) -> None:
        super().__init__()
        self.tree: Final = tree
        self.callers: Final = InterruptWatcher()
        self.running = 0
        self._shown: Final = presentation
        self.enable_acl = presentation.for_all

    def is_busy(self) -> bool:
        """Tell whether a request waits, or data is read ahead: other tasks need their turn."""
        return self.running > 0 or self.tree.view.repository.blobs.fetching > 0

    def invalidate(self, backups: Backups) -> None:
        """Have the kernel drop what `backups` no longer has; it forgets the inodes in turn."""
        for parent, name in self.tree.removed(backups):
            pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)

    async def _find(self, inode: int, ctx: pyfuse3.RequestContext) -> InodeAttrs:
        """Return an inode; its caller is looked after while that has to be read again."""
        held = self.tree.held(inode)
        if held is not None:
            return held
        return await self.callers.wait(ctx.pid, functools.partial(self.tree.find, inode))

    def _attributes(self, shown: InodeAttrs) -> pyfuse3.EntryAttributes:
        made = pyfuse3.EntryAttributes()
        made.st_blksize = _IO_SIZE
        self._fill(made, shown)
        return made

    def _fill(self, made: pyfuse3.EntryAttributes, shown: InodeAttrs) -> None:
        """Put all that differs from inode to inode into `made`."""
        number, node, holder = shown
        made.st_ino = number
        made.st_mode = node.mode
        made.st_nlink = node.links
        uid, gid = self._shown.uid, self._shown.gid
        made.st_uid = node.uid if uid is None or holder.private else uid
        made.st_gid = node.gid if gid is None or holder.private else gid
        made.st_rdev = node.rdev
        made.st_size = node.size
        made.st_blocks = blocks(node.size)
        made.st_mtime_ns = node.mtime_ns
        made.st_atime_ns = node.atime_ns
        made.st_ctime_ns = node.ctime_ns
        made.attr_timeout = FIXED_SECONDS if holder.fixed else CHANGING_SECONDS
        made.entry_timeout = CHANGING_SECONDS if holder.placed else FIXED_SECONDS
        if self.tree.is_gone(holder):  # the kernel drops it as soon as nobody uses it
            made.entry_timeout = 0

    @_handler
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Find one name; a name that is not there is remembered as such where nothing changes."""
        lookup = functools.partial(self.tree.lookup, parent_inode, name)
        if self.tree.is_known(parent_inode):
            found = await lookup()
        else:
            found = await self.callers.wait(ctx.pid, lookup)
        if found is None:
            if not self.tree.is_fixed(parent_inode):
                raise pyfuse3.FUSEError(errno.ENOENT)
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = 0
            missing.entry_timeout = FIXED_SECONDS
            return missing
        told = self._attributes(found)
        self.tree.remember(found)
        return told

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take back what the kernel no longer holds."""
        for number, lookups in inode_list:
            self.tree.forget(number, lookups)

    @_handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Tell an inode's attributes."""
        if inode == pyfuse3.ROOT_INODE:
            self.tree.view.refresh_root_nowait()
        return self._attributes(await self._find(inode, ctx))

    @_handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Tell a symlink's target."""
        _, node, _ = await self._find(inode, ctx)
        if not stat.S_ISLNK(node.mode):
            raise pyfuse3.FUSEError(errno.EINVAL)
        return node.target

    @_handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Take down what a folder holds, for the listing that follows."""
        handle = self.tree.open_dir_nowait(inode)
        if handle is not None:
            return handle
        return await self.callers.wait(ctx.pid, functools.partial(self.tree.open_dir, inode))

    @_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a folder with attributes from `start_id` on, as much as the kernel takes."""
        # One object for all of them: each is copied into the answer at once.
        made = pyfuse3.EntryAttributes()
        made.st_blksize = _IO_SIZE
        opened = self.tree.opened(fh)
        if opened.folder is not None:
            self._reply_rows(opened.folder, opened.rows, start_id, token, made)
            return
        for next_id, name, shown in self.tree.own_entries(opened, start_id):
            self._fill(made, shown)
            if not pyfuse3.readdir_reply(token, name, made, next_id):
                break
            self.tree.remember(shown)  # the kernel counts a lookup for every name that it took

    def _reply_rows(
        self,
        folder: StoredDir,
        rows: Sequence[DirEntry],
        start: int,
        token: pyfuse3.ReaddirToken,
        made: pyfuse3.EntryAttributes,
    ) -> None:
        """List a stored folder.  Most names that a kernel is told of come by here: no calls."""
        uid, gid, reply = self._shown.uid, self._shown.gid, pyfuse3.readdir_reply
        entry_timeout = 0 if self.tree.is_gone(folder) else FIXED_SECONDS
        made.attr_timeout, made.entry_timeout = FIXED_SECONDS, entry_timeout
        first, told = folder.first, 0
        for at in range(start, len(rows)):
            row = rows[at]
            if row.link_id:
                shown = self.tree.linked(folder, row)
                self._fill(made, shown)
                if not reply(token, row.name, made, at + 1):
                    break
                self.tree.remember(shown)
                continue
            made.st_ino = first + at
            made.st_mode = row.mode
            made.st_nlink = row.links
            made.st_uid = row.uid if uid is None else uid
            made.st_gid = row.gid if gid is None else gid
            made.st_rdev = row.rdev
            made.st_size = size = row.size
            made.st_blocks = (size + 511) >> 9
            made.st_mtime_ns = row.mtime_ns
            made.st_atime_ns = row.atime_ns
            made.st_ctime_ns = row.ctime_ns
            if not reply(token, row.name, made, at + 1):
                break
            told += 1
        folder.lookups += told

    @_handler
    async def releasedir(self, fh: int) -> None:
        """End a listing."""
        self.tree.close_dir(fh)

    @_handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a file for reading; the kernel keeps its pages from one opening to the next."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        recorded = self.tree.node_ref_nowait(inode)
        if recorded is not None:
            handle, true_size = await self.tree.open_file(recorded)
        else:
            opening = functools.partial(self.tree.open_inode, inode)
            handle, true_size = await self.callers.wait(ctx.pid, opening)
        # Where the recorded size is wrong, only unbuffered reading reaches the true end.
        return pyfuse3.FileInfo(fh=handle, keep_cache=true_size, direct_io=not true_size)

    @_handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read from an open file."""
        # pyfuse3 takes any buffer, though its annotation says bytes.
        return cast("bytes", await self.tree.read(fh, off, size))

    async def flush(self, fh: int) -> None:
        """Nothing is ever written: said once, and the kernel asks no more."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @_handler
    async def release(self, fh: int) -> None:
        """Close a file."""
        self.tree.close_file(fh)

    @_handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        """Name an inode's extended attributes."""
        if not self._shown.xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return [name for name, _ in await self._xattrs(inode, ctx)]

    @_handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Tell one extended attribute."""
        if not self._shown.xattrs:
            if not self._shown.for_all:
                raise pyfuse3.FUSEError(errno.ENOSYS)
            # ENOSYS would also end the kernel's questions about ACLs, which it enforces.
            if name not in _ACLS:
                raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        for held, value in await self._xattrs(inode, ctx):
            if held == name:
                return value
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR)

    async def _xattrs(
        self, inode: int, ctx: pyfuse3.RequestContext
    ) -> Sequence[tuple[bytes, bytes]]:
        held = self.tree.held(inode)
        if held is not None and isinstance(held.node, DirEntry) and not held.node.has_xattrs:
            return ()
        recorded = self.tree.node_ref_nowait(inode)
        if recorded is None:
            asking = functools.partial(self.tree.node_ref, inode)
            recorded = await self.callers.wait(ctx.pid, asking)
        return recorded.entry.node.xattrs

    @_handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Tell the repository's size as that of a full file system."""
        space = await self.tree.space()
        data = pyfuse3.StatvfsData()
        data.f_bsize = _BLOCK_SIZE
        data.f_frsize = _BLOCK_SIZE
        data.f_blocks = -(-space.stored_bytes // _BLOCK_SIZE)
        data.f_bfree = data.f_bavail = 0
        data.f_files = space.blobs
        data.f_ffree = data.f_favail = 0
        data.f_namemax = 255
        return data
