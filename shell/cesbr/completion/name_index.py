"""The names that a directory holds, kept so that those with one beginning are found at once."""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from cesbr.ui import humanize
from cesbrfs.repo.format.tree import DIRECTORY, OTHER
from cesbrfs.util.escape import show, unshow
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualSymlink

if TYPE_CHECKING:
    from cesbrfs.util.lru import LruCache
    from cesbrfs.vfs.tree import BackupTree

T = TypeVar("T")

SHOWN: Final = 400
"""Names that are offered; nobody reads more, and the terminal would be busy with them."""
_NAME_BYTES: Final = 60
"""About what a name takes in memory, beside its letters."""


class Continuation(NamedTuple):
    """A name that what was typed may become: the whole word, the name as a menu shows it.

    `beside` is the size of a file.
    """

    word: str
    shown: str
    is_directory: bool
    beside: str = ""


@dataclass(frozen=True, slots=True)
class NameIndex:
    """The names in a directory, sorted; `sizes` are bytes of files, or DIRECTORY, or OTHER."""

    names: Sequence[bytes]
    sizes: Sequence[int]

    @classmethod
    def of(cls, size_by_name: Mapping[bytes, int]) -> NameIndex:
        """Make them of sizes by name."""
        names = sorted(size_by_name)
        return cls(names, array("q", [size_by_name[name] for name in names]))

    def held_bytes(self) -> int:
        """Return about how much memory they take."""
        return sum(map(len, self.names)) + _NAME_BYTES * len(self.names)

    def continuing(self, start: str, write: Callable[[bytes], str]) -> list[Continuation]:
        """Return what `start` may become: the names that begin so, directories with ``/``.

        What was typed stays, the rest of a name is spelt by `write`.  Of very many names some are
        returned, the first and the last of them, so that what all have in common stays the same.
        """
        literal, meant = start.encode("utf-8", "surrogateescape"), unshow(start)
        rests: dict[int, tuple[str, bytes]] = {}
        for at in _few(self._beginning(literal)):
            rests[at] = ("", self.names[at])
        if meant is not None:
            for at in _few(self._beginning(meant)):
                rests[at] = (start, self.names[at][len(meant) :])
        else:  # an escape may be half typed
            whole = unshow(start.rpartition("\\")[0])
            around = range(0) if whole is None else self._beginning(whole)
            for at in _few([n for n in around if write(self.names[n]).startswith(start)]):
                rests[at] = ("", self.names[at])
        return [
            self._continuation(at, typed + write(rest))
            for at, (typed, rest) in _few(sorted(rests.items()))
        ]

    def _beginning(self, start: bytes) -> range:
        """Return where the names are that begin with `start`."""
        first = bisect_left(self.names, start)
        last = bisect_right(self.names, start, first, key=lambda name: name[: len(start)])
        return range(first, last)

    def _continuation(self, at: int, word: str) -> Continuation:
        size, slash = self.sizes[at], "/" * (self.sizes[at] == DIRECTORY)
        beside = humanize.size(size) if size >= 0 else ""
        return Continuation(word + slash, show(self.names[at]) + slash, bool(slash), beside)


def _few(items: Sequence[T]) -> Sequence[T]:
    """Return the first and the last of very many."""
    return [*items[: SHOWN // 2], *items[-SHOWN // 2 :]] if len(items) > SHOWN else items


async def names_in(
    view: BackupTree, directory: Entry, cache: LruCache[bytes, NameIndex]
) -> NameIndex:
    """Return the names in `directory`; those of a stored one never change and go into `cache`.

    Raises NotDirectoryError for anything else.
    """
    if not isinstance(directory, SnapshotEntry) or directory.top or directory.node.subtree is None:
        children = await view.children(directory)
        return NameIndex.of({name: _size(entry) for name, entry in children.items()})
    tree = directory.node.subtree

    async def read() -> NameIndex:
        return NameIndex.of(await view.repository.trees.names(tree))

    return await cache.get(tree, read)


def _size(entry: Entry) -> int:
    """Return a file's bytes, or DIRECTORY, or OTHER; our own links lead to directories."""
    if stat.S_ISDIR(entry.node.mode) or isinstance(entry, VirtualSymlink):
        return DIRECTORY
    return entry.node.size if entry.node.type == "file" else OTHER
