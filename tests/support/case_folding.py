# ruff: noqa: ARG002 - the handlers of pyfuse3, which has no types for all of it
"""An in-memory file system whose names ignore case or Unicode normalisation.

It keeps the spelling of the first name, as macOS, Windows, Samba and ext4 with casefold do:
``python -m tests.support.case_folding MOUNTPOINT case|nfc`` runs until it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pyfuse3
import trio

from tests.support.mounting import is_mounted
from tests.support.project import PROJECT

_BLOCK = 4096
_BLOCKS = 1 << 20


@contextmanager
def folding(mountpoint: Path, how: str) -> Iterator[None]:
    """Mount such a file system inside the block."""
    mountpoint.mkdir()
    command = [sys.executable, "-m", "tests.support.case_folding", str(mountpoint), how]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it exists
        assert is_mounted(mountpoint)
        try:
            yield
        finally:
            subprocess.run(["fusermount3", "-u", mountpoint], check=True)


@dataclass
class _Node:
    inode: int
    mode: int
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    links: int = 1
    uid: int = 0
    gid: int = 0
    mtime_ns: int = field(default_factory=time.time_ns)
    atime_ns: int = 0


class _Folding(pyfuse3.Operations):
    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how
        self._nodes = {pyfuse3.ROOT_INODE: _Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755)}

    def _fold(self, name: bytes) -> str:
        text = os.fsdecode(name)
        return text.casefold() if self._how == "case" else normalize("NFC", text)

    def _attributes(self, node: _Node) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino, found.st_mode, found.st_nlink = node.inode, node.mode, node.links
        found.st_uid, found.st_gid, found.st_size = node.uid, node.gid, len(node.data)
        found.st_mtime_ns, found.st_atime_ns, found.st_ctime_ns = (
            node.mtime_ns,
            node.atime_ns,
            node.mtime_ns,
        )
        found.entry_timeout = found.attr_timeout = 0
        found.st_blksize = _BLOCK
        return found

    def _get(self, parent: int, name: bytes) -> _Node:
        found = self._nodes[parent].names.get(self._fold(name))
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._nodes[found[1]]

    def _new(self, parent: int, name: bytes, mode: int) -> _Node:
        self._must_be_free(parent, name)
        node = _Node(max(self._nodes) + 1, mode)
        self._nodes[node.inode] = node
        self._nodes[parent].names[self._fold(name)] = (name, node.inode)
        return node

    def _must_be_free(self, parent: int, name: bytes) -> None:
        if self._fold(name) in self._nodes[parent].names:
            raise pyfuse3.FUSEError(errno.EEXIST)

    async def lookup(self, parent: Any, name: Any, ctx: Any = None) -> Any:
        return self._attributes(self._nodes[parent] if name == b"." else self._get(parent, name))

    async def getattr(self, inode: Any, ctx: Any = None) -> Any:
        return self._attributes(self._nodes[inode])

    async def setattr(self, inode: Any, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        node = self._nodes[inode]
        if fields.update_size:
            del node.data[attr.st_size :]
            node.data += bytes(attr.st_size - len(node.data))
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        node.uid = attr.st_uid if fields.update_uid else node.uid
        node.gid = attr.st_gid if fields.update_gid else node.gid
        node.mtime_ns = attr.st_mtime_ns if fields.update_mtime else node.mtime_ns
        node.atime_ns = attr.st_atime_ns if fields.update_atime else node.atime_ns
        return self._attributes(node)

    async def create(self, parent: Any, name: Any, mode: Any, flags: Any, ctx: Any) -> Any:
        node = self._new(parent, name, mode | stat.S_IFREG)
        return pyfuse3.FileInfo(fh=node.inode), self._attributes(node)

    async def mkdir(self, parent: Any, name: Any, mode: Any, ctx: Any) -> Any:
        return self._attributes(self._new(parent, name, mode | stat.S_IFDIR))

    async def symlink(self, parent: Any, name: Any, target: Any, ctx: Any) -> Any:
        node = self._new(parent, name, stat.S_IFLNK | 0o777)
        node.data += target
        return self._attributes(node)

    async def readlink(self, inode: Any, ctx: Any) -> bytes:
        return bytes(self._nodes[inode].data)

    async def link(self, inode: Any, parent: Any, name: Any, ctx: Any) -> Any:
        self._must_be_free(parent, name)
        self._nodes[parent].names[self._fold(name)] = (name, inode)
        self._nodes[inode].links += 1
        return self._attributes(self._nodes[inode])

    async def unlink(self, parent: Any, name: Any, ctx: Any) -> None:
        self._get(parent, name).links -= 1
        del self._nodes[parent].names[self._fold(name)]

    async def rename(
        self, parent: Any, old: Any, other: Any, new: Any, flags: Any, ctx: Any
    ) -> None:
        node = self._get(parent, old)
        there = self._nodes[other].names.get(self._fold(new))
        if there and flags & pyfuse3.RENAME_NOREPLACE:
            raise pyfuse3.FUSEError(errno.EEXIST)
        del self._nodes[parent].names[self._fold(old)]
        self._nodes[other].names[self._fold(new)] = (there[0] if there else new, node.inode)

    async def open(self, inode: Any, flags: Any, ctx: Any) -> Any:
        return pyfuse3.FileInfo(fh=inode)

    async def read(self, fh: Any, offset: Any, size: Any) -> bytes:
        return bytes(self._nodes[fh].data[offset : offset + size])

    async def write(self, fh: Any, offset: Any, data: Any) -> int:
        held = self._nodes[fh].data
        held += bytes(max(0, offset - len(held)))
        held[offset : offset + len(data)] = data
        return len(data)

    async def flush(self, fh: Any) -> None:
        pass

    async def release(self, fh: Any) -> None:
        pass

    async def opendir(self, inode: Any, ctx: Any) -> Any:
        return inode

    async def readdir(self, fh: Any, start: Any, token: Any) -> None:
        held = list(self._nodes[fh].names.values())[start:]
        for at, (name, inode) in enumerate(held, start + 1):
            if not pyfuse3.readdir_reply(token, name, self._attributes(self._nodes[inode]), at):
                return

    async def releasedir(self, fh: Any) -> None:
        pass

    async def statfs(self, ctx: Any) -> Any:
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = _BLOCK
        found.f_blocks = found.f_bfree = found.f_bavail = _BLOCKS
        found.f_files = found.f_ffree = found.f_favail = _BLOCKS
        found.f_namemax = 255
        return found


async def _serve() -> None:
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    await pyfuse3.main()


if __name__ == "__main__":
    pyfuse3.init(_Folding(sys.argv[2]), sys.argv[1], {"fsname=folding", "default_permissions"})
    trio.run(_serve)
    pyfuse3.close(unmount=False)
