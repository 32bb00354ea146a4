"""What a walk will come to is decoded ahead of it: in its order, and never far without reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cesbrfs.fuse.prefetch import SubtreePrefetcher

_TREE: Mapping[bytes, Sequence[bytes]] = {
    b"top": [b"a", b"b", b"c"],
    b"a": [b"a1", b"a2"],
    b"b": [b"b1"],
}


def descend(tree: bytes) -> list[bytes]:
    """List the folders from `tree` on as `find` comes by them."""
    return [tree, *(below for child in _TREE.get(tree, ()) for below in descend(child))]


def watched() -> tuple[SubtreePrefetcher, list[bytes]]:
    """Return a walk to which everything is at hand, and the list of what it decodes."""
    decoded: list[bytes] = []

    def decode(tree: bytes) -> bool:
        decoded.append(tree)
        return True

    return SubtreePrefetcher(decode), decoded


def test_folders_are_decoded_in_the_order_of_the_walk() -> None:
    """What lies in a folder comes before what lies beside it, and each only once."""
    walk, decoded = watched()
    for folder in descend(b"top"):
        walk.opened(folder, _TREE.get(folder, ()))
        walk.decode_next()
    assert decoded == descend(b"top")[1:]


def test_who_looks_at_one_folder_costs_a_few_others() -> None:
    """Without anybody who descends, it soon ends."""
    walk, decoded = watched()
    walk.opened(b"top", [b"%d" % number for number in range(1000)])
    while walk.decode_next():
        pass
    assert decoded == [b"0", b"1", b"2", b"3"]


def test_it_runs_further_ahead_of_who_goes_on() -> None:
    """Each folder that was guessed right doubles the lead, up to a bound."""
    walk, decoded = watched()
    walk.opened(b"top", [b"%d" % number for number in range(1000)])
    leads = []
    for number in range(8):
        while walk.decode_next():
            pass
        leads.append(len(decoded) - number)
        walk.opened(b"%d" % number, ())
    assert leads == [4, 8, 16, 32, 64, 64, 64, 64]


def test_who_turns_elsewhere_is_followed_there() -> None:
    """What was expected of the walk before is forgotten."""
    walk, decoded = watched()
    walk.opened(b"top", _TREE[b"top"])
    walk.opened(b"elsewhere", [b"x"])
    while walk.decode_next():
        pass
    assert decoded == [b"x"]


def test_what_would_be_waited_for_is_left() -> None:
    """A folder that is not at hand ends it until somebody has opened that one."""
    far = {b"a"}
    walk = SubtreePrefetcher(lambda tree: tree not in far)
    walk.opened(b"top", _TREE[b"top"])
    assert not walk.decode_next()
    walk.opened(b"a", _TREE[b"a"])
    assert walk.decode_next()


def test_a_folder_that_stands_in_many_places_is_expected_once() -> None:
    """Folders that hold the same have the same tree."""
    walk, decoded = watched()
    walk.opened(b"top", [b"same", b"same"])
    while walk.decode_next():
        pass
    assert decoded == [b"same"]


def test_a_folder_of_a_million_is_not_all_remembered() -> None:
    """How many folders are expected has a bound; the first ones are those."""
    walk = SubtreePrefetcher(lambda _tree: True)
    walk.opened(b"top", [b"%d" % number for number in range(20_000)])
    assert len(walk._waiting) == 10_000
    assert walk._waiting[-1] == b"0"
