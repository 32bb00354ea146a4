"""Prefetch what a client will probably request next: sibling files and subdirectories.

Files: in a remote repository each small file costs a round trip, while the blobs of neighbouring
files are adjacent in few packs. Opening a file prefetches those that follow it in the directory, as
much as arrives in one round trip, and more while the client keeps to the order.

Directories: `find`, `tar` and similar programs read a directory and then descend into each
subdirectory. Decoding a directory takes longer than replying to the request, so the next ones are
decoded while the client processes a reply. The lead grows with the number of correct guesses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cesbrfs.repo.format.model import Node
from cesbrfs.repo.read.blobs import Blobs

_SMALL: Final = 1 << 20
"""Larger files have their own read-ahead."""
_DIRECTORIES: Final = 64
_FILES: Final = 100_000
"""Maximum number of files tracked over all directories except the last: bounds memory."""
_SKIPPED: Final = 8
"""A client that skips up to this many files still counts as reading in order."""


@dataclass(slots=True)
class _Reader:
    """How far the files of a directory, in listing order, were opened and prefetched.

    `before` contains the cumulative sizes of the files in bytes.
    """

    places: dict[bytes, int]
    files: Sequence[Node]
    before: Sequence[int]
    opened: int
    fetched: int
    ahead: int = 0


class SiblingPrefetcher:
    """Prefetch the content of files that follow an opened one in its directory."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._readers: OrderedDict[int, _Reader] = OrderedDict()
        self._known = 0

    def opened(self, directory: int, nodes: Iterable[Node], node: Node) -> None:
        """Record that `node` was opened, one of the `nodes` of the directory with this number."""
        worth = self._blobs.min_request_bytes
        if not worth or node.size > _SMALL:
            return
        reader = self._readers.get(directory)
        if reader is None:
            files = [other for other in nodes if other.type == "file" and other.size <= _SMALL]
            places = {other.name: at for at, other in enumerate(files)}
            before = list(accumulate((other.size for other in files), initial=0))
            at = places.get(node.name, 0)
            reader = self._readers[directory] = _Reader(places, files, before, at, at)
            self._known += len(files)
            while len(self._readers) > 1 and (
                len(self._readers) > _DIRECTORIES or self._known > _FILES
            ):
                _, oldest = self._readers.popitem(last=False)
                self._known -= len(oldest.files)
        self._readers.move_to_end(directory)
        at = reader.places.get(node.name, 0)
        if not 0 <= at - reader.opened <= _SKIPPED:
            reader.ahead, reader.fetched = 0, at
        reader.opened = at
        reader.ahead = min(max(reader.ahead * 2, worth), self._blobs.max_readahead // 2)
        self._fetch(reader, at)

    def _fetch(self, reader: _Reader, at: int) -> None:
        """Prefetch the next files once half of the prefetched ones have been opened."""
        files, before = reader.files, reader.before
        waiting = before[max(at, reader.fetched)] - before[at]
        if reader.fetched > at and waiting > reader.ahead // 2:
            return
        start = max(at, reader.fetched)
        end = start
        while end < len(files) and waiting < reader.ahead:
            waiting += files[end].size
            end += 1
        if end > start:
            self._blobs.fetch(blob for file in files[start:end] for blob in file.blobs)
        reader.fetched = end


_LEAD: Final = 4
"""Directories decoded ahead of a client that has opened a single one."""
_MOST_LEAD: Final = 64
_MOST_WAITING: Final = 10_000


class SubtreePrefetcher:
    """Decode the directories that a client walking the tree will open next.

    `decode` decodes a tree by ID if that never blocks, and returns whether it did.
    """

    def __init__(self, decode: Callable[[bytes], bool]) -> None:
        self._decode = decode
        self._waiting: list[bytes] = []
        """Tree IDs, the next one last."""
        self._expected: set[bytes] = set()
        """The IDs in `_waiting` and those already decoded, until they are opened."""
        self._lead = _LEAD
        self._ahead = 0

    def opened(self, tree: bytes, below: Sequence[bytes]) -> None:
        """Record that a directory was opened, and its subdirectories in order."""
        waiting, expected = self._waiting, self._expected
        if tree in expected:
            expected.discard(tree)
            if waiting and waiting[-1] == tree:
                waiting.pop()
            else:
                self._ahead -= 1
                self._lead = min(self._lead * 2, _MOST_LEAD)
        else:
            waiting.clear()
            expected.clear()
            self._lead, self._ahead = _LEAD, 0
        if not below:
            return
        more = [each for each in dict.fromkeys(below) if each not in expected]
        del more[max(0, _MOST_WAITING - len(waiting)) :]
        expected.update(more)
        waiting += reversed(more)

    def decode_next(self) -> bool:
        """Decode the next directory; False if none is left or decoding would block."""
        if not self._waiting or self._ahead >= self._lead:
            return False
        if not self._decode(self._waiting[-1]):
            return False
        self._waiting.pop()
        self._ahead += 1
        return True
