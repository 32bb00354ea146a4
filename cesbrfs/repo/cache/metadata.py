"""What is kept on disk between mounts: index tables, and snapshot files as restic encrypted them.

One directory a repository.  Names and content lie here only as restic sealed them, or sealed with
the same keys; an index table holds nothing but hashes, lengths and places.  Each file is checked
when it is read, and one that is damaged or of another version is as good as none.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.format.index import ROW_BYTES, Table
from cesbrfs.repo.format.model import ID_BYTES

_TABLE_MAGIC: Final = b"CESIDX1\n"
_TABLE: Final = struct.Struct("<8sIIIIQQ")
"""Magic, CRC-32 of all that follows it, numbers of names, packs, bits and rows, stored bytes."""
_CHECKED_FROM: Final = 12
_TABLE_SUFFIX: Final = ".index"
_SEALED_SUFFIX: Final = ".sealed"
_SNAPSHOTS: Final = "snapshots"
_RECORD: Final = struct.Struct("<32sI")


class MetadataCache:
    """The cache directory of one repository.  A directory that cannot be used is done without."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self._kept = CacheDir(directory)

    def tables(self, listed: Iterable[str]) -> list[Table]:
        """Return the tables here that were made of index files in `listed` alone."""
        there = frozenset(listed)
        found: list[Table] = []
        covered: set[str] = set()
        for name in self._tables():
            table = _map_table(self.directory / name)
            if table is None:
                self._kept.remove(name)
            elif there.issuperset(table.names) and covered.isdisjoint(table.names):
                covered.update(table.names)
                found.append(table)
        return found

    def keep_table(self, table: Table) -> Table:
        """Write a table; return it as it is mapped from there, or as it was where that fails."""
        name = _name_of(table)
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
        if not self._kept.write(name, (_TABLE_MAGIC, check.to_bytes(4, "little"), *rest)):
            return table
        return _map_table(self.directory / name) or table

    def drop_tables(self, kept: Iterable[Table]) -> None:
        """Remove the tables that none of the kept ones needs any more."""
        needed = {_name_of(table) for table in kept}
        for name in self._tables():
            if name not in needed:
                self._kept.remove(name)

    def _tables(self) -> list[str]:
        return [file.name for file in self._kept.files() if file.name.endswith(_TABLE_SUFFIX)]

    def snapshots(self) -> dict[str, bytes]:
        """Return the snapshot files kept here, by name: each is what its name promises."""
        data = self._kept.read(_SNAPSHOTS) or b""
        found: dict[str, bytes] = {}
        at = 0
        while at + _RECORD.size <= len(data):
            name, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            raw = data[at : at + length]
            at += length
            if hashlib.sha256(raw).digest() != name:
                break  # the following records cannot be separated
            found[name.hex()] = raw
        return found

    def keep_snapshots(self, files: Mapping[str, bytes]) -> None:
        """Write snapshot files, by name, in place of those here."""
        parts: list[bytes] = []
        for name, raw in files.items():
            parts += (_RECORD.pack(bytes.fromhex(name), len(raw)), raw)
        self._kept.write(_SNAPSHOTS, parts)

    def sealed(self, name: str) -> bytes | None:
        """Return the record kept as `name`, None without one."""
        return self._kept.read(name + _SEALED_SUFFIX)

    def keep_sealed(self, name: str, record: bytes) -> None:
        """Write a sealed record in place of the one kept as `name`."""
        self._kept.write(name + _SEALED_SUFFIX, [record])


def _name_of(table: Table) -> str:
    """Return the name of a table's file: told from the index files that it was made of."""
    label = hashlib.sha256("\n".join(sorted(table.names)).encode()).hexdigest()[:32]
    return f"{label}{_TABLE_SUFFIX}"


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
