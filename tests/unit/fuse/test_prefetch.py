"""Test the prefetch of directories for a client that walks the tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cesbrfs.fuse.prefetch import SubtreePrefetcher

_TREE: Mapping[bytes, Sequence[bytes]] = {
    b"top": [b"a", b"b", b"c"],
    b"a": [b"a1", b"a2"],
    b"b": [b"b1"],
}


def descend(tree: bytes) -> list[bytes]:
    """Return the directories below `tree` in the order in which `find` opens them."""
    return [tree, *(below for child in _TREE.get(tree, ()) for below in descend(child))]


def recording_prefetcher() -> tuple[SubtreePrefetcher, list[bytes]]:
    """Return a prefetcher that never blocks, and the list of trees it decodes."""
    decoded: list[bytes] = []

    def decode(tree: bytes) -> bool:
        decoded.append(tree)
        return True

    return SubtreePrefetcher(decode), decoded


def test_directories_are_decoded_depth_first() -> None:
    """Subdirectories are decoded before siblings, each directory once."""
    prefetcher, decoded = recording_prefetcher()
    for directory in descend(b"top"):
        prefetcher.opened(directory, _TREE.get(directory, ()))
        prefetcher.decode_next()
    assert decoded == descend(b"top")[1:]


def test_opening_one_directory_decodes_four() -> None:
    """Prefetch stops after four directories if the client opens none of them."""
    prefetcher, decoded = recording_prefetcher()
    prefetcher.opened(b"top", [b"%d" % number for number in range(1000)])
    while prefetcher.decode_next():
        pass
    assert decoded == [b"0", b"1", b"2", b"3"]


def test_the_lead_doubles_up_to_a_maximum() -> None:
    """Each correct guess doubles the lead, up to 64 directories."""
    prefetcher, decoded = recording_prefetcher()
    prefetcher.opened(b"top", [b"%d" % number for number in range(1000)])
    leads = []
    for number in range(8):
        while prefetcher.decode_next():
            pass
        leads.append(len(decoded) - number)
        prefetcher.opened(b"%d" % number, ())
    assert leads == [4, 8, 16, 32, 64, 64, 64, 64]


def test_opening_another_directory_resets_the_prefetch() -> None:
    """Directories queued for the previous prefetcher are discarded."""
    prefetcher, decoded = recording_prefetcher()
    prefetcher.opened(b"top", _TREE[b"top"])
    prefetcher.opened(b"elsewhere", [b"x"])
    while prefetcher.decode_next():
        pass
    assert decoded == [b"x"]


def test_prefetch_never_blocks() -> None:
    """Prefetch pauses at a directory that is not cached until a client opens it."""
    uncached = {b"a"}
    prefetcher = SubtreePrefetcher(lambda tree: tree not in uncached)
    prefetcher.opened(b"top", _TREE[b"top"])
    assert not prefetcher.decode_next()
    prefetcher.opened(b"a", _TREE[b"a"])
    assert prefetcher.decode_next()


def test_equal_directories_are_decoded_once() -> None:
    """Directories with equal content have the same tree ID."""
    prefetcher, decoded = recording_prefetcher()
    prefetcher.opened(b"top", [b"same", b"same"])
    while prefetcher.decode_next():
        pass
    assert decoded == [b"same"]


def test_the_queue_is_bounded() -> None:
    """The queue keeps the first 10,000 of 20,000 directories."""
    prefetcher = SubtreePrefetcher(lambda _tree: True)
    prefetcher.opened(b"top", [b"%d" % number for number in range(20_000)])
    assert len(prefetcher._waiting) == 10_000
    assert prefetcher._waiting[-1] == b"0"
