"""Check whether blobs can be read, mostly without reading them.

A blob is lost if no index names it, or if each pack that should contain it is missing, is too
short, or turns out to be damaged when it is read. Only suspected packs are read.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from cesbrfs.errors import DamagedError, StorageError
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.model import Node
from cesbrfs.repo.format.pack import BlobLocation, BlobType
from cesbrfs.repo.repository import Repository


@dataclass(frozen=True, slots=True)
class Fault:
    """Damage of a file or directory, as a phrase.

    `copies` are packs (IDs of 32 bytes) with intact copies of everything that is damaged; without
    them, content is lost.
    """

    reason: str
    copies: tuple[bytes, ...] = ()

    @property
    def is_loss(self) -> bool:
        """Whether content is lost."""
        return not self.copies


class BlobChecker:
    """Checks blobs against the `index` and the sizes in bytes of the existing packs.

    Blobs in `suspects` (pack IDs of 32 bytes) are read.
    """

    def __init__(
        self,
        repository: Repository,
        index: Index,
        pack_sizes: Mapping[bytes, int],
        suspects: Container[bytes],
    ) -> None:
        self._blobs: Final = repository.blobs
        self._index: Final = index
        self._pack_sizes: Final = pack_sizes
        self._suspects: Final = suspects
        self._read: Final[dict[tuple[bytes, bytes], str | None]] = {}

    async def blob(self, kind: BlobType, blob: bytes) -> Fault | None:
        """Return the damage of a blob, None if all its copies can be read."""
        locations = self._index.places(kind, blob)
        if not locations:
            return Fault("no index names its content")
        problems = [await self._problem(kind, blob, location) for location in locations]
        first = next(filter(None, problems), None)
        if first is None:
            return None
        intact = [at.pack for at, problem in zip(locations, problems, strict=True) if not problem]
        return Fault(first, tuple(dict.fromkeys(intact)))

    async def _problem(self, kind: BlobType, blob: bytes, location: BlobLocation) -> str | None:
        size = self._pack_sizes.get(location.pack)
        if size is None:
            return f"pack {location.pack.hex()[:8]} is missing"
        if location.offset + location.length > size:
            return f"pack {location.pack.hex()[:8]} is truncated"
        if location.pack not in self._suspects:
            return None
        key = (blob, location.pack)
        if key not in self._read:
            try:
                await self._blobs.load_at(kind, blob, location)
                self._read[key] = None
            except (DamagedError, StorageError):
                self._read[key] = f"pack {location.pack.hex()[:8]} is damaged"
        return self._read[key]

    async def file(self, node: Node) -> Fault | None:
        """Return the damage of the content of a file."""
        blobs = node.blobs
        faults = [fault for blob in blobs if (fault := await self.blob(BlobType.DATA, blob))]
        if not faults:
            return None
        losses = [fault for fault in faults if fault.is_loss]
        if not losses:
            packs = dict.fromkeys(pack for fault in faults for pack in fault.copies)
            return Fault(faults[0].reason, tuple(packs))
        if len(blobs) == 1:
            return losses[0]
        are = "is" if len(losses) == 1 else "are"
        lost = f"{len(losses):,} of its {len(blobs):,} blobs {are} lost"
        return Fault(f"{lost}: {losses[0].reason}")
