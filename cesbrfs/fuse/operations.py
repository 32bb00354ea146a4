"""FUSE request handlers: thin adapters over `InodeFileSystem` that turn errors into errnos.

Every exception in a handler becomes an errno for the client and a log line. Stored entries never
change, so the kernel may cache them for a day; entries of virtual directories expire after a
second.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar, cast

import pyfuse3

from cesbrfs.catalog.backups import Backups
from cesbrfs.errors import CesbrError
from cesbrfs.fuse.filesystem import InodeFileSystem, errno_of
from cesbrfs.fuse.inodes import InodeAttrs, StoredDir, is_pending
from cesbrfs.fuse.interrupts import InterruptedCallerError, InterruptWatcher
from cesbrfs.fuse.latency import FAST_NS
from cesbrfs.fuse.posix_acl import ACCESS, DEFAULT
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.repo.format.direntry import DirEntry

_log = logging.getLogger(__name__)

_H = TypeVar("_H", bound=Callable[..., Coroutine[Any, Any, Any]])

FIXED_SECONDS: Final = 86_400.0
"""Attribute and entry timeout of what can never change."""
CHANGING_SECONDS: Final = 1.0
_BLOCK_SIZE: Final = 4096
_IO_SIZE: Final = 128 << 10
_now: Final = time.perf_counter_ns


def _handler(handle: _H) -> _H:
    """Count the request and turn every exception into an errno."""
    name = handle.__name__

    @functools.wraps(handle)
    async def guarded(self: Operations, *args: Any) -> Any:
        self.running += 1
        self.last_request = time.monotonic()
        began = _now()
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
            _log.exception("%s failed unexpectedly", name)
            raise pyfuse3.FUSEError(errno_of(error)) from error
        finally:
            self.running -= 1
            duration = _now() - began
            latency = self.latency[name]
            latency.count += 1
            latency.total_ns += duration
            if duration > FAST_NS:
                latency.add_slow(duration)

    return cast("_H", guarded)


class Operations(pyfuse3.Operations):
    """Answer the kernel's requests from an `InodeFileSystem`."""

    supports_dot_lookup = False  # there is no export over NFS
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: InodeFileSystem, presentation: Presentation) -> None:
        super().__init__()
        self.tree: Final = tree
        self.interrupts: Final = InterruptWatcher()
        self.running = 0
        self.latency: Final = tree.status.latency
        self.last_request = 0.0
        """Monotonic time of the last request; what only the kernel requests (forget) is none."""
        self._shown: Final = presentation
        self._changed: Final = presentation.changes_attributes
        self.enable_acl = presentation.for_all

    def is_busy(self) -> bool:
        """Return whether requests or read-ahead are in progress (other tasks need a turn)."""
        return self.running > 0 or self.tree.view.repository.blobs.fetching > 0

    def is_in_use(self) -> bool:
        """Return whether a request is running, or a file or directory is open."""
        return self.running > 0 or self.tree.open_handles > 0

    def invalidate(self, backups: Backups) -> None:
        """Have the kernel drop what `backups` no longer has; it forgets the inodes in turn."""
        self._drop(self.tree.removed(backups))

    @staticmethod
    def _drop(entries: Iterable[tuple[int, bytes]]) -> None:
        for parent, name in entries:
            pyfuse3.invalidate_entry_async(parent, name, ignore_enoent=True)

    async def _find(self, inode: int, ctx: pyfuse3.RequestContext) -> InodeAttrs:
        """Return an inode; the wait ends if the client is interrupted."""
        cached = self.tree.find_nowait(inode)
        if cached is not None:
            return cached
        return await self.interrupts.wait(ctx.pid, functools.partial(self.tree.find, inode))

    def _attributes(self, shown: InodeAttrs) -> pyfuse3.EntryAttributes:
        made = pyfuse3.EntryAttributes()
        made.st_blksize = _IO_SIZE
        self._fill(made, shown)
        return made

    def _fill(self, made: pyfuse3.EntryAttributes, shown: InodeAttrs) -> None:
        """Set the attributes that differ between inodes."""
        number, node, holder = shown
        made.st_ino = number
        mode, uid, gid = node.mode, node.uid, node.gid
        if self._changed:
            mode, (uid, gid) = self._shown.mode(mode), self._shown.owner(node, holder)
        made.st_mode = mode
        made.st_uid = uid
        made.st_gid = gid
        made.st_nlink = node.links
        made.st_rdev = node.rdev
        made.st_size = node.size
        made.st_blocks = node.blocks
        made.st_mtime_ns = node.mtime_ns
        made.st_atime_ns = node.atime_ns
        made.st_ctime_ns = node.ctime_ns
        made.attr_timeout = FIXED_SECONDS if holder.immutable else CHANGING_SECONDS
        made.entry_timeout = CHANGING_SECONDS if holder.name_may_change else FIXED_SECONDS
        if self.tree.is_gone(holder):  # the kernel drops it as soon as it is unused
            made.entry_timeout = 0

    @_handler
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Look up a name. In immutable directories the kernel also caches missing names."""
        lookup = functools.partial(self.tree.lookup, parent_inode, name)
        if self.tree.is_cached(parent_inode):
            found = await lookup()
        else:
            found = await self.interrupts.wait(ctx.pid, lookup)
        if found is None:
            if not self.tree.is_immutable(parent_inode):
                raise pyfuse3.FUSEError(errno.ENOENT)
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = 0
            missing.entry_timeout = FIXED_SECONDS
            return missing
        attributes = self._attributes(found)
        if self.tree.is_generated(found):  # each open follows a lookup, and gets its content
            attributes.entry_timeout = attributes.attr_timeout = 0
        self.tree.count_lookup(found)
        self._drop(self.tree.surplus())
        return attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Subtract the lookups that the kernel has dropped."""
        for number, lookups in inode_list:
            self.tree.forget(number, lookups)

    @_handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Return the attributes of an inode."""
        if inode == pyfuse3.ROOT_INODE:
            self.tree.view.refresh_root_nowait()
        return self._attributes(await self._find(inode, ctx))

    @_handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Return the target of a symlink."""
        _, node, _ = await self._find(inode, ctx)
        if not stat.S_ISLNK(node.mode):
            raise pyfuse3.FUSEError(errno.EINVAL)
        return node.target

    @_handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory; its entries are those of this moment."""
        handle = self.tree.open_dir_nowait(inode)
        if handle is not None:
            return handle
        return await self.interrupts.wait(ctx.pid, functools.partial(self.tree.open_dir, inode))

    @_handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory with attributes from `start_id`, until the kernel's buffer is full."""
        # One object for all entries: pyfuse3 copies each into the reply.
        made = pyfuse3.EntryAttributes()
        made.st_blksize = _IO_SIZE
        opened = self.tree.opened(fh)
        if opened.directory is not None:
            self._reply_entries(opened.directory, opened.entries, start_id, token, made)
            return
        for next_id, name, shown in self.tree.virtual_entries(opened, start_id):
            self._fill(made, shown)
            if is_pending(shown.holder):  # the kernel looks it up before it uses it
                made.entry_timeout = made.attr_timeout = 0
            if not pyfuse3.readdir_reply(token, name, made, next_id):
                break
            self.tree.count_lookup(shown)  # the kernel counts a lookup for each name it accepted
        self._drop(self.tree.surplus())

    def _reply_entries(
        self,
        directory: StoredDir,
        entries: Sequence[DirEntry],
        start: int,
        token: pyfuse3.ReaddirToken,
        made: pyfuse3.EntryAttributes,
    ) -> None:
        """List a stored directory. Most names pass through this loop, so it makes no calls."""
        reply, changed = pyfuse3.readdir_reply, self._changed
        entry_timeout = 0 if self.tree.is_gone(directory) else FIXED_SECONDS
        made.attr_timeout, made.entry_timeout = FIXED_SECONDS, entry_timeout
        first, count = directory.first, 0
        for at in range(start, len(entries)):
            row = entries[at]
            if row.link_id or changed:
                shown = self.tree.stored_attrs(directory, at, row)
                self._fill(made, shown)
                if not reply(token, row.name, made, at + 1):
                    break
                self.tree.count_lookup(shown)
                continue
            made.st_ino = first + at
            made.st_mode = row.mode
            made.st_nlink = row.links
            made.st_uid = row.uid
            made.st_gid = row.gid
            made.st_rdev = row.rdev
            made.st_size = row.size
            made.st_blocks = row.blocks
            made.st_mtime_ns = row.mtime_ns
            made.st_atime_ns = row.atime_ns
            made.st_ctime_ns = row.ctime_ns
            if not reply(token, row.name, made, at + 1):
                break
            count += 1
        directory.lookups += count

    @_handler
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self.tree.close_dir(fh)

    @_handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a file for reading. The kernel keeps its pages from one open to the next."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        node_ref = self.tree.node_ref_nowait(inode)
        if node_ref is not None:
            handle, true_size = await self.tree.open_file(node_ref)
        else:
            opening = functools.partial(self.tree.open_inode, inode)
            handle, true_size = await self.interrupts.wait(ctx.pid, opening)
        if true_size and (content := await self.tree.small_file(handle)):
            with contextlib.suppress(OSError):  # then the kernel asks for it
                pyfuse3.notify_store(inode, 0, content)
        # If the recorded size is wrong, only direct I/O reaches the true end.
        return pyfuse3.FileInfo(fh=handle, keep_cache=true_size, direct_io=not true_size)

    @_handler
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read from an open file."""
        # pyfuse3 accepts any buffer, although its annotation is bytes.
        return cast("bytes", await self.tree.read(fh, off, size))

    async def flush(self, fh: int) -> None:
        """Reply ENOSYS once, so that the kernel does not send flush requests again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @_handler
    async def release(self, fh: int) -> None:
        """Close a file."""
        self.tree.close_file(fh)

    @_handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        """List the names of an inode's extended attributes."""
        if not self._shown.xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return [name for name, _ in await self._xattrs(inode, ctx)]

    @_handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Return one extended attribute."""
        if not self._shown.xattrs:
            if not self._shown.for_all:
                raise pyfuse3.FUSEError(errno.ENOSYS)
            # ENOSYS would also end the kernel's questions about ACLs, which it enforces.
            if name not in (ACCESS, DEFAULT):
                raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        for known, value in await self._xattrs(inode, ctx):
            if known == name:
                return value
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR)

    async def _xattrs(
        self, inode: int, ctx: pyfuse3.RequestContext
    ) -> Sequence[tuple[bytes, bytes]]:
        cached = self.tree.find_nowait(inode)
        if cached is not None and isinstance(cached.node, DirEntry) and not cached.node.has_xattrs:
            return ()
        node_ref = self.tree.node_ref_nowait(inode)
        if node_ref is None:
            asking = functools.partial(self.tree.node_ref, inode)
            node_ref = await self.interrupts.wait(ctx.pid, asking)
        node = node_ref.entry.node
        return self._shown.acls(node.xattrs, node.mode)

    @_handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Return the repository's size as that of a full file system."""
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
