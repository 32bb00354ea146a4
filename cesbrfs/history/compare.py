"""Whether files have the same bytes, also where other blobs contain them.

Equal lists of blobs are equal bytes.  The reverse does not hold: another chunker, as after
``restic copy`` between repositories, splits the same bytes elsewhere.  So files of one size are
compared, from the first blob on that differs to the first byte that does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cesbrfs.errors import CesbrError, NotFoundError, RepositoryUnreachableError
from cesbrfs.history.folder_index import IndexedEntry, pair_of
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbrfs.history.timeline import Level, Parts, Timeline
    from cesbrfs.repo.format.model import Node
    from cesbrfs.repo.repository import Repository

Held = tuple[bytes, IndexedEntry]
"""A row with the key of its folder."""


async def equal_bytes(
    repository: Repository, one: Sequence[bytes], other: Sequence[bytes]
) -> tuple[bool, bool]:
    """Check whether two lists of data blobs are the same bytes, and whether any had to be read.

    Raises BlobMissingError or DamagedError for a blob that is needed and not whole.
    """
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if at is None:
        return len(one) == len(other), False
    ours, theirs = [await _with_lengths(repository, blobs[at:]) for blobs in (one, other)]
    if sum(length for _, length in ours) != sum(length for _, length in theirs):
        return False, False
    was_read = False
    left = right = b""
    while left or right or ours:  # they end together
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
    """Return the blobs that are not empty, each with its length in bytes, the first one last."""
    lengths = await repository.blobs.lengths(blobs)
    return [pair for pair in zip(blobs, lengths, strict=True) if pair[1]][::-1]


async def same_content(
    line: Timeline, parts: Parts, one: Held, other: Held, *, others: Timeline | None = None
) -> bool:
    """Check whether two rows of one path have the same bytes; `other` is of the line `others`.

    What had to be read for it is remembered.  Raises what reading raises.
    """
    row, theirs = one[1], other[1]
    if row.content == theirs.content:
        return True
    if not row.may_equal(theirs):
        return False
    pair = pair_of(row, theirs)
    equal = line.memo.compared.get(pair)
    if equal is None:
        first = await node_of(line, parts, one)
        second = await node_of(others or line, parts, other)
        equal, was_read = await equal_bytes(line.memo.repository, first.blobs, second.blobs)
        if was_read:
            line.memo.remember(pair, equal=equal)
    return equal


async def node_of(line: Timeline, parts: Parts, held: Held) -> Node:
    """Return the node behind a row at a path; NotFoundError when no moment has it any more."""
    folder, row = held
    if not line.memo.is_ours(folder):
        return (await line.memo.tree(folder)).nodes[parts[-1]]
    for found, mask in await line.at(parts):
        if found.content == row.content:  # of our own folders no tree is stored
            return (await line.view.at((*line.newest(mask).parts, *parts))).node
    raise NotFoundError(f"No backup has {'/'.join(map(show, parts))!r} any more.")


async def distinct(
    line: Timeline, parts: Parts, level: Level, rows: Iterable[tuple[IndexedEntry, int]]
) -> list[tuple[IndexedEntry, int]]:
    """Merge rows of one path with the same bytes under the newest one, in the order of their ends.

    `level` has the folders that hold them.  Rows that cannot be compared stay apart.
    """
    found = _by_identity(rows)
    sizes = Counter(row.size for row, _ in found)
    merged: list[tuple[IndexedEntry, int]] = []
    for row, mask in found:
        together = mask
        if sizes[row.size] > 1:
            for at, (earlier, theirs) in enumerate(merged):
                if row.may_equal(earlier) and await _equal(
                    line, parts, (_folder(level, mask), row), (_folder(level, theirs), earlier)
                ):
                    together |= theirs
                    del merged[at]
                    break
        merged.append((row, together))
    return merged


async def _equal(line: Timeline, parts: Parts, one: Held, other: Held) -> bool:
    try:
        return await same_content(line, parts, one, other)
    except RepositoryUnreachableError:
        raise
    except CesbrError as error:
        line.troubles.note(parts, error)
        return False


def _folder(level: Level, mask: int) -> bytes:
    """Return the key of the folder that the newest moment of `mask` has."""
    newest = 1 << mask.bit_length() - 1
    return next(key for key, moments in level.items() if moments & newest)


def _by_identity(rows: Iterable[tuple[IndexedEntry, int]]) -> list[tuple[IndexedEntry, int]]:
    """Merge rows of the same blobs under the newest one, in the order of their ends."""
    by_identity: dict[tuple[str, bytes], tuple[IndexedEntry, int, int]] = {}
    for row, mask in rows:
        held = by_identity.get(row.identity)
        if held is None:
            by_identity[row.identity] = (row, mask, mask)
        else:
            best, own, together = held
            newer = mask > own  # the highest bit is the newest moment
            by_identity[row.identity] = (
                (row, mask, together | mask) if newer else (best, own, together | mask)
            )
    merged = [(row, together) for row, _, together in by_identity.values()]
    return sorted(merged, key=lambda pair: pair[1].bit_length())
