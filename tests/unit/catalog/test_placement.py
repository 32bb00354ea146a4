"""Placements in detail: nodes, bases and ranks, and directories that cannot be read."""

from __future__ import annotations

import logging
import re

import pytest

from cesbrfs.catalog.backups import group
from cesbrfs.catalog.layout import Layout, Placement, lay_out
from cesbrfs.catalog.rules import DEFAULT_RULES, Rule
from cesbrfs.errors import BlobMissingError
from cesbrfs.repo.format.model import Node
from cesbrfs.repo.storage import FileType
from tests.support.memory_repo import Json, MemoryRepo

OWN = "/var/lib/ces/redmine"
OLD = "/srv/old/ces/redmine"
LOST = "ee" * 32


async def laid_out(repo: MemoryRepo, rules: tuple[Rule, ...] = DEFAULT_RULES) -> Layout:
    """Lay out the only backup of the repository."""
    repository = await repo.open()
    (backup,) = group(await repository.snapshots()).by_name.values()
    return await lay_out(repository, backup, rules)


def joined(path: tuple[bytes, ...]) -> str:
    return b"/".join(path).decode()


def facts(placement: Placement) -> tuple[str, str, str, str | None, int]:
    """Return path, source, name of the node, base and rank."""
    return (
        joined(placement.path),
        placement.source,
        placement.node.name.decode(),
        placement.base,
        placement.rank,
    )


def merged(repo: MemoryRepo, *paths: tuple[str, Json]) -> str:
    """Save a tree with these nodes at absolute paths, whose top directories differ."""
    return repo.tree(*(repo.path(path, node) for path, node in paths))


class TestByTags:
    """Data that cesbr backed up has no base."""

    @pytest.mark.parametrize(
        ("kind", "name", "place"),
        [
            ("metadata", "dogu.json", "redmine/dogu.json"),
            ("registry", "registry.json", "redmine/registry.json"),
            ("dump", "postgresql.dump", "redmine/dumps/postgresql.dump"),
        ],
    )
    async def test_documents(self, kind: str, name: str, place: str) -> None:
        """The tags decide, not the content."""
        repo = MemoryRepo()
        node = repo.file(name, b'{"Name": "jenkins", "/config/jenkins/a": "1"}')
        repo.snapshot(repo.tree(node), [f"/{name}"], tags=["A", f"kind={kind}", "dogu=redmine"])
        layout = await laid_out(repo)
        assert [facts(p) for p in layout.placed.values()] == [(place, f"/{name}", name, None, 0)]
        assert layout.whole == []

    async def test_directories(self) -> None:
        """Volumes and configuration."""
        repo = MemoryRepo()
        inner = repo.directory("files", repo.file("f", b"content"))
        volume = merged(repo, (f"{OWN}/volumes/files", inner))
        repo.snapshot(volume, [f"{OWN}/volumes"], tags=["A", "kind=volumes", "dogu=redmine"])
        configuration = merged(repo, ("/etc/ces", repo.directory("ces", repo.file("type"))))
        repo.snapshot(configuration, ["/etc/ces"], tags=["A", "kind=configuration"])
        layout = await laid_out(repo)
        assert sorted(facts(p) for p in layout.placed.values()) == [
            ("_instance/configuration/etc/ces", "/etc/ces", "ces", None, 0),
            ("redmine/volumes/files", f"{OWN}/volumes/files", "files", None, 0),
        ]
        assert (layout.whole, layout.cut, layout.unreadable) == ([], [], {})
        placement = layout.placed[b"redmine", b"volumes", b"files"]
        assert placement.node.subtree == bytes.fromhex(inner["subtree"])
        assert placement.owner == (b"redmine", b"volumes")
        assert not placement.unreadable

    @pytest.mark.parametrize(
        ("kind", "path", "place"),
        [
            ("volumes", f"{OWN}/volumes/files", "redmine/volumes/files"),
            ("volumes", "/data/files", "redmine/volumes/files"),
            ("configuration", "/data/files", "redmine/configuration/files"),
        ],
    )
    async def test_single_directories(self, kind: str, path: str, place: str) -> None:
        """They are named by the path, or else by the node."""
        repo = MemoryRepo()
        tree = merged(repo, (path, repo.directory("files", repo.file("f", b"1"))))
        repo.snapshot(tree, [path], tags=["A", f"kind={kind}", "dogu=redmine"])
        layout = await laid_out(repo)
        assert [facts(p) for p in layout.placed.values()] == [(place, path, "files", None, 0)]
        assert layout.whole == []

    async def test_an_entry_without_a_place(self) -> None:
        """If an entry of the directory of all volumes is refused, the snapshot is shown whole."""
        repo = MemoryRepo()
        volumes = repo.directory("volumes", repo.directory("files"), repo.file("..", b"x"))
        snapshot = repo.snapshot(
            merged(repo, (f"{OWN}/volumes", volumes)),
            [f"{OWN}/volumes"],
            tags=["A", "kind=volumes", "dogu=redmine"],
        )
        layout = await laid_out(repo)
        assert [joined(path) for path in layout.placed] == ["redmine/volumes/files"]
        assert [whole.id for whole in layout.whole] == [snapshot]

    async def test_the_root_of_a_snapshot(self) -> None:
        """A backup of ``.`` has a node with the time of the snapshot."""
        repo = MemoryRepo()
        tree = repo.tree(repo.file("f", b"content"))
        repo.snapshot(tree, [f"{OWN}/volumes/files"], tags=["A"])
        (placement,) = (await laid_out(repo)).placed.values()
        assert placement.node == Node(
            b"", "dir", 0o40755, placement.snapshot.time_ns, subtree=bytes.fromhex(tree)
        )
        assert placement.snapshot.time_ns > 0


