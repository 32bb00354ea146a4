"""What is kept on disk between mounts: index tables, and snapshot files as restic encrypted them.

One folder a repository, 0700.  Names and content lie here only as restic sealed them; an index
table holds nothing but hashes, lengths and places.  Every file is written beside and renamed, so
that several processes can share the folder; each is checked when it is read, and one that is
damaged or of another version is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cesbrfs.repo.index import ROW_BYTES, Table
from cesbrfs.repo.model import ID_BYTES

_log = logging.getLogger(__name__)

_TABLE_MAGIC: Final = b"CESIDX1\n"
_TABLE: Final = struct.Struct("<8sIIIIQQ")
"""Magic, CRC-32 of all that follows it, numbers of names, packs, bits and rows, stored bytes."""
_CHECKED_FROM: Final = 12
_TABLE_SUFFIX: Final = ".index"
_SNAPSHOTS: Final = "snapshots"
_RECORD: Final = struct.Struct("<32sI")


class DiskCache:
    """The cache folder of one repository.  A folder that cannot be used is done without."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self._usable = True
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
        except OSError as error:
            self._usable = False
            _log.warning("The cache in %s cannot be used: %s.", folder, error.strerror)

    def tables(self, listed: Iterable[str]) -> list[Table]:
        """Return the tables here that were made of index files in `listed` alone."""
        there = frozenset(listed)
        found: list[Table] = []
        covered: set[str] = set()
        for path in self._files(_TABLE_SUFFIX):
            table = _map_table(path)
            if table is None:
                self._remove(path)
            elif there.issuperset(table.names) and covered.isdisjoint(table.names):
                covered.update(table.names)
                found.append(table)
        return found

    def keep_table(self, table: Table) -> Table:
        """Write a table; return it as it is mapped from there, or as it was where that fails."""
        path = self._place(table)
        names = b"".join(bytes.fromhex(name) for name in table.names)
        rest = (
            struct.pack("<IIIQQ", len(table.names), len(table.packs) // ID_BYTES, table.bits,
                        table.count, table.stored),
            names,
            table.packs,
            table.fanout,
            table.segment().rows,
        )  # fmt: skip
        check = 0
        for part in rest:
            check = zlib.crc32(part, check)
        if not self._write(path, (_TABLE_MAGIC, check.to_bytes(4, "little"), *rest)):
            return table
        return _map_table(path) or table

    def drop_tables(self, kept: Iterable[Table]) -> None:
        """Remove the tables that none of the kept ones needs any more."""
        needed = {self._place(table) for table in kept}
        for path in self._files(_TABLE_SUFFIX):
            if path not in needed:
                self._remove(path)

    def _place(self, table: Table) -> Path:
        """Return the file of a table: told from the index files that it was made of."""
        label = hashlib.sha256("\n".join(sorted(table.names)).encode()).hexdigest()[:32]
        return self.folder / f"{label}{_TABLE_SUFFIX}"

    def snapshots(self) -> dict[str, bytes]:
        """Return the snapshot files kept here, by name: each is what its name promises."""
        try:
            data = (self.folder / _SNAPSHOTS).read_bytes()
        except OSError:
            return {}
        found: dict[str, bytes] = {}
        at = 0
        while at + _RECORD.size <= len(data):
            name, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            raw = data[at : at + length]
            at += length
            if hashlib.sha256(raw).digest() != name:
                break  # what follows cannot be told apart any more
            found[name.hex()] = raw
        return found

    def keep_snapshots(self, files: Mapping[str, bytes]) -> None:
        """Write snapshot files, by name, in place of those here."""
        parts: list[bytes] = []
        for name, raw in files.items():
            parts += (_RECORD.pack(bytes.fromhex(name), len(raw)), raw)
        self._write(self.folder / _SNAPSHOTS, parts)

    def _files(self, suffix: str) -> list[Path]:
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == suffix)
        except OSError:
            return []

    def _write(self, path: Path, parts: Iterable[bytes | memoryview]) -> bool:
        if not self._usable:
            return False
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.writelines(parts)
            beside.replace(path)
        except OSError as error:
            self._usable = False
            _log.warning("Nothing more is kept in %s: %s.", self.folder, error.strerror)
            with contextlib.suppress(OSError):
                beside.unlink()
            return False
        return True

    @staticmethod
    def _remove(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


def _map_table(path: Path) -> Table | None:
    """Map a table's file; None when it is not whole or not a table."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # gone, or empty
        return None
    if len(mapped) < _TABLE.size:
        return None
    magic, check, names, packs, bits, rows, stored = _TABLE.unpack_from(mapped)
    fanout = (1 << bits) + 1 if bits <= 16 else 0  # noqa: PLR2004 - the most bits a table has
    size = _TABLE.size + (names + packs) * ID_BYTES + fanout * 4 + rows * ROW_BYTES
    with memoryview(mapped) as view, view[_CHECKED_FROM:] as checked:
        if magic != _TABLE_MAGIC or size != len(mapped) or zlib.crc32(checked) != check:
            return None
    at = _TABLE.size
    listed = mapped[at : at + names * ID_BYTES]
    at += names * ID_BYTES
    held = mapped[at : at + packs * ID_BYTES]
    at += packs * ID_BYTES
    heads = mapped[at : at + fanout * 4]
    at += fanout * 4
    return Table(
        names=tuple(listed[n : n + ID_BYTES].hex() for n in range(0, len(listed), ID_BYTES)),
        packs=held,
        bits=bits,
        fanout=heads,
        rows=mapped,
        rows_at=at,
        count=rows,
        stored=stored,
    )
