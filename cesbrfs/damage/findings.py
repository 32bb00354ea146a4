"""List damage by path over all backups at once, with the backups that have the same path whole.

A set of backups is a bit mask, as in `vfs.timeline`; the oldest backup is bit 0.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Final, NamedTuple

from cesbrfs.damage.blob_check import Fault
from cesbrfs.damage.scan import TreeKey, TreeScan, subtree_of

Parts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Damage at one path below each backup of the mask `backups`.

    The backups of the mask `whole` have the path without any loss.
    """

    parts: Parts
    fault: Fault
    backups: int
    whole: int = 0

    def whole_near(self, backup: int) -> list[int]:
        """Return the numbers of the last backup before `backup`, and of the first after it."""
        if not self.fault.is_loss:
            return []
        before = self.whole & ((1 << backup) - 1)
        after = self.whole >> (backup + 1)
        found = [before.bit_length() - 1] if before else []
        return [*found, backup + (after & -after).bit_length()] if after else found


class Row(NamedTuple):
    """One distinct entry at a path: a directory has a `key`, a file may have a `fault`."""

    key: TreeKey | None
    content: bytes = b""
    fault: Fault | None = None


Rows = Mapping[Row, int]
"""The backups that have each row."""


def numbers(mask: int) -> Iterator[int]:
    """Yield the numbers of the backups in a mask, oldest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def union(masks: Iterable[int]) -> int:
    """Return the union of masks."""
    return reduce(or_, masks, 0)


class DamageWalk:
    """Walks the damaged paths, and no others, below the rows of `starts`, which were scanned."""

    def __init__(self, scan: TreeScan, starts: Mapping[Parts, Rows]) -> None:
        self._scan: Final = scan
        self._starts: Final = starts

    def count(self) -> int:
        """Return the number of damaged entries, each once per backup."""
        return sum(
            self._damaged(row) * mask.bit_count()
            for rows in self._starts.values()
            for row, mask in rows.items()
        )

    def lost_at(self, parts: Parts) -> int:
        """Return the backups that have lost something at or below a start."""
        return union(mask for row, mask in self._starts[parts].items() if self._is_lost(row))

    async def findings(self) -> AsyncGenerator[Finding, None]:
        """Yield the damage in the order of its paths."""
        stack = [(parts, self._starts[parts]) for parts in sorted(self._starts, reverse=True)]
        while stack:
            parts, rows = stack.pop()
            whole = union(mask for row, mask in rows.items() if not self._is_lost(row))
            faults: dict[Fault, int] = {}
            for row, mask in rows.items():
                fault = row.fault if row.key is None else self._scan.fault(row.key)
                if fault is not None:
                    faults[fault] = faults.get(fault, 0) | mask
            for fault, mask in faults.items():
                yield Finding(parts, fault, mask, whole)
            below = await self._below(rows)
            stack += [((*parts, name), below[name]) for name in sorted(below, reverse=True)]

    async def _below(self, rows: Rows) -> dict[bytes, dict[Row, int]]:
        """Return the rows of each name that is damaged in one of these directories."""
        below: dict[bytes, dict[Row, int]] = {}
        for row in rows:
            if row.key is not None and self._scan.below(row.key).damaged:
                below |= {name: {} for name in await self._damaged_names(row.key)}
        if not below:
            return below
        for row, mask in rows.items():
            fault = self._scan.fault(row.key) if row.key is not None else None
            if row.key is None or (fault is not None and fault.is_loss):
                continue
            nodes, files = (await self._scan.tree(row.key)).nodes, self._scan.files(row.key)
            for name, found in below.items():
                node = nodes.get(name)
                if node is not None:
                    child = Row(subtree_of(node), node.content, files.get(name))
                    found[child] = found.get(child, 0) | mask
        return below

    async def _damaged_names(self, key: TreeKey) -> list[bytes]:
        files = self._scan.files(key)
        names: list[bytes] = []
        for name, node in (await self._scan.tree(key)).nodes.items():
            subtree = subtree_of(node)
            if name in files or (subtree is not None and self._scan.at(subtree).damaged):
                names.append(name)
        return names

    def _damaged(self, row: Row) -> int:
        return self._scan.at(row.key).damaged if row.key is not None else row.fault is not None

    def _is_lost(self, row: Row) -> bool:
        if row.key is not None:
            return not self._scan.is_whole(row.key)
        return row.fault is not None and row.fault.is_loss
