"""Snapshots of a whole system: directories that are searched for data of dogus."""

from __future__ import annotations

import logging
import re

import pytest

from cesbrfs.catalog.backups import group
from cesbrfs.catalog.layout import Layout, lay_out
from cesbrfs.catalog.rules import DEFAULT_RULES, Rule
from cesbrfs.catalog.search import EXPECTED_MAX, OTHER_MAX, literal_start
from cesbrfs.catalog.status import describe, make_report
from tests.support.memory_repo import Json, MemoryRepo


def system(repo: MemoryRepo, *nodes: Json, above: int = OTHER_MAX) -> str:
    """Save the tree of ``/``: `nodes`, and a directory with `above` directories before them."""
    filler = [repo.directory(f"{number:04}") for number in range(above)]
    return repo.tree(repo.directory("aaa", *filler), *nodes)


def data_of(repo: MemoryRepo, dogu: str) -> Json:
    volumes = repo.directory("volumes", repo.directory("files", repo.file("f.txt", dogu.encode())))
    return repo.directory(dogu, volumes)


async def laid_out(
    repo: MemoryRepo, tree: str, paths: tuple[str, ...] = ("/",), rules: tuple[Rule, ...] = ()
) -> tuple[Layout, dict[str, object]]:
    """Lay out a backup of one snapshot; return its backup.json as well."""
    repo.snapshot(tree, paths, tags=["A"])
    repository = await repo.open()
    backup = group(await repository.snapshots()).find("A")
    layout = await lay_out(repository, backup, rules or DEFAULT_RULES)
    return layout, describe(backup, await make_report(repository, backup), layout)


def sources(layout: Layout) -> list[str]:
    return sorted(placement.source for placement in layout.placed.values())


async def test_an_instance_is_found_in_a_whole_system(caplog: pytest.LogCaptureFixture) -> None:
    """Its path is searched first, although many directories precede it in the alphabet."""
    repo = MemoryRepo()
    ces = repo.directory("ces", data_of(repo, "redmine"), data_of(repo, "zeta"))
    tree = system(
        repo, repo.path("/etc/ces", repo.directory("ces")), repo.path("/var/lib/ces", ces)
    )
    layout, described = await laid_out(repo, tree)
    volumes = [f"/var/lib/ces/{dogu}/volumes/files" for dogu in ("redmine", "zeta")]
    assert sources(layout) == ["/etc/ces", *volumes]
    (snapshot,) = layout.cut
    assert described["not_searched"] == [f"_snapshots/{snapshot.id[:8]}"]
    assert layout.whole == [snapshot]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_an_instance_below_another_root() -> None:
    """A system that was mounted elsewhere during the backup."""
    repo = MemoryRepo()
    host = [repo.directory("aaa", *(repo.directory(f"{n:04}") for n in range(OTHER_MAX)))]
    host.append(repo.path("/var/lib/ces", repo.directory("ces", data_of(repo, "redmine"))))
    tree = repo.tree(repo.path("/mnt/host", repo.directory("host", *host)))
    layout, _ = await laid_out(repo, tree, ("/mnt/host",))
    assert sources(layout) == ["/mnt/host/var/lib/ces/redmine/volumes/files"]


async def test_more_dogus_than_other_directories_are_searched() -> None:
    """The limit for other directories does not apply to the instance's path."""
    repo = MemoryRepo()
    dogus = [f"dogu{number:03}" for number in range(OTHER_MAX // 2 + 10)]
    ces = repo.directory("ces", *(data_of(repo, dogu) for dogu in dogus))
    layout, _ = await laid_out(repo, repo.tree(repo.path("/var/lib/ces", ces)))
    assert len(layout.placed) == len(dogus)
    assert not layout.cut


async def test_a_search_that_found_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The path of the unchanged snapshot is reported."""
    repo = MemoryRepo()
    late = repo.path("/zzz/old/ces", repo.directory("ces", data_of(repo, "redmine")))
    layout, described = await laid_out(repo, system(repo, late))
    assert not layout.placed
    path = f"_snapshots/{layout.cut[0].id[:8]}"
    assert described["not_searched"] == [path]
    (record,) = caplog.records
    assert f"/A/{path}" in record.getMessage()


async def test_a_rule_that_begins_with_a_directory() -> None:
    """This directory is searched first as well."""
    repo = MemoryRepo()
    rule = Rule(re.compile(r"/zzz/apps/(?P<dogu>[^/]+)/(?P<volume>data)"), "volumes")
    app = repo.directory("redmine", repo.directory("data", repo.file("f.txt", b"content")))
    tree = system(repo, repo.path("/zzz/apps", repo.directory("apps", app)))
    layout, _ = await laid_out(repo, tree, rules=(rule,))
    assert sources(layout) == ["/zzz/apps/redmine/data"]


async def test_one_damaged_directory_hides_no_dogu() -> None:
    """The rest of the snapshot is placed, and the snapshot is also shown unchanged."""
    repo = MemoryRepo()
    ces = repo.path("/var/lib/ces", repo.directory("ces", data_of(repo, "redmine")))
    tree = repo.tree(repo.directory("usr", subtree="ab" * 32), ces)
    layout, _ = await laid_out(repo, tree)
    assert sources(layout) == ["/var/lib/ces/redmine/volumes/files"]
    assert len(layout.whole) == 1


async def test_the_search_is_bounded_at_the_instances_path() -> None:
    """The number of directories there depends on the snapshot and is not trusted."""
    repo = MemoryRepo()
    empty = repo.directory("empty")
    ces = repo.directory("ces", *(empty | {"name": f"{n:05}"} for n in range(EXPECTED_MAX)))
    layout, _ = await laid_out(repo, repo.tree(repo.path("/var/lib/ces", ces)))
    assert len(layout.cut) == 1


@pytest.mark.parametrize(
    ("pattern", "start"),
    [
        (r"/opt/apps/(?P<dogu>[^/]+)/data", "/opt/apps/"),
        (r"/opt/apps", "/opt/"),
        (r"/opt/apps?/x", "/opt/"),
        (r"/opt/a\.b/x", "/opt/"),
        (r"/.*", "/"),
        (r"(?:.*/)?ces/x", ""),
        (r"/opt/x/y|/srv/z", ""),
        (r"relative/x", ""),
    ],
)
def test_where_a_pattern_can_match(pattern: str, start: str) -> None:
    """The literal start of a pattern is never deeper than a path that it matches."""
    assert literal_start(re.compile(pattern)) == start
