"""Compare the content of files, also if it is split into different blobs.

Equal blob lists mean equal bytes. The reverse does not hold: with different chunker parameters, as
after ``restic copy`` between repositories, the same bytes are split at other offsets. Files of the
same size are therefore compared byte by byte, from the first different blob to the first different
byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cesbrfs.errors import CesbrError, NotFoundError, RepositoryUnreachableError
from cesbrfs.util.escape import show
from cesbrfs.vfs.directory_index import IndexedEntry, pair_of

if TYPE_CHECKING:
    from cesbrfs.repo.format.model import Node
    from cesbrfs.repo.repository import Repository
    from cesbrfs.vfs.timeline import Level, Parts, Timeline

EntryInDirectory = tuple[bytes, IndexedEntry]
"""The key of a directory and one of its entries."""


async def equal_bytes(
    repository: Repository, one: Sequence[bytes], other: Sequence[bytes]
) -> tuple[bool, bool]:
    """Return whether two lists of data blobs have the same bytes, and whether any blob was read.

    Raises BlobMissingError or DamagedError for a missing or damaged blob.
    """
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if at is None:
        return len(one) == len(other), False
    ours, theirs = [await _with_lengths(repository, blobs[at:]) for blobs in (one, other)]
    if sum(length for _, length in ours) != sum(length for _, length in theirs):
        return False, False
    was_read = False
    left = right = b""
    while left or right or ours:  # both have the same total length
        if not left and not right and ours[-1][1] == theirs[-1][1]:
            if ours.pop() != theirs.pop():
                return False, was_read
            continue
        left = left or await repository.data(ours.pop()[0])
        right = right or await repository.data(theirs.pop()[0])
        was_read = True
        shared = min(len(left), len(right))
        if left[:shared] != right[:shared]:
            return False, True
        left, right = left[shared:], right[shared:]
    return True, was_read


async def _with_lengths(repository: Repository, blobs: Sequence[bytes]) -> list[tuple[bytes, int]]:
    """Return the non-empty blobs with their lengths in bytes, in reverse order."""
    lengths = await repository.blobs.lengths(blobs)
    return [pair for pair in zip(blobs, lengths, strict=True) if pair[1]][::-1]


async def same_content(
    line: Timeline,
    parts: Parts,
    one: EntryInDirectory,
    other: EntryInDirectory,
    *,
    others: Timeline | None = None,
) -> bool:
    """Return whether two entries of one path have the same content; `others` is that of `other`.

    Results that required reading are cached. Raises read errors.
    """
    row, theirs = one[1], other[1]
    if row.content == theirs.content:
        return True
    if not row.may_equal(theirs):
        return False
    pair = pair_of(row, theirs)
    equal = line.index.compared.get(pair)
    if equal is None:
        first = await node_of(line, parts, one)
        second = await node_of(others or line, parts, other)
        equal, was_read = await equal_bytes(line.index.repository, first.blobs, second.blobs)
        if was_read:
            line.index.remember(pair, equal=equal)
    return equal


async def node_of(line: Timeline, parts: Parts, held: EntryInDirectory) -> Node:
    """Return the node of an entry at a path; NotFoundError if no backup has it any more."""
    directory, row = held
    if not line.index.is_virtual(directory):
        return (await line.index.tree(directory)).nodes[parts[-1]]
    for found, mask in await line.at(parts):
        if found.content == row.content:  # virtual directories have no stored tree
            return (await line.view.at((*line.newest(mask).parts, *parts))).node
    raise NotFoundError(f"No backup contains {'/'.join(map(show, parts))!r} any more.")


async def distinct(
    line: Timeline,
    parts: Parts,
    level: Level,
    rows: Iterable[tuple[IndexedEntry, int]],
    *,
    compared_max: int | None = None,
) -> list[tuple[IndexedEntry, int]]:
    """Merge the entries of one path that have the same bytes; the newest entry represents them.

    The result is ordered by the newest backup of each. `level` has the directories that contain the
    entries. Entries that cannot be compared are not merged. If more than `compared_max` entries
    have the same size, they are not read, and only those with the same blobs are merged.
    """
    found = by_identity(rows)
    sizes = Counter(row.size for row, _ in found)
    merged: list[tuple[IndexedEntry, int]] = []
    for row, mask in found:
        together = mask
        if 1 < sizes[row.size] <= (compared_max or len(found)):
            for at, (earlier, theirs) in enumerate(merged):
                if row.may_equal(earlier) and await _equal(
                    line,
                    parts,
                    (directory_in(level, mask), row),
                    (directory_in(level, theirs), earlier),
                ):
                    together |= theirs
                    del merged[at]
                    break
        merged.append((row, together))
    return merged


async def _equal(
    line: Timeline, parts: Parts, one: EntryInDirectory, other: EntryInDirectory
) -> bool:
    try:
        return await same_content(line, parts, one, other)
    except RepositoryUnreachableError:
        raise
    except CesbrError as error:
        line.troubles.note(parts, error)
        return False


def directory_in(level: Level, mask: int) -> bytes:
    """Return the key of the directory in the newest backup of `mask`."""
    newest = 1 << mask.bit_length() - 1
    return next(key for key, moments in level.items() if moments & newest)


def by_identity(rows: Iterable[tuple[IndexedEntry, int]]) -> list[tuple[IndexedEntry, int]]:
    """Merge entries of one path that have the same blobs; order as in `distinct`."""
    by_identity: dict[tuple[str, bytes], tuple[IndexedEntry, int, int]] = {}
    for row, mask in rows:
        known = by_identity.get(row.identity)
        if known is None:
            by_identity[row.identity] = (row, mask, mask)
        else:
            best, own, together = known
            newer = mask > own  # the highest bit is the newest moment
            by_identity[row.identity] = (
                (row, mask, together | mask) if newer else (best, own, together | mask)
            )
    merged = [(row, together) for row, _, together in by_identity.values()]
    return sorted(merged, key=lambda pair: pair[1].bit_length())
