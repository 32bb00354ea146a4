"""The virtual tree as a file system needs it: inodes, lookups, open files.  Knows no FUSE library.

An inode's number is a hash of where it stands, so that it is the same in every mount of the same
repository.  Names of one file that was hard-linked share one inode within a backup.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from cesbrfs import __version__
from cesbrfs.catalog.names import STATUS_FOLDER
from cesbrfs.errors import CesbrError, NotFoundError
from cesbrfs.fs.neighbours import Neighbours
from cesbrfs.repo.model import Node
from cesbrfs.repo.repository import FileContent
from cesbrfs.view import Document, Entry, Folder, Stored, View

_log = logging.getLogger(__name__)

ROOT: Final = 1
_NUMBER_BITS: Final = 63
_FIRST_FREE: Final = 2
_BLOCK: Final = 512


class StaleError(NotFoundError):
    """The kernel asks for an inode that was forgotten."""

    errno = errno.ESTALE


@dataclass(slots=True, eq=False)
class Inode:
    """One inode the kernel knows, or is about to: `lookups` counts how often it was told.

    `backup` is the number of the backup's folder it lies in; `fixed` says that neither it nor
    anything below can ever change, `placed` that its name may come to stand for something else.
    """

    number: int
    entry: Entry
    backup: int
    fixed: bool
    placed: bool = True
    lookups: int = 0
    children: dict[bytes, Inode] | None = None
    """What a stored folder holds, for as long as the kernel knows it."""
    parent: Inode | None = None
    """The stored folder it lies in."""


class Readable(Protocol):
    """An open file's content; `size` in bytes."""

    @property
    def size(self) -> int:
        """All its bytes."""

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from `offset`."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A file of ours while it is open."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        return self.content[offset : offset + size]


@dataclass(slots=True, eq=False)
class _Live(Entry):
    """A file of ours whose content is made when it is opened."""

    render: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Space:
    """What statfs tells: bytes stored in the repository, and blobs as a number of files."""

    stored_bytes: int
    blobs: int


