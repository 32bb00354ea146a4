"""A repository in memory, for tests of code that reads a Storage."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from cesbrfs.errors import FileMissingError
from cesbrfs.repo.storage.base import FileInfo, FileType, is_file_name


class MemoryStorage:
    """Stores `files` in a dict by (kind, name).

    `reads` records each read as (kind, name, offset, length). Reads of a key of `fail` raise its
    error.
    """

    def __init__(self, display_url: str = "memory") -> None:
        self.display_url = display_url
        self.files: dict[tuple[FileType, str], bytes] = {}
        self.fail: dict[tuple[FileType, str], Exception] = {}
        self.reads: list[tuple[FileType, str, int, int | None]] = []

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        await trio.lowlevel.checkpoint()
        return [
            FileInfo(name, len(data))
            for (stored_kind, name), data in self.files.items()
            if stored_kind is kind and is_file_name(name)
        ]

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        await trio.lowlevel.checkpoint()
        self.reads.append((kind, name, offset, length))
        if error := self.fail.get((kind, name)):
            raise error
        try:
            data = self.files[kind, name]
        except KeyError:
            raise FileMissingError(f"{kind}/{name} does not exist.") from None
        if length is None:
            return data[offset:]
        return data[offset : offset + length]

    async def aclose(self) -> None:
        """Do nothing."""
