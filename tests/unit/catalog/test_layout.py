"""Test the layout of snapshots by tags and by rules."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from cesbrfs.catalog.backups import group
from cesbrfs.catalog.layout import Layout, Placement, dogu_of_metadata, lay_out, owner_of_registry
from cesbrfs.catalog.rules import DEFAULT_RULES, Rule
from cesbrfs.errors import RepositoryUnreachableError, UsageError
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.repo.storage import FileType
from tests.support.memory_repo import Json, MemoryRepo

VOLUMES = "/var/lib/ces/redmine/volumes"


async def laid_out(repo: MemoryRepo, rules: tuple[Rule, ...] = DEFAULT_RULES) -> Layout:
    """Lay out the only backup of the repository."""
    repository = await repo.open()
    (backup,) = group(await repository.snapshots()).by_name.values()
    return await lay_out(repository, backup, rules)


def shown(layout: Layout) -> dict[str, str]:
    """Return the placements by path, with the source of each."""
    return {
        b"/".join(path).decode("utf-8", "surrogateescape"): placement.source
        for path, placement in layout.placed.items()
    }


def whole(layout: Layout) -> list[str]:
    return [snapshot.id for snapshot in layout.whole]


def absolute(repo: MemoryRepo, *paths: str) -> str:
    """Save a tree in which each of these absolute paths is a directory with a file."""
    top: Json = {}
    for path in paths:
        directory = top
        for name in path.strip("/").split("/"):
            directory = directory.setdefault(name, {})

    def save(name: str, inner: Json) -> Json:
        nodes = [save(below, deeper) for below, deeper in inner.items()]
        return repo.directory(name, *(nodes or [repo.file("f.txt", name.encode())]))

    return repo.tree(*(save(name, inner) for name, inner in top.items()))


def ces_with(repo: MemoryRepo, *others: Json) -> Json:
    """Return the directory ``ces`` with one volume of redmine and `others`."""
    volumes = repo.directory("volumes", repo.directory("files", repo.file("f")))
    return repo.directory("ces", repo.directory("redmine", volumes), *others)


class TestOurTags:
    """Snapshots with tags for kind and dogu."""

    async def test_a_dogus_volumes(self) -> None:
        """The directory of all volumes is split; each volume keeps its metadata."""
        repo = MemoryRepo()
        tree = absolute(repo, f"{VOLUMES}/files", f"{VOLUMES}/plugins")
        repo.snapshot(tree, [VOLUMES], tags=["A", "kind=volumes", "dogu=redmine"])
        layout = await laid_out(repo)
        assert shown(layout) == {
            "redmine/volumes/files": f"{VOLUMES}/files",
            "redmine/volumes/plugins": f"{VOLUMES}/plugins",
        }
        assert whole(layout) == []

    async def test_single_volumes(self) -> None:
        """Each volume at its path below ``volumes``, at any depth."""
        repo = MemoryRepo()
        paths = [f"{VOLUMES}/files", f"{VOLUMES}/data/deep"]
        tags = ["A", "kind=volumes", "dogu=redmine"]
        repo.snapshot(absolute(repo, *paths), paths, tags=tags)
        assert shown(await laid_out(repo)) == {
            "redmine/volumes/files": paths[0],
            "redmine/volumes/data/deep": paths[1],
        }

    async def test_the_dogu_is_the_tags(self) -> None:
        """The tag has precedence over the path."""
        repo = MemoryRepo()
        path = f"{VOLUMES}/files"
        repo.snapshot(absolute(repo, path), [path], tags=["A", "kind=volumes", "dogu=a/b"])
        assert shown(await laid_out(repo)) == {"a%2Fb/volumes/files": path}

    @pytest.mark.parametrize("tags", [["dogu=redmine"], []], ids=["dogu", "instance"])
    async def test_metadata_and_registry(self, tags: list[str]) -> None:
        """One file each, also from stdin; without a dogu it belongs to the instance."""
        repo = MemoryRepo()
        for kind, name in (("metadata", "dogu.json"), ("registry", "registry.json")):
            tree = repo.tree(repo.file(name, b"{}"))
            repo.snapshot(tree, [f"/{name}"], tags=["A", f"kind={kind}", *tags])
        layout = await laid_out(repo)
        if tags:
            assert shown(layout) == {
                "redmine/dogu.json": "/dogu.json",
                "redmine/registry.json": "/registry.json",
            }
            assert whole(layout) == []
        else:  # a dogu.json always belongs to a dogu
            assert shown(layout) == {"_instance/registry.json": "/registry.json"}
            assert len(whole(layout)) == 1

    async def test_the_instances_configuration(self) -> None:
        """The path below ``etc``."""
        repo = MemoryRepo()
        paths = ["/root/of/instance/etc/ces", "/root/of/instance/etc/cesapp"]
        repo.snapshot(absolute(repo, *paths), paths, tags=["A", "kind=configuration"])
        assert shown(await laid_out(repo)) == {
            "_instance/configuration/etc/ces": paths[0],
            "_instance/configuration/etc/cesapp": paths[1],
        }

    async def test_a_kind_nobody_knows(self) -> None:
        """An unknown kind: the snapshot is shown unchanged."""
        repo = MemoryRepo()
        snapshot = repo.snapshot(absolute(repo, "/data"), ["/data"], tags=["A", "kind=new"])
        layout = await laid_out(repo)
        assert (shown(layout), whole(layout)) == ({}, [snapshot])


class TestPathsInTrees:
    """restic stores absolute, relative and ``.`` backups in three ways."""

    @pytest.mark.parametrize("depth", range(7))
    async def test_a_relative_path(self, depth: int) -> None:
        """The tree contains a suffix of the absolute path, of any length."""
        repo = MemoryRepo()
        path = "/var/lib/ces/redmine/volumes/files"
        end = "/".join(path.split("/")[1 + min(depth, 5) :])
        tree = absolute(repo, end) if depth < 6 else repo.tree(repo.file("f.txt", b"files"))
        repo.snapshot(tree, [path], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": path}
        assert whole(layout) == []
        (placement,) = layout.placed.values()
        # Only a backup of "." has the root, a node without a name.
        assert placement.node.name == (b"" if depth == 6 else b"files")
        repository = await repo.open()
        assert placement.node.subtree is not None
        assert list((await repository.trees.get(placement.node.subtree)).nodes) == [b"f.txt"]

    async def test_relative_paths_from_the_same_directory(self) -> None:
        """Each is found by its suffix, although the base names are equal."""
        repo = MemoryRepo()
        paths = [f"/var/lib/ces/{dogu}/volumes/data" for dogu in ("redmine", "jenkins")]
        tree = absolute(repo, "redmine/volumes/data", "jenkins/volumes/data")
        repo.snapshot(tree, paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {
            "redmine/volumes/data": paths[0],
            "jenkins/volumes/data": paths[1],
        }
        assert whole(layout) == []

    async def test_base_names_that_restic_made_different(self) -> None:
        """They are ambiguous: neither is placed, both are shown unchanged."""
        repo = MemoryRepo()
        paths = [f"/var/lib/ces/{dogu}/volumes/data" for dogu in ("redmine", "jenkins")]
        snapshot = repo.snapshot(absolute(repo, "data", "data-1"), paths, tags=["A"])
        layout = await laid_out(repo)
        assert (shown(layout), whole(layout)) == ({}, [snapshot])

    async def test_a_directory_that_holds_one_of_its_own_name(self) -> None:
        """A backup of ``.`` in ``files`` that contains ``files`` is placed as the root."""
        repo = MemoryRepo()
        path = f"{VOLUMES}/files"
        tree = repo.tree(repo.directory("files"), repo.file("other", b"x"))
        repo.snapshot(tree, [path], tags=["A"])
        layout = await laid_out(repo)
        (placement,) = layout.placed.values()
        assert placement.node.name == b""
        assert whole(layout) == []

    async def test_what_no_path_leads_to_is_not_hidden(self) -> None:
        """A tree with more content than its paths cover is also shown unchanged."""
        repo = MemoryRepo()
        path = f"{VOLUMES}/files"
        tree = absolute(repo, path, "/var/lib/other")
        snapshot = repo.snapshot(tree, [path, "/gone"], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": path}
        assert whole(layout) == [snapshot]

    async def test_not_even_an_empty_directory_is_hidden(self) -> None:
        """Empty directories next to the placed paths, or in a directory that the rules search."""
        repo = MemoryRepo()
        path = "/ces/redmine/volumes/files"
        tree = repo.tree(ces_with(repo), repo.directory("empty"))
        snapshot = repo.snapshot(tree, [path, "/gone"], tags=["A"])
        assert whole(await laid_out(repo)) == [snapshot]
        repo = MemoryRepo()
        tree = repo.tree(ces_with(repo, repo.directory("empty")))
        snapshot = repo.snapshot(tree, ["/ces"], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": path}
        assert whole(layout) == [snapshot]

    async def test_one_of_two_of_the_same_base_name_was_not_there(self) -> None:
        """The missing path is unknown: the snapshot is shown unchanged, the rest is placed."""
        repo = MemoryRepo()
        paths = [
            f"/x/ces/{place}" for place in ("cas/volumes/d", "scm/volumes/d", "ldap/volumes/db")
        ]
        snapshot = repo.snapshot(absolute(repo, "d", "db"), paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"ldap/volumes/db": paths[2]}
        assert whole(layout) == [snapshot]

    async def test_a_path_that_was_not_there(self) -> None:
        """A path that did not exist at the time of the backup is not missing."""
        repo = MemoryRepo()
        paths = [f"{VOLUMES}/files", f"{VOLUMES}/gone"]
        repo.snapshot(absolute(repo, paths[0]), paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": paths[0]}
        assert whole(layout) == []

    @pytest.mark.parametrize("paths", [[], ["/"], ["/", "/var"]])
    async def test_no_path_and_the_root(self, paths: list[str]) -> None:
        """The rules search the content of the root; without paths it is shown unchanged."""
        repo = MemoryRepo()
        tree = absolute(repo, f"{VOLUMES}/files", "/srv/other")
        snapshot = repo.snapshot(tree, paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == ({"redmine/volumes/files": f"{VOLUMES}/files"} if paths else {})
        assert whole(layout) == [snapshot]

    async def test_an_empty_snapshot(self) -> None:
        """A snapshot with no tree, or an empty one, is still shown."""
        for tree in (None, "empty"):
            repo = MemoryRepo()
            snapshot = repo.snapshot(tree and repo.tree(), ["/data"], tags=["A"])
            layout = await laid_out(repo)
            assert (shown(layout), whole(layout)) == ({}, [snapshot])


class TestRules:
    """Snapshots of other tools: absolute host paths, tags that are backup IDs."""

    async def test_dogus_and_volumes_in_one_snapshot_come_apart(self) -> None:
        """They are placed separately, whatever directory above them was backed up."""
        for path in ("/", "/var/lib/ces", "/var/lib/ces/"):
            repo = MemoryRepo()
            paths = [f"{VOLUMES}/files", f"{VOLUMES}/plugins", "/var/lib/ces/ldap/volumes/db"]
            repo.snapshot(absolute(repo, *paths), [path], tags=["A"])
            layout = await laid_out(repo)
            assert shown(layout) == {
                "redmine/volumes/files": paths[0],
                "redmine/volumes/plugins": paths[1],
                "ldap/volumes/db": paths[2],
            }
            assert whole(layout) == []

    async def test_a_snapshot_placed_in_part_stands_whole_too(self) -> None:
        """A snapshot that matches no rule is shown unchanged."""
        repo = MemoryRepo()
        tree = absolute(repo, f"{VOLUMES}/files", "/var/lib/ces/redmine/other")
        snapshot = repo.snapshot(tree, ["/var/lib/ces"], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": f"{VOLUMES}/files"}
        assert whole(layout) == [snapshot]

    async def test_volumes_that_are_no_directories(self) -> None:
        """An empty volume is placed; other empty directories need no separate snapshot."""
        repo = MemoryRepo()
        tree = repo.tree(repo.path(f"{VOLUMES}/empty", repo.directory("empty")))
        repo.snapshot(tree, [f"{VOLUMES}/empty"], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/empty": f"{VOLUMES}/empty"}
        assert whole(layout) == []

    @pytest.mark.parametrize(
        ("name", "content", "place"),
        [
            ("dogu.json", b'{"Name": "official/redmine"}', "redmine/dogu.json"),
            ("dogu.json", b'{"nAME": "jenkins"}', "jenkins/dogu.json"),
            ("dogu.json", b'{"name": "evil/../.."}', "%2E./dogu.json"),
            ("registry.json", b'{"/config/redmine/a": "1"}', "redmine/registry.json"),
            ("registry.json", b'{"/config/_global/a": "1"}', "_instance/registry.json"),
        ],
    )
    async def test_documents_say_themselves_whose_they_are(
        self, name: str, content: bytes, place: str
    ) -> None:
        """The content names the dogu, even without a parent directory, as from stdin."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file(name, content)), [f"/{name}"], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {place: f"/{name}"}

    @pytest.mark.parametrize("name", ["dogu.json", "registry.json"])
    @pytest.mark.parametrize("above", ["", "redmine"])
    async def test_documents_that_cannot_be_read(self, name: str, above: str) -> None:
        """They are not shown as another owner's, and the layout is not final."""
        repo = MemoryRepo()
        lost = repo.file(name) | {"content": ["ab" * 32], "size": 7}
        tree = repo.tree(repo.directory(above, lost) if above else lost)
        snapshot = repo.snapshot(tree, [f"/{above}" if above else f"/{name}"], tags=["A"])
        layout = await laid_out(repo)
        assert layout.unreadable.keys() == {snapshot}
        assert shown(layout) == ({f"redmine/{name}": f"/redmine/{name}"} if above else {})
        assert whole(layout) == ([] if above else [snapshot])

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"[]", b"{}", b"\xff", b'{"Name": 1}', b'{"Name": ""}', b"[" * 100_000,
            b'{"a":' * 100_000, b"1" * 10_000,
        ],
    )  # fmt: skip
    async def test_documents_that_say_nothing(self, content: bytes) -> None:
        """Without a valid owner the directory name counts; without one they stay unchanged."""
        repo = MemoryRepo()
        node = repo.file("dogu.json", content)
        snapshot = repo.snapshot(repo.tree(node), ["/dogu.json"], tags=["A"])
        layout = await laid_out(repo)
        assert (shown(layout), whole(layout)) == ({}, [snapshot])
        repo = MemoryRepo()
        tree = repo.tree(repo.path("/x/redmine/dogu.json", repo.file("dogu.json", content)))
        repo.snapshot(tree, ["/x/redmine/dogu.json"], tags=["A"])
        assert shown(await laid_out(repo)) == {"redmine/dogu.json": "/x/redmine/dogu.json"}

    async def test_a_document_that_is_larger_than_it_says(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The size is computed from the blobs, not taken from the node."""
        monkeypatch.setattr("cesbrfs.catalog.layout._DOCUMENT_MAX_BYTES", 100)
        repo = MemoryRepo()
        part = b'{"Name": "redmine", "x": "' + b"y" * 80
        node = repo.file("dogu.json", part, b'"}', size=10)
        snapshot = repo.snapshot(repo.tree(node), ["/dogu.json"], tags=["A"])
        assert whole(await laid_out(repo)) == [snapshot]

    async def test_a_directory_named_like_a_document(self) -> None:
        """It is searched like any other directory."""
        repo = MemoryRepo()
        snapshot = repo.snapshot(absolute(repo, "/x/dogu.json"), ["/x"], tags=["A"])
        layout = await laid_out(repo)
        assert (shown(layout), whole(layout)) == ({}, [snapshot])

    async def test_other_rules(self) -> None:
        """Configured rules replace the default rules."""
        repo = MemoryRepo()
        repo.snapshot(absolute(repo, "/data/wiki/www"), ["/data"], tags=["A"])
        rule = Rule(re.compile(r"/data/(?P<dogu>[^/]+)/(?P<volume>[^/]+)"), "volumes")
        assert shown(await laid_out(repo, (rule,))) == {"wiki/volumes/www": "/data/wiki/www"}

    async def test_a_rule_without_groups(self) -> None:
        """A volume without a dogu is not placed; configuration needs no group."""
        repo = MemoryRepo()
        snapshot = repo.snapshot(absolute(repo, "/data"), ["/data"], tags=["A"])
        rule = Rule(re.compile("/data"), "volumes")
        assert whole(await laid_out(repo, (rule,))) == [snapshot]
        rule = Rule(re.compile("/data"), "configuration")
        assert shown(await laid_out(repo, (rule,))) == {"_instance/configuration/data": "/data"}

    def test_a_rule_of_a_kind_nobody_knows(self) -> None:
        """An unknown kind is rejected in the constructor."""
        with pytest.raises(UsageError, match="kind"):
            Rule(re.compile("x"), "volume")

    async def test_directories_without_end(self) -> None:
        """The search is limited in depth and number of directories; the rest is shown unchanged."""
        repo = MemoryRepo()
        deep = absolute(repo, "/a/b/c/d/e/f/g/h/ces/redmine/volumes/files")
        snapshot = repo.snapshot(deep, ["/"], tags=["A"])
        layout = await laid_out(repo)
        assert (shown(layout), whole(layout)) == ({}, [snapshot])

    async def test_names_that_are_not_utf8(self) -> None:
        """Directory names of dogus and volumes keep their bytes."""
        repo = MemoryRepo()
        tree = repo.tree(
            repo.directory(
                "ces", repo.directory(r"d\xff", repo.directory("volumes", repo.directory(r"v\xfe")))
            )
        )
        repo.snapshot(tree, ["/"], tags=["A"])
        layout = await laid_out(repo)
        assert list(layout.placed) == [(b"d\xff", b"volumes", b"v\xfe")]
        assert whole(layout) == []


class TestClaims:
    """Two items with the same path."""

    async def test_the_newest_is_placed_the_others_stand_whole(self) -> None:
        """The newest is placed, whatever the order of the listing."""
        repo = MemoryRepo()
        path = f"{VOLUMES}/files"
        ids = [
            repo.snapshot(
                absolute(repo, path),
                [path, f"/gone/{day}"],
                tags=["A"],
                time=f"2026-01-0{day}T00:00:00Z",
            )
            for day in (2, 3, 1)
        ]
        layout = await laid_out(repo)
        (placement,) = layout.placed.values()
        assert placement.snapshot.id == ids[1]
        assert sorted(whole(layout)) == sorted([ids[0], ids[2]])

    async def test_one_within_the_other(self) -> None:
        """A path above or below a placed one is not placed."""
        for first, second in (("data", "data/inner"), ("data/inner", "data")):
            repo = MemoryRepo()
            ids = [
                repo.snapshot(
                    absolute(repo, f"{VOLUMES}/{volume}"),
                    [f"{VOLUMES}/{volume}"],
                    tags=["A", "kind=volumes", "dogu=redmine"],
                    time=time,
                )
                for volume, time in ((first, "2026-02-01T00:00:00Z"), (second, TIME_BEFORE))
            ]
            layout = await laid_out(repo)
            assert list(shown(layout)) == [f"redmine/volumes/{first}"]
            assert whole(layout) == [ids[1]]

    async def test_two_paths_of_one_snapshot(self) -> None:
        """Only one can be placed, so the snapshot is also shown unchanged."""
        repo = MemoryRepo()
        paths = ["/one/ces/redmine/volumes/files", "/two/ces/redmine/volumes/files"]
        snapshot = repo.snapshot(absolute(repo, *paths), paths, tags=["A"])
        layout = await laid_out(repo)
        assert list(shown(layout)) == ["redmine/volumes/files"]
        assert whole(layout) == [snapshot]

    async def test_a_name_too_long_for_a_directory(self) -> None:
        """A tag may exceed the length limit of names; the directory name is truncated."""
        repo = MemoryRepo()
        path = f"{VOLUMES}/files"
        tags = ["A", "kind=volumes", "dogu=" + "x" * 300]
        repo.snapshot(absolute(repo, path), [path], tags=tags)
        ((dogu, *_),) = (await laid_out(repo)).placed
        assert len(dogu) == 255


TIME_BEFORE = "2026-01-01T00:00:00Z"


async def test_a_snapshot_whose_tree_is_gone_is_shown_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Reading it raises the error; other snapshots of the backup are placed."""
    repo = MemoryRepo()
    path = f"{VOLUMES}/files"
    repo.snapshot(absolute(repo, path), [path], tags=["A"])
    broken = repo.snapshot("ab" * 32, ["/var/lib/ces/ldap/volumes/db"], tags=["A"])
    with caplog.at_level(logging.ERROR):
        layout = await laid_out(repo)
    assert shown(layout) == {"redmine/volumes/files": path}
    assert whole(layout) == [broken]


async def test_an_unreachable_storage_settles_nothing() -> None:
    """A temporary network outage must not lose a placement."""
    repo = MemoryRepo()
    path = f"{VOLUMES}/files"
    repo.snapshot(absolute(repo, path), [path], tags=["A"])
    (pack,) = (name for kind, name in repo.storage.files if kind is FileType.PACK)
    repo.storage.fail[FileType.PACK, pack] = RepositoryUnreachableError("away")
    with pytest.raises(RepositoryUnreachableError):
        await laid_out(repo)


@pytest.mark.parametrize(
    ("document", "dogu"),
    [
        ({"Name": "official/redmine"}, "redmine"),
        ({"NAME": "redmine"}, "redmine"),
        ({"name": "a/b/c"}, "c"),
        ({"Name": "official/"}, None),
        ({"Name": None}, None),
        ({}, None),
    ],
)
def test_the_dogu_of_a_dogu_json(document: dict[str, Any], dogu: str | None) -> None:
    """The simple name is used, with keys in any case."""
    assert dogu_of_metadata(document) == dogu


@pytest.mark.parametrize(
    ("keys", "owner"),
    [
        (["/config/redmine/a", "/dogu/redmine/current", "/dogu_v2/redmine/1"], "redmine"),
        (["config/redmine/a"], "redmine"),
        (["/config/redmineX"], "redmineX"),
        (["/config/_global/a"], "_instance"),
        (["/config/backup/a"], "_instance"),
        (["/config/redmine/a", "/config/ldap/a"], "_instance"),
        (["/blueprint/x"], "_instance"),
        (["/config/redmine/a", "other"], None),
        (["/config"], None),
        ([], None),
    ],
)
def test_the_owner_of_a_registry_json(keys: list[str], owner: str | None) -> None:
    """A dogu, the instance, or None for other content."""
    assert owner_of_registry(json.loads(json.dumps(dict.fromkeys(keys, "v")))) == owner


class TestCopies:
    """Of several copies of a dogu's data, the one at the instance's own path is placed."""

    OWN = "/var/lib/ces/redmine/volumes/files"
    OLD = "/srv/old/ces/redmine/volumes/files"

    @pytest.mark.parametrize("other", [OLD, "/a/ces/redmine/volumes/files", "/a" + OWN])
    @pytest.mark.parametrize("order", [1, -1])
    async def test_in_one_snapshot(self, other: str, order: int) -> None:
        """In any order of paths, and with any names."""
        repo = MemoryRepo()
        paths = [self.OWN, other][::order]
        snapshot = repo.snapshot(absolute(repo, *paths), paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": self.OWN}
        assert [copy.source for copy in layout.copies] == [other]
        assert whole(layout) == [snapshot]

    @pytest.mark.parametrize("paths", [["/"], ["/home/me/root"]], ids=["root", "relative"])
    async def test_found_by_the_search(self, paths: list[str]) -> None:
        """Of the root, or of a directory that contains an instance."""
        repo = MemoryRepo()
        below = "" if paths == ["/"] else paths[0]
        other = "/a/ces/redmine/volumes/files"
        repo.snapshot(absolute(repo, self.OLD, self.OWN, other), paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": below + self.OWN}
        copies = sorted(copy.source for copy in layout.copies)
        assert copies == [below + other, below + self.OLD]

    async def test_what_only_the_copy_has_is_not_mixed_in(self) -> None:
        """A volume or a dogu that exists only in the copy is not placed."""
        repo = MemoryRepo()
        gone = "/srv/old/ces/redmine/volumes/plugins"
        other = "/srv/old/ces/scm/volumes/data"
        repo.snapshot(absolute(repo, self.OWN, gone, other), ["/"], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": self.OWN, "scm/volumes/data": other}
        assert [copy.source for copy in layout.copies] == [gone]

    async def test_a_newer_snapshot_of_the_copy(self) -> None:
        """A newer copy does not replace the data of the instance."""
        repo = MemoryRepo()
        repo.snapshot(absolute(repo, self.OWN), [self.OWN], tags=["A"], time=TIME_BEFORE)
        newer = repo.snapshot(absolute(repo, self.OLD), [self.OLD], tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": self.OWN}
        assert whole(layout) == [newer]

    async def test_configuration(self) -> None:
        """``/etc/ces`` has precedence over other ``etc/ces``, which are not merged."""
        repo = MemoryRepo()
        paths = ["/srv/old/etc/ces", "/srv/old/etc/cesapp", "/etc/ces"]
        repo.snapshot(absolute(repo, *paths), paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"_instance/configuration/etc/ces": "/etc/ces"}
        assert [copy.source for copy in layout.copies] == paths[:2]

    async def test_no_copy_at_the_instances_path(self) -> None:
        """The one with the shorter path is placed; the other is reported."""
        repo = MemoryRepo()
        paths = [self.OLD, "/data/ces/redmine/volumes/files"]
        repo.snapshot(absolute(repo, *paths), paths, tags=["A"])
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": paths[1]}
        assert [copy.source for copy in layout.copies] == [self.OLD]

    async def test_an_original_has_no_place(self) -> None:
        """Data removed by a rewrite is not shown from the original snapshot."""
        repo = MemoryRepo()
        secret = f"{VOLUMES}/secret"
        original = repo.snapshot(absolute(repo, self.OWN, secret), [VOLUMES], tags=["A"])
        repo.snapshot(absolute(repo, self.OWN), [VOLUMES], tags=["A", "rewrite"], original=original)
        layout = await laid_out(repo)
        assert shown(layout) == {"redmine/volumes/files": self.OWN}
        assert whole(layout) == [original]

    async def test_many_volumes_are_placed_in_linear_time(self) -> None:
        """A path is placed without a comparison with all others."""
        layout = Layout()
        node = Node(name=b"v", type="dir", mode=0o40755)
        snapshot = Snapshot(id="ab" * 32, time_ns=0, tree=None)
        for number in range(100_000):
            path = (b"redmine", b"volumes", b"%d" % number)
            assert layout.claim(Placement(path, snapshot, node, ""))
        assert not layout.claim(Placement((b"redmine",), snapshot, node, ""))
        assert not layout.claim(Placement((b"redmine", b"volumes", b"7", b"x"), snapshot, node, ""))
