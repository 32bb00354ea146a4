"""Disk cache of index tables, snapshot files and derived data, one directory per repository.

Names and content of backed-up files are stored only in encrypted form, by restic or with the same
keys. Index tables contain only hashes, lengths and offsets. Each file is verified when it is read;
a damaged one, or one of another version, is treated as missing.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.format.index import Table
from cesbrfs.repo.format.index_builder import TableBuilder
from cesbrfs.repo.format.index_segment import ROW_BYTES
from cesbrfs.repo.format.model import ID_BYTES

_TABLE_MAGIC: Final = b"CESIDX1\n"
_TABLE: Final = struct.Struct("<8sIIIIQQ")
"""Magic, CRC-32 of everything after it, numbers of names, packs, bits and rows, stored bytes."""
_CHECKED_FROM: Final = 12
_WINDOW: Final = 8 << 20
"""Bytes of a table that are mapped while its checksum is verified."""
_TABLE_SUFFIX: Final = ".index"
_SEALED_SUFFIX: Final = ".sealed"
_SNAPSHOTS: Final = "snapshots"
_RECORD: Final = struct.Struct("<32sI")


class MetadataCache:
    """The cache directory of one repository; if it is not usable, nothing is cached."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self._kept = CacheDir(directory)

    def tables(self, listed: Iterable[str]) -> list[Table]:
        """Return the tables built only from index files in `listed`; no index file occurs twice."""
        available = frozenset(listed)
        tables: list[Table] = []
        covered: set[str] = set()
        for name in self._tables():
            table = _map_table(self.directory / name)
            if table is None:
                self._kept.remove(name)
            elif available.issuperset(table.names) and covered.isdisjoint(table.names):
                covered.update(table.names)
                tables.append(table)
        return tables

    def keep_table(self, builder: TableBuilder) -> Table | None:
        """Write a table; return it as mapped from its file, None if that fails."""
        name = _name_of(builder.names)
        check = 0

        def parts() -> Iterator[bytes]:
            nonlocal check
            yield bytes(_CHECKED_FROM)
            for part in chain(
                (
                    struct.pack("<IIIQQ", len(builder.names), len(builder.packs) // ID_BYTES,
                                builder.bits, builder.count, builder.stored),
                    bytes.fromhex("".join(builder.names)),
                    builder.packs,
                    builder.fanout,
                ),
                builder.rows(),
            ):  # fmt: skip
                check = zlib.crc32(part, check)
                yield part

        def head() -> bytes:
            return _TABLE_MAGIC + check.to_bytes(4, "little")

        if not self._kept.write(name, parts(), head):
            return None
        return _map_table(self.directory / name)

    def drop_tables(self, kept: Iterable[Table]) -> None:
        """Remove the files of all tables that are not among `kept`."""
        needed = {_name_of(table.names) for table in kept}
        for name in self._tables():
            if name not in needed:
                self._kept.remove(name)

    def _tables(self) -> list[str]:
        return [file.name for file in self._kept.files() if file.name.endswith(_TABLE_SUFFIX)]

    def snapshots(self) -> dict[str, bytes]:
        """Return the cached snapshot files by name; the name is the SHA-256 of the content."""
        data = self._kept.read(_SNAPSHOTS) or b""
        files: dict[str, bytes] = {}
        at = 0
        while at + _RECORD.size <= len(data):
            name, length = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            raw = data[at : at + length]
            at += length
            if hashlib.sha256(raw).digest() != name:
                break  # the length may be wrong, so the next record cannot be located
            files[name.hex()] = raw
        return files

    def keep_snapshots(self, files: Mapping[str, bytes]) -> None:
        """Replace the cached snapshot files by `files`, which are keyed by name."""
        parts: list[bytes] = []
        for name, raw in files.items():
            parts += (_RECORD.pack(bytes.fromhex(name), len(raw)), raw)
        self._kept.write(_SNAPSHOTS, parts)

    def sealed(self, name: str) -> bytes | None:
        """Return the encrypted record stored as `name`; None if there is none."""
        return self._kept.read(name + _SEALED_SUFFIX)

    def keep_sealed(self, name: str, record: bytes) -> None:
        """Store an encrypted record as `name`; overwrites."""
        self._kept.write(name + _SEALED_SUFFIX, [record])


def _name_of(names: Iterable[str]) -> str:
    """Return the file name of a table, derived from the names of its index files."""
    label = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:32]
    return f"{label}{_TABLE_SUFFIX}"


def _map_table(path: Path) -> Table | None:
    """Map the file of a table into memory; None if it is incomplete or invalid."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # missing or empty
        return None
    if len(mapped) < _TABLE.size:
        return None
    magic, check, names, packs, bits, rows, stored = _TABLE.unpack_from(mapped)
    fanout = (1 << bits) + 1 if bits <= 16 else 0  # noqa: PLR2004 - the maximum of a table
    size = _TABLE.size + (names + packs) * ID_BYTES + fanout * 4 + rows * ROW_BYTES
    if magic != _TABLE_MAGIC or size != len(mapped) or _crc(mapped) != check:
        return None
    at = _TABLE.size
    name_ids = mapped[at : at + names * ID_BYTES]
    at += names * ID_BYTES
    pack_ids = mapped[at : at + packs * ID_BYTES]
    at += packs * ID_BYTES
    fanout_table = mapped[at : at + fanout * 4]
    at += fanout * 4
    return Table(
        names=tuple(name_ids[n : n + ID_BYTES].hex() for n in range(0, len(name_ids), ID_BYTES)),
        packs=pack_ids,
        bits=bits,
        fanout=fanout_table,
        rows=mapped,
        rows_at=at,
        count=rows,
        stored=stored,
    )


def _crc(mapped: mmap.mmap) -> int:
    """Return the CRC-32 of a table's file without its head, without keeping pages mapped."""
    check = 0
    with memoryview(mapped) as view:
        for at in range(0, len(mapped), _WINDOW):
            with view[max(at, _CHECKED_FROM) : at + _WINDOW] as part:
                check = zlib.crc32(part, check)
            mapped.madvise(mmap.MADV_DONTNEED, at, _WINDOW)
    return check