class VirtualTree:
    """Inodes over a `View`.  All methods run in the trio thread."""

    def __init__(self, view: View) -> None:
        self.view: Final = view
        self.root: Final = Inode(ROOT, view.root, ROOT, fixed=False, lookups=1)
        self.requests: Final[dict[str, int]] = {}
        self.errors = 0
        self._inodes: dict[int, Inode] = {ROOT: self.root}
        self._files: dict[int, Readable] = {}
        self._folders: dict[int, list[tuple[bytes, Inode]]] = {}
        self._next_handle = 1
        self._neighbours = Neighbours(view.repository.blobs)
        self._started = time.time()
        self._status: Final = self._status_folder()

    def inode(self, number: int) -> Inode:
        """Return an inode the kernel knows; StaleError otherwise."""
        try:
            return self._inodes[number]
        except KeyError:
            raise StaleError(f"Inode {number} is not known (any more).") from None

    def is_known(self, number: int) -> bool:
        """Tell whether it is known what this folder holds, so that nothing has to be waited for."""
        inode = self._inodes.get(number)
        return inode is not None and inode.children is not None

    async def lookup(self, parent: int, name: bytes) -> Inode | None:
        """Return the inode of one name in a folder, not yet counted; None without such a name."""
        above = self.inode(parent)
        if isinstance(above.entry, Stored):
            found = (await self._children(above, above.entry)).get(name)
            return found and self._inodes.get(found.number, found)
        entry = await self.view.child(above.entry, name)
        if entry is None and parent == ROOT and name == STATUS_FOLDER:
            entry = self._status
        return self._make(above, entry) if entry is not None else None

    async def _children(self, inode: Inode, entry: Stored) -> dict[bytes, Inode]:
        """Return what a stored folder holds; made once for as long as the kernel knows it."""
        if inode.children is None:
            nodes, snapshot, make = await self.view.nodes(entry), entry.snapshot, self._make
            inode.children = {
                name: make(inode, Stored(name, node, snapshot), inode)
                for name, node in nodes.items()
            }
        return inode.children

    def remember(self, inode: Inode) -> None:
        """Count that the kernel was told of `inode` once more."""
        inode.lookups += 1
        self._inodes[inode.number] = inode

    def forget(self, number: int, lookups: int) -> None:
        """Take back `lookups` counts; an inode without any is let go."""
        inode = self._inodes.get(number)
        if inode is None or number == ROOT:
            return
        inode.lookups -= lookups
        if inode.lookups <= 0:
            inode.children = None
            del self._inodes[number]

    def _make(self, parent: Inode, entry: Entry, folder: Inode | None = None) -> Inode:
        """Return the inode for `entry` in `parent`: the known one, brought up to date, or a new."""
        number = self._number(parent, entry)
        inode = self._inodes.get(number)
        if inode is None:
            backup = parent.backup if parent.number != ROOT else number
            return Inode(
                number, entry, backup, isinstance(entry, Stored), not parent.fixed, parent=folder
            )
        if not inode.fixed:
            inode.entry = entry
        return inode

    @staticmethod
    def _number(parent: Inode, entry: Entry) -> int:
        node = entry.node
        if node.links > 1 and isinstance(entry, Stored) and node.type != "dir" and node.inode:
            seed = b"%d\0%s\0%d\0%d" % (
                parent.backup,
                entry.snapshot.id.encode(),
                node.device_id,
                node.inode,
            )
        elif isinstance(entry, Stored) and not parent.fixed:
            # Another snapshot may come to be shown here, which is another folder.
            seed = b"%d/%s\0%s" % (parent.number, entry.name, entry.snapshot.id.encode())
        else:
            seed = b"%d/%s" % (parent.number, entry.name)
        digest = hashlib.blake2b(seed, digest_size=8).digest()
        return max(int.from_bytes(digest, "big") >> (64 - _NUMBER_BITS), _FIRST_FREE)

    # Folders

    async def open_folder(self, number: int) -> int:
        """Take down what a folder holds now; return a handle for `list_folder`."""
        inode = self.inode(number)
        above = inode.entry
        if isinstance(above, Stored):
            held = list((await self._children(inode, above)).items())
        else:
            entries = await self.view.children(above)
            held = [(name, self._make(inode, entry)) for name, entry in entries.items()]
        handle = self._handle()
        self._folders[handle] = held
        return handle

    def list_folder(self, handle: int, start: int) -> Iterable[tuple[int, bytes, Inode]]:
        """Yield (position of the next, name, inode) from position `start` on."""
        held = self._folders[handle]
        for at in range(start, len(held)):
            name, inode = held[at]
            # Another listing or lookup may have told the kernel of it meanwhile.
            yield at + 1, name, self._inodes.get(inode.number, inode)

    def close_folder(self, handle: int) -> None:
        """Let a handle of `open_folder` go."""
        del self._folders[handle]

    # Files

    async def open_file(self, number: int) -> tuple[int, bool]:
        """Open a regular file: a handle, and whether its attributes tell its true size.

        Raises IsAFolderError, and what the repository raises for missing blobs.
        """
        inode = self.inode(number)
        entry = inode.entry
        content: Readable
        if isinstance(entry, _Live):
            content = _Bytes(entry.render())
        else:
            found = await self.view.content(entry)
            content = _Bytes(found.content) if isinstance(found, Document) else found
        if inode.parent is not None and inode.parent.children is not None:
            siblings = (other.entry.node for other in inode.parent.children.values())
            self._neighbours.opened(inode.parent.number, siblings, entry.node)
        handle = self._handle()
        self._files[handle] = content
        true_size = content.size == entry.node.size and not isinstance(entry, _Live)
        if not true_size and isinstance(content, FileContent):
            _log.warning(
                "Inode %d was recorded with %d bytes but holds %d",
                number, entry.node.size, content.size,
            )  # fmt: skip
        return handle, true_size

    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview:
        """Read from a handle of `open_file`."""
        return await self._files[handle].view(offset, size)

    def close_file(self, handle: int) -> None:
        """Let a handle of `open_file` go."""
        del self._files[handle]

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    async def space(self) -> Space:
        """Tell how much the repository holds."""
        index = await self.view.repository.index()
        return Space(index.stored_bytes, len(index))

    # What is found at .cesbrfs/

    def _status_folder(self) -> Folder:
        documents = {
            b"status.json": self._status_json,
            b"metrics": self._metrics,
        }
        now = time.time_ns()

        def node(name: bytes, mode: int, kind: str) -> Node:
            owner = self.view.root.node
            return Node(
                name=name, type=kind, mode=mode, mtime_ns=now, atime_ns=now, ctime_ns=now,  # type: ignore[arg-type]  # "dir" or "file"
                uid=owner.uid, gid=owner.gid,
            )  # fmt: skip

        entries: dict[bytes, Entry] = {
            name: _Live(name, node(name, 0o100444, "file"), render)
            for name, render in documents.items()
        }

        async def load() -> dict[bytes, Entry]:
            return entries

        return Folder(STATUS_FOLDER, node(STATUS_FOLDER, 0o40555, "dir"), load)

    def counters(self) -> dict[str, int]:
        """Return what is counted, by the name it has in the metrics."""
        return {
            "inodes": len(self._inodes),
            "open_files": len(self._files),
            "open_folders": len(self._folders),
            "errors_total": self.errors,
        }

    def _status_json(self) -> bytes:
        repository = self.view.repository
        status = {
            "version": __version__,
            "repository": {
                "url": repository.storage.shown,
                "id": repository.id,
                "format": repository.version,
            },
            "uptime_seconds": round(time.time() - self._started, 3),
            "requests": dict(sorted(self.requests.items())),
            **self.counters(),
            "damaged": repository.damaged,
        }
        return json.dumps(status, indent=2).encode() + b"\n"

    def _metrics(self) -> bytes:
        lines = ["# TYPE cesbrfs_requests_total counter"]
        lines += [
            f'cesbrfs_requests_total{{operation="{name}"}} {count}'
            for name, count in sorted(self.requests.items())
        ]
        for name, value in self.counters().items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE cesbrfs_{name} {kind}", f"cesbrfs_{name} {value}"]
        return "\n".join(lines).encode() + b"\n"


def blocks(size: int) -> int:
    """Return how many blocks of 512 bytes a file of `size` bytes takes."""
    return -(-size // _BLOCK)


def errno_of(error: Exception) -> int:
    """Return the errno by which a reader of the mount learns of `error`."""
    return error.errno if isinstance(error, CesbrError) else errno.EIO
