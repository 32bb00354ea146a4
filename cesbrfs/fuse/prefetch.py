"""Small files of one folder are opened one after the other: their content is fetched together.

Where a repository lies behind a network, each small file costs a round trip, and their blobs lie
side by side in few packs.  So opening one fetches those after it in the listing, as much as comes
in the time of a round trip, and more of them while the reader keeps to the order.
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
"""Larger files are read ahead by themselves."""
_FOLDERS: Final = 64
_FILES: Final = 100_000
"""Files that are known of all those folders, but of the last: what bounds the memory they take."""
_SKIPPED: Final = 8
"""A reader who leaves out up to so many files still keeps to the order."""


@dataclass(slots=True)
class _Reader:
    """How far a folder's files, in the order of its listing, were opened and fetched.

    `before` holds how many bytes the files before each one have, and all of them in the end.
    """

    places: dict[bytes, int]
    files: Sequence[Node]
    before: Sequence[int]
    opened: int
    fetched: int
    ahead: int = 0


class SiblingPrefetcher:
    """Fetches files into `blobs` ahead of those who open them."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._readers: OrderedDict[int, _Reader] = OrderedDict()
        self._known = 0

    def opened(self, folder: int, nodes: Iterable[Node], node: Node) -> None:
        """Take note that `node` was opened, one of the `nodes` of the folder with this number."""
        worth = self._blobs.min_request_bytes
        if not worth or node.size > _SMALL:
            return
        reader = self._readers.get(folder)
        if reader is None:
            files = [other for other in nodes if other.type == "file" and other.size <= _SMALL]
            places = {other.name: at for at, other in enumerate(files)}
            before = list(accumulate((other.size for other in files), initial=0))
            at = places.get(node.name, 0)
            reader = self._readers[folder] = _Reader(places, files, before, at, at)
            self._known += len(files)
            while len(self._readers) > 1 and (
                len(self._readers) > _FOLDERS or self._known > _FILES
            ):
                _, oldest = self._readers.popitem(last=False)
                self._known -= len(oldest.files)
        self._readers.move_to_end(folder)
        at = reader.places.get(node.name, 0)
        if not 0 <= at - reader.opened <= _SKIPPED:
            reader.ahead, reader.fetched = 0, at
        reader.opened = at
        reader.ahead = min(max(reader.ahead * 2, worth), self._blobs.max_readahead // 2)
        self._fetch(reader, at)

    def _fetch(self, reader: _Reader, at: int) -> None:
        """Fetch from where it was left off, once half of what was fetched has been opened."""
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
"""Folders decoded ahead of one who has only looked into one."""
_MOST_LEAD: Final = 64
_MOST_WAITING: Final = 10_000


class SubtreePrefetcher:
    """The folders that will be asked for next, if somebody walks on.

    `decode` reads a folder (a tree's ID) if nothing has to be waited for, and tells whether it did.
    """

    def __init__(self, decode: Callable[[bytes], bool]) -> None:
        self._decode = decode
        self._waiting: list[bytes] = []
        """The next one is the last."""
        self._expected: set[bytes] = set()
        """Those and the ones that were decoded, until they are opened."""
        self._lead = _LEAD
        self._ahead = 0

    def opened(self, tree: bytes, below: Sequence[bytes]) -> None:
        """Take note that a folder was opened, and of the folders in it, in their order."""
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

    def go_ahead(self) -> bool:
        """Decode the next folder; False where none is left, or it would have to be waited for."""
        if not self._waiting or self._ahead >= self._lead:
            return False
        if not self._decode(self._waiting[-1]):
            return False
        self._waiting.pop()
        self._ahead += 1
        return True
