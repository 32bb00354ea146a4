"""Several hosts, several runs and rewritten snapshots with the same tag."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.catalog.backups import Backups, group
from cesbrfs.repo.format.model import Snapshot

ETC, DATA = "/etc/ces", "/var/lib/ces"


def snapshot(
    number: int,
    *paths: str,
    time: int | None = None,
    host: str = "a",
    tags: tuple[str, ...] = ("nightly",),
    original: int | None = None,
) -> Snapshot:
    """Return a snapshot whose ID ends in `number`, of the hour `time`, else of hour `number`."""
    return Snapshot(
        id=f"{number:064x}",
        time_ns=(number if time is None else time) * 3_600_000_000_000,
        tree=None,
        paths=paths,
        hostname=host,
        tags=tags,
        original=None if original is None else f"{original:064x}",
    )


def shape(backups: Backups) -> dict[str, tuple[list[int], list[int]]]:
    """Return the numbers of each backup's snapshots, and those of superseded ones."""
    return {
        backup.id: (
            [int(s.id, 16) for s in backup.snapshots],
            [int(s.id, 16) for s in backup.superseded],
        )
        for backup in backups.by_name.values()
    }


def test_one_run_is_a_backup_under_the_whole_tag() -> None:
    """Snapshots of several paths, made one after the other."""
    assert shape(group([snapshot(1, ETC), snapshot(2, DATA)])) == {"nightly": ([1, 2], [])}


def test_each_night_is_a_backup() -> None:
    """Each has its own time and ID; the tag without a suffix is not a backup ID."""
    nights = [snapshot(at, path) for at, path in ((1, ETC), (2, DATA), (25, ETC), (26, DATA))]
    assert shape(group(nights)) == {
        "nightly@19700101T010000Z@a": ([1, 2], []),
        "nightly@19700102T010000Z@a": ([25, 26], []),
    }


def test_each_host_is_a_backup() -> None:
    """Also if their runs overlap; an empty host name counts as a host."""
    mixed = [snapshot(1, ETC), snapshot(2, ETC, host="b"), snapshot(3, DATA, host="")]
    mixed += [snapshot(4, DATA), snapshot(5, DATA, host="b")]
    assert shape(group(mixed)) == {
        "nightly@19700101T010000Z@a": ([1, 4], []),
        "nightly@19700101T020000Z@b": ([2, 5], []),
        "nightly@19700101T030000Z": ([3], []),
    }


def test_documents_of_several_dogus_belong_to_one_run() -> None:
    """All dogu.json files have the same path; each is in the backup of its run."""
    times = [1, 2, 3, 4, 25, 26, 27, 28]
    paths = ["/dogu.json", f"{DATA}/redmine", "/dogu.json", f"{DATA}/scm"] * 2
    found = shape(group([snapshot(at, path) for at, path in zip(times, paths, strict=True)]))
    assert [members for members, _ in found.values()] == [times[:4], times[4:]]
    assert list(shape(group([snapshot(1, "/dogu.json"), snapshot(2, "/dogu.json")]))) == ["nightly"]


def test_the_same_document_of_the_same_dogu_is_another_run() -> None:
    """Tags of other tools may name the dogu."""
    tags = ("nightly", "dogu=redmine")
    again = [snapshot(at, "/dogu.json", tags=tags) for at in (1, 25)]
    assert len(shape(group(again))) == 2


def test_runs_of_the_same_second_have_different_ids() -> None:
    """They also differ from the ID of a backup whose tag looks the same."""
    runs = [
        Snapshot(id=f"{at:064x}", time_ns=at, tree=None, paths=(DATA,), tags=("n",))
        for at in (1, 2)
    ]
    literal = snapshot(9, DATA, tags=("n@19700101T000000Z",))
    backups = group([*runs, literal])
    assert len(backups.by_name) == 3
    assert backups.find("n@19700101T000000Z").snapshots == (literal,)


def test_a_successor_takes_the_place_of_its_original() -> None:
    """``restic rewrite`` without ``--forget``, also repeated; the time is kept."""
    first = [snapshot(1, ETC), snapshot(2, DATA)]
    second = snapshot(9, DATA, time=2, original=2, tags=("nightly", "rewrite"))
    third = snapshot(5, DATA, time=2, original=9, tags=("nightly", "rewrite"))
    assert shape(group([*first, second])) == {"nightly": ([1, 9], [2])}
    assert shape(group([*first, second, third])) == {"nightly": ([1, 5], [2, 9])}
    assert shape(group([first[0], third])) == {"nightly": ([1, 5], [])}


def test_of_two_successors_of_one_original_one_counts() -> None:
    """They have the same paths, but are not two runs."""
    made = [snapshot(at, DATA, time=1, original=1) for at in (7, 8)]
    assert shape(group(made)) == {"nightly": ([8], [7])}
    assert shape(group([snapshot(1, DATA), *made])) == {"nightly": ([8], [1, 7])}


def test_a_successor_with_another_host_takes_its_original_along() -> None:
    """As created by ``rewrite --new-host``."""
    backups = group([snapshot(1, DATA), snapshot(2, DATA, time=1, host="b", original=1)])
    assert shape(backups) == {"nightly": ([2], [1])}
    assert backups.find("nightly").host == "b"


def test_originals_of_each_other_both_count() -> None:
    """`restic` never writes such a cycle."""
    assert shape(group([snapshot(1, ETC, original=2), snapshot(2, DATA, original=1)])) == {
        "nightly": ([1, 2], [])
    }


def test_tags_that_restic_sets_are_no_backup_ids() -> None:
    """A snapshot with only such tags belongs to no backup."""
    made = snapshot(1, DATA, tags=("repaired", "rewrite"))
    backups = group([made])
    assert (backups.by_name, backups.loose) == ({}, (made,))


@given(
    st.lists(
        st.builds(
            snapshot,
            st.integers(1, 60),
            st.sampled_from([ETC, DATA, "/dogu.json"]),
            time=st.integers(0, 5),
            host=st.sampled_from(["a", "b"]),
            tags=st.sampled_from(
                [("nightly",), ("nightly", "other"), ("nightly@19700101T000000Z",)]
            ),
            original=st.none() | st.integers(1, 60),
        ),
        max_size=12,
        unique_by=lambda one: one.id,
    )
)
def test_no_snapshot_is_lost_and_no_point_comes_twice(snapshots: list[Snapshot]) -> None:
    """One backup per tag; a backup has one host, and each path once."""
    backups = group(snapshots)
    homes = [s.id for backup in backups.by_name.values() for s in backup.members]
    assert sorted(homes) == sorted(s.id for s in snapshots for _ in s.tags)
    for backup in backups.by_name.values():
        assert backup.snapshots
        assert {s.hostname for s in backup.snapshots} == {backup.host}
        points = [(s.paths, s.time_ns) for s in backup.snapshots if s.paths != ("/dogu.json",)]
        times = dict(points)
        assert all(times[paths] == time for paths, time in points)
        assert backups.find(backup.id) is backup