class TestByRules:
    """The base is what precedes the dogu, or the configuration's path on an instance."""

    async def test_bases_and_ranks(self) -> None:
        """Of volumes, configuration and documents at the instance's paths and below another."""
        repo = MemoryRepo()

        def dogu(name: str) -> Json:
            volumes = repo.directory("volumes", repo.directory("X", repo.file("f", b"1")))
            documents = [
                repo.file("dogu.json", b'{"Name": "%s"}' % name.encode()),
                repo.file("registry.json", b'{"/config/%s/a": ""}' % name.encode()),
            ]
            return repo.directory(name, volumes, *documents)

        def etc() -> Json:
            return repo.directory("etc", repo.directory("ces", repo.file("type", b"1")))

        ces = repo.directory("ces", dogu("redmine"))
        other = repo.path("/X/var/lib/ces", repo.directory("ces", dogu("ldap")))
        old = repo.directory("old", repo.directory("ces", dogu("redmine"), dogu("scm")), etc())
        own = repo.path("/var/lib/ces", ces)
        repo.snapshot(repo.tree(own, repo.directory("srv", old), etc()), ["/"], tags=["A"])
        repo.snapshot(repo.tree(other), ["/X/var/lib/ces"], tags=["A"])
        layout = await laid_out(repo)
        instance, moved, elsewhere = "/var/lib/ces/", "/X/var/lib/ces/", "/srv/old/ces/"
        expected = {("_instance/configuration/etc/ces", "/etc/ces", "ces", "/", 0)}
        for name, base, rank in (
            ("redmine", instance, 0), ("ldap", moved, 1), ("scm", elsewhere, 2)
        ):  # fmt: skip
            expected |= {
                (f"{name}/{path}", f"{base}{name}/{path}", path.rpartition("/")[2], base, rank)
                for path in ("volumes/X", "dogu.json", "registry.json")
            }
        assert {facts(placement) for placement in layout.placed.values()} == expected
        base = elsewhere
        assert {facts(copy) for copy in layout.copies} == {
            ("_instance/configuration/etc/ces", "/srv/old/etc/ces", "ces", "/srv/old/", 2),
            *(
                (f"redmine/{path}", f"{base}redmine/{path}", path.rpartition("/")[2], base, 2)
                for path in ("volumes/X", "dogu.json", "registry.json")
            ),
        }

    @pytest.mark.parametrize("name", ["dogu.json", "registry.json"])
    async def test_a_document_from_stdin(self, name: str) -> None:
        """It is at the instance's own path."""
        repo = MemoryRepo()
        node = repo.file(
            name, b'{"Name": "redmine"}' if name[0] == "d" else b'{"/config/redmine/a": ""}'
        )
        repo.snapshot(repo.tree(node), [f"/{name}"], tags=["A"])
        (placement,) = (await laid_out(repo)).placed.values()
        assert facts(placement) == (f"redmine/{name}", f"/{name}", name, "/", 0)

    async def test_a_rule_without_a_dogu(self) -> None:
        """The tag has it, and the base is unknown; without a tag the next rule is tried."""
        first = Rule(re.compile(r"/data/wiki|/data/wiki/(?P<volume>[^/]+)"), "volumes")
        second = Rule(re.compile(r"/data/(?P<dogu>[^/]+)/(?P<volume>[^/]+)"), "volumes")
        for tags in (["A"], ["A", "dogu=redmine"]):
            repo = MemoryRepo()
            wiki = repo.directory("wiki", repo.directory("www", repo.file("f", b"1")))
            repo.snapshot(merged(repo, ("/data/wiki", wiki)), ["/data/wiki/www"], tags=tags)
            (placement,) = (await laid_out(repo, (first, second))).placed.values()
            if len(tags) > 1:
                expected: object = ("redmine/volumes/www", "/data/wiki/www", "www", "", 2)
            else:
                expected = ("wiki/volumes/www", "/data/wiki/www", "www", "/data/", 2)
            assert facts(placement) == expected

    @pytest.mark.parametrize(
        ("paths", "others", "whole"),
        [
            (["/", "/gone"], (), False),
            ([f"/.{OWN}/volumes/files", "/gone"], (), False),
            ([f"{OWN}/volumes/files", "/gone"], ("..",), True),
            ([f"{OWN}/volumes/files", "/gone"], ("other",), True),
        ],
    )
    async def test_what_several_paths_cover(
        self, paths: list[str], others: tuple[str, ...], whole: bool
    ) -> None:
        """A snapshot is also shown whole if it has an entry that is in none of its paths."""
        repo = MemoryRepo()
        volume = repo.directory("files", repo.file("f", b"1"))
        nodes = [repo.file(name, b"1") for name in others]
        tree = repo.tree(repo.path(f"{OWN}/volumes/files", volume), *nodes)
        repo.snapshot(tree, paths, tags=["A"])
        layout = await laid_out(repo)
        assert [joined(path) for path in layout.placed] == ["redmine/volumes/files"]
        assert bool(layout.whole) is whole

    async def test_a_volume_without_a_name(self) -> None:
        """The content of ``.`` is not placed if the rule does not name the volume."""
        repo = MemoryRepo()
        snapshot = repo.snapshot(repo.tree(repo.file("f", b"1")), ["/data"], tags=["A"])
        rule = Rule(re.compile(r"/(?P<dogu>data)"), "volumes")
        layout = await laid_out(repo, (rule,))
        assert layout.placed == {}
        assert [whole.id for whole in layout.whole] == [snapshot]

    async def test_directories_named_like_documents(self) -> None:
        """They are searched, whatever the rule says about files of that name."""
        repo = MemoryRepo()
        volumes = repo.directory("volumes", repo.directory("files", repo.file("f", b"1")))
        path = "/x/dogu.json/ces/redmine/volumes"
        repo.snapshot(merged(repo, (path, volumes)), ["/x"], tags=["A"])
        layout = await laid_out(repo)
        assert [placement.source for placement in layout.placed.values()] == [f"{path}/files"]

    @pytest.mark.parametrize("spare", [0, -1])
    async def test_the_largest_document(self, spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Exactly as large as allowed is read."""
        repo = MemoryRepo()
        content = b'{"Name": "redmine"}'
        monkeypatch.setattr("cesbrfs.catalog.layout._DOCUMENT_MAX_BYTES", len(content) + spare)
        repo.snapshot(repo.tree(repo.file("dogu.json", content)), ["/dogu.json"], tags=["A"])
        assert len((await laid_out(repo)).placed) == 1 + spare


@pytest.mark.parametrize("found", [True, False])
async def test_a_search_that_is_cut_is_logged(
    found: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a warning if no dogu was found at an instance's own path."""
    monkeypatch.setattr("cesbrfs.catalog.search.OTHER_MAX", 1)
    repo = MemoryRepo()
    volumes = repo.directory("volumes", repo.directory("files", repo.file("f", b"1")))
    path = f"{OWN if found else OLD}/volumes"
    nodes = [repo.directory(name, repo.file("f", b"1")) for name in ("a", "b", "c")]
    repo.snapshot(repo.tree(*nodes, repo.path(path, volumes)), ["/"], tags=["A"])
    with caplog.at_level(logging.INFO):
        layout = await laid_out(repo)
    assert len(layout.placed) == found
    (snapshot,) = layout.cut
    (record,) = caplog.records
    assert record.levelno == (logging.INFO if found else logging.WARNING)
    short = snapshot.id[:8]
    assert record.getMessage() == (
        f"Not all directories of snapshot {short} were searched for data of dogus, because it has"
        f" too many. See /A/_snapshots/{short} for the whole snapshot, or set rules by path."
    )
    assert layout.whole == [snapshot]


class TestUnreadable:
    """Where trees are missing, reading the placement raises an error instead of showing nothing."""

    @pytest.mark.parametrize("path", ["/", "/var/lib/ces", f"{OWN}/volumes/"])
    async def test_the_volumes_of_a_dogu(self, path: str) -> None:
        """If the directory of all volumes cannot be listed; other dogus are placed."""
        repo = MemoryRepo()
        redmine = repo.directory("redmine", repo.directory("volumes", subtree=LOST))
        ldap = repo.directory("ldap", repo.directory("volumes", repo.directory("db")))
        alone = path.startswith(OWN)
        ces = repo.directory("ces", redmine, *([] if alone else [ldap]))
        snapshot = repo.snapshot(merged(repo, ("/var/lib/ces", ces)), [path], tags=["A"])
        layout = await laid_out(repo)
        found = {joined(path): placement for path, placement in layout.placed.items()}
        assert found.keys() == {"redmine/volumes"} | (set() if alone else {"ldap/volumes/db"})
        placement = found["redmine/volumes"]
        assert placement.unreadable
        assert (placement.node.name, placement.node.type) == (b"volumes", "dir")
        assert placement.node.mtime_ns == placement.snapshot.time_ns
        assert (placement.snapshot.id, placement.source, placement.base) == (snapshot, "", None)
        (error,) = layout.unreadable.values()
        assert isinstance(error, BlobMissingError)
        assert list(layout.unreadable) == [snapshot]
        assert [whole.id for whole in layout.whole] == [snapshot]

    async def test_directories_of_unknown_content(self) -> None:
        """They have no placement, unless a rule says so; a dogu may be in the tags."""
        repo = MemoryRepo()
        tree = repo.tree(
            repo.directory("srv", subtree=LOST), repo.directory("usr", subtree="dd" * 32)
        )
        for tags in (["A"], ["A", "dogu=ldap"]):
            for kind, name in list(repo.storage.files):
                if kind is FileType.SNAPSHOT:
                    repo.forget(name)
            snapshot = repo.snapshot(tree, ["/"], tags=tags)
            layout = await laid_out(repo)
            assert layout.placed == {}
            assert isinstance(layout.unreadable[snapshot], BlobMissingError)
        rule = Rule(re.compile(r"/usr/(?P<volume>[^/]+)"), "volumes")
        other = Rule(re.compile(r"/(?P<dogu>srv)/[^/]+"), "configuration")
        layout = await laid_out(repo, (other, rule))
        assert [joined(path) for path in layout.placed] == ["ldap/volumes"]
        (placement,) = layout.placed.values()
        assert placement.unreadable

    async def test_a_copy_that_can_be_read_has_precedence(self) -> None:
        """A placement that raises an error does not replace one that can be read."""
        repo = MemoryRepo()
        volumes = repo.directory("volumes", repo.directory("files", repo.file("f", b"1")))
        good = repo.snapshot(
            merged(repo, (f"{OWN}/volumes", volumes)),
            [f"{OWN}/volumes"],
            tags=["A"],
            time="2026-01-01T00:00:00Z",
        )
        lost = repo.directory("volumes", subtree=LOST)
        bad = repo.snapshot(merged(repo, (f"{OLD}/volumes", lost)), [f"{OLD}/volumes"], tags=["A"])
        layout = await laid_out(repo)
        (placement,) = layout.placed.values()
        assert (placement.snapshot.id, placement.unreadable) == (good, False)
        assert layout.copies == []
        assert list(layout.unreadable) == [bad]
        assert [whole.id for whole in layout.whole] == [bad]

    async def test_snapshots_with_tags(self) -> None:
        """The data that the tags of each name is unreadable."""
        repo = MemoryRepo()
        for dogu in ("redmine", "ldap"):
            tags = ["A", "kind=volumes", f"dogu={dogu}"]
            repo.snapshot(LOST, [f"/var/lib/ces/{dogu}/volumes"], tags=tags)
        layout = await laid_out(repo)
        found = {joined(path): placement.unreadable for path, placement in layout.placed.items()}
        assert found == {"redmine/volumes": True, "ldap/volumes": True}
        assert len(layout.unreadable) == len(layout.whole) == 2


@pytest.mark.parametrize(
    ("path", "overlaps"),
    [
        (("a",), True), (("a", "b"), True), (("a", "b", "c"), True), (("a", "b", "c", "d"), True),
        (("a", "x"), False), (("a", "b", "x"), False), (("x",), False), (("b", "c"), False),
    ],
)  # fmt: skip
async def test_paths_that_overlap(path: tuple[str, ...], overlaps: bool) -> None:
    """The same, and any above or below."""
    repo = MemoryRepo()
    repo.snapshot(None, tags=["A"])
    (snapshot,) = await (await repo.open()).snapshots()
    node = Node(b"n", "dir", 0o40755)
    layout = Layout()
    assert layout.claim(Placement((b"a", b"b", b"c"), snapshot, node, "/first"))
    second = Placement(tuple(name.encode() for name in path), snapshot, node, "/second")
    assert layout.overlaps(second.path) is overlaps
    assert layout.claim(second) is not overlaps
    assert layout.copies == ([second] if overlaps else [])
    assert (second.path in layout.placed) is (not overlaps or len(path) == 3)
    for name, valid in ((b"", False), (b"x" * 256, False), (b"x" * 255, True)):
        third = Placement((b"third", name), snapshot, node, "")
        assert layout.claim(third) is valid
        assert third not in layout.copies
