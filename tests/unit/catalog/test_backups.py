"""Assignment of snapshots to backups."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.catalog.backups import Backups, backup_ids, group, tag_value
from cesbrfs.errors import NotFoundError
from cesbrfs.repo.format.model import Snapshot


def snapshot(number: int, *tags: str, time: int | None = None) -> Snapshot:
    """Return a snapshot whose ID ends in `number` and whose time is `time`, else `number`."""
    return Snapshot(
        id=f"{number:064x}", time_ns=number if time is None else time, tree=None, tags=tags
    )


def numbers(snapshots: tuple[Snapshot, ...]) -> list[int]:
    return [int(s.id, 16) for s in snapshots]


def shape(backups: Backups) -> dict[str, list[int]]:
    return {backup.id: numbers(backup.snapshots) for backup in backups.by_name.values()}


def test_bare_tags_are_backup_ids() -> None:
    """Tags with an equals sign are not backup IDs."""
    assert backup_ids(snapshot(1, "A", "kind=volumes", "B", "dogu=x", "A", "x=y=z")) == ["A", "B"]
    assert backup_ids(snapshot(1)) == []
    assert backup_ids(snapshot(1, "")) == []


def test_tag_values() -> None:
    """The first tag of a key is used; an empty value counts as missing."""
    tagged = snapshot(1, "dogu", "dogux=1", "dogu=redmine", "dogu=jenkins", "kind=")
    assert tag_value(tagged, "dogu") == "redmine"
    assert tag_value(tagged, "kind") is None
    assert tag_value(tagged, "other") is None


def test_snapshots_are_grouped_by_their_backup_id() -> None:
    """Oldest first, within a backup and between backups, regardless of the listing order."""
    backups = group([snapshot(5, "B"), snapshot(2, "A"), snapshot(3, "B"), snapshot(1, "A")])
    assert shape(backups) == {"A": [1, 2], "B": [3, 5]}
    assert list(backups.by_name) == [b"A", b"B"]
    assert backups.loose == ()


def test_a_snapshot_of_several_backups_is_in_each() -> None:
    """One for each of its bare tags."""
    backups = group([snapshot(1, "A", "B"), snapshot(2, "B")])
    assert shape(backups) == {"A": [1], "B": [1, 2]}


def test_snapshots_without_a_backup_id_are_loose() -> None:
    """Snapshots without tags, or with other tags only, are listed separately."""
    backups = group([snapshot(2, "kind=volumes"), snapshot(1)])
    assert backups.by_name == {}
    assert numbers(backups.loose) == [1, 2]


def test_the_newest_manifest_counts() -> None:
    """It is separate from the other snapshots; an older manifest is an ordinary snapshot."""
    tags = ("A", "kind=manifest")
    backup = group([snapshot(1, "A"), snapshot(3, *tags), snapshot(2, *tags)]).by_name[b"A"]
    assert backup.manifest == snapshot(3, *tags)
    assert numbers(backup.snapshots) == [1, 2]
    assert backup.made_by_cesbr


def test_whether_a_backup_is_ours() -> None:
    """Its snapshots have kind tags, or it has a manifest."""
    assert not group([snapshot(1, "A", "daily=yes")]).by_name[b"A"].made_by_cesbr
    assert group([snapshot(1, "A"), snapshot(2, "A", "kind=registry")]).by_name[b"A"].made_by_cesbr
    assert group([snapshot(1, "A", "kind=manifest")]).by_name[b"A"].made_by_cesbr


def test_the_time_of_a_backup_is_when_it_began() -> None:
    """The time of the oldest snapshot, or of the manifest if that is the only one."""
    late = snapshot(9, "A", "kind=manifest")
    assert group([snapshot(4, "A"), snapshot(7, "A"), late]).by_name[b"A"].time_ns == 4
    assert group([late]).by_name[b"A"].time_ns == 9


def test_the_identity_changes_with_every_snapshot() -> None:
    """Adding the manifest changes it as well."""
    first, second, manifest = snapshot(1, "A"), snapshot(2, "A"), snapshot(3, "A", "kind=manifest")
    groups = ([first], [first, second], [first, manifest], [first, second, manifest])
    identities = [group(members).by_name[b"A"].identity for members in groups]
    assert len(set(identities)) == len(identities)
    assert group([second, first]).by_name[b"A"].identity == identities[1]


def test_ids_that_could_be_no_directory_names() -> None:
    """The directory name is escaped, the ID equals the tag."""
    backups = group([snapshot(1, "../etc"), snapshot(2, "latest"), snapshot(3, "%6Catest")])
    assert {name: backup.id for name, backup in backups.by_name.items()} == {
        b"%2E.%2Fetc": "../etc",
        b"%6Catest": "latest",
        b"%256Catest": "%6Catest",
    }


def test_another_pattern_of_backup_ids() -> None:
    """With a configured pattern, only the named group of a matching tag is the ID."""
    pattern = re.compile(r"backup[=-](?P<id>\d+)")
    backups = group([snapshot(1, "backup=12"), snapshot(2, "backup-12"), snapshot(3, "x")], pattern)
    assert shape(backups) == {"12": [1, 2]}
    assert numbers(backups.loose) == [3]


def test_finding_a_backup() -> None:
    """By ID, directory name or unique prefix; an exact ID has precedence."""
    backups = group(
        [snapshot(1, "2026-a"), snapshot(2, "2026-ab"), snapshot(3, "2027"), snapshot(4, "a/b")]
    )
    assert backups.find("2026-a").id == "2026-a"
    assert backups.find("2026-ab").id == "2026-ab"
    assert backups.find("2027").id == "2027"
    assert backups.find("a%2Fb").id == "a/b"
    assert backups.find("a/").id == "a/b"
    with pytest.raises(NotFoundError, match="3 backups"):
        backups.find("202")
    for unknown in ("", "2028", "b", "\udcff"):
        with pytest.raises(NotFoundError, match="no backup"):
            backups.find(unknown)


tags = st.lists(st.sampled_from(["A", "B", "/", "kind=manifest", "kind=volumes", "x=y"]))


@given(st.lists(tags, max_size=8))
def test_no_snapshot_is_ever_lost(all_tags: list[list[str]]) -> None:
    """Each snapshot is in every backup it is tagged with, or is listed separately."""
    snapshots = [snapshot(at, *found) for at, found in enumerate(all_tags)]
    backups = group(snapshots)
    for one in snapshots:
        homes = [b.id for b in backups.by_name.values() if one.id in b.identity]
        assert sorted(homes) == sorted(backup_ids(one))
        assert (one in backups.loose) == (not homes)
