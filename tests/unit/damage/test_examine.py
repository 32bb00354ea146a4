"""Damage is listed by path over all backups; the work is linear in distinct trees."""

from __future__ import annotations

import json

import pytest

from cesbrfs.damage import examine as examine_module
from cesbrfs.damage.examine import DamageReport, Everything, examine, suspected_packs
from cesbrfs.damage.findings import numbers
from cesbrfs.repo.format.pack import BlobType, decode_unpacked
from cesbrfs.repo.storage import FileType
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import Json, MemoryRepo

_VOLUME = "/var/lib/ces/redmine/volumes/files"
_LOST = "aa" * 32
PATH = "redmine/volumes/files"


def _back_up(repo: MemoryRepo, day: int, *nodes: Json) -> None:
    """Back up a volume with these nodes as backup ``B<day>``."""
    tree = repo.tree(repo.path(_VOLUME, repo.directory("files", *nodes)))
    tags = [f"B{day}", "kind=volumes", "dogu=redmine"]
    repo.snapshot(tree, [_VOLUME], tags=tags, time=f"2026-11-{day:02}T12:00:00Z")


def _lost(repo: MemoryRepo, name: str, *parts: bytes) -> Json:
    """Return a file whose last blob is in no index."""
    node = repo.file(name, *parts, b"x")
    node["content"][-1] = _LOST
    return node


async def _examine(repo: MemoryRepo) -> DamageReport:
    return await examine(BackupTree(await repo.open()))


def _listed(report: DamageReport) -> list[tuple[str, list[str | None], list[list[str | None]]]]:
    """Return each path with its damaged backups, and the whole ones near each of these."""
    ids = [slot.id for slot in report.slots]
    return [
        (
            b"/".join(finding.parts).decode(),
            [ids[at] for at in numbers(finding.backups)],
            [[ids[near] for near in finding.whole_near(at)] for at in numbers(finding.backups)],
        )
        for finding in report.findings
    ]


async def test_whole_versions_before_and_after() -> None:
    """The nearest whole versions are named per backup; a missing path is not whole."""
    repo = MemoryRepo()
    fine = repo.file("a", b"1")
    for day, nodes in enumerate(
        [[fine], [fine], [_lost(repo, "a")], [_lost(repo, "a", b"2")], [], [fine], [fine]], 1
    ):
        _back_up(repo, day, *nodes)
    report = await _examine(repo)
    reasons = {finding.fault.reason for finding in report.findings}
    assert reasons == {
        "no index names its content",
        "1 of its 2 blobs is lost: no index names its content",
    }
    assert report.total == 2
    near = [["B2", "B6"]]
    assert _listed(report) == [(f"{PATH}/a", ["B3"], near), (f"{PATH}/a", ["B4"], near)]
    damaged = [slot.id for slot in report.slots if slot.is_damaged]
    assert damaged == ["B3", "B4"]


async def test_equal_damage_is_one_finding() -> None:
    """A directory that backups share is walked once, and its damage has all of them."""
    repo = MemoryRepo()
    directory = repo.directory("d", _lost(repo, "a"), repo.file("b", b"1"))
    for day in (1, 2, 3):
        _back_up(repo, day, directory, repo.file("other", b"%d" % day))
    report = await _examine(repo)
    assert _listed(report) == [(f"{PATH}/d/a", ["B1", "B2", "B3"], [[], [], []])]
    assert (report.total, report.listed) == (3, 3)


async def test_a_snapshot_of_another_tool() -> None:
    """Damage of what no rule places is listed below the snapshot."""
    repo = MemoryRepo()
    snapshot = repo.snapshot(repo.tree(_lost(repo, "a"), repo.file("b", b"1")), ["/data"])
    report = await _examine(repo)
    assert _listed(report) == [(f"_snapshots/{snapshot[:8]}/a", [None], [[]])]


async def test_many_paths_of_few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """2**50 paths to one damaged file are counted, and some of them listed."""
    monkeypatch.setattr(examine_module, "FINDINGS_MAX", 100)
    repo = MemoryRepo()
    node = _lost(repo, "a")
    for _ in range(50):
        inner = repo.tree(node)
        one = repo.directory("x")
        node = one | {"subtree": inner}
        inner = repo.tree(node, node | {"name": "y"})
        node = one | {"subtree": inner}
    _back_up(repo, 1, node)
    report = await _examine(repo)
    assert report.total == 2**50
    assert report.listed == 100


async def test_only_suspected_packs_are_read() -> None:
    """Bit rot is found in the packs that restic's messages name, or in all packs."""
    repo = MemoryRepo()
    repo.flush()
    blob = repo.blob(BlobType.DATA, b"broken")
    pack, entries = repo.pack(blob)
    repo.index((pack, entries))
    raw = bytearray(repo.storage.files[FileType.PACK, pack])
    raw[20] ^= 1
    repo.storage.files[FileType.PACK, pack] = bytes(raw)
    _back_up(repo, 1, repo.file("a", b"1") | {"content": [blob.id.hex()]})
    view = BackupTree(await repo.open())
    repo.storage.reads.clear()
    assert not (await examine(view)).total
    suspects = await suspected_packs(view, [f"pack {pack}: broken", "tree 12345678", "0" * 64])
    assert suspects == {bytes.fromhex(pack)}
    for some in (suspects, Everything(), await suspected_packs(view, [f"Pack {pack[:10]} bad"])):
        report = await examine(view, some)
        (finding,) = report.findings
        assert finding.fault.reason == f"pack {pack[:8]} is damaged"


def _move_pack(repo: MemoryRepo) -> None:
    """Replace the only pack and its index as a prune does that repacks it."""
    (old,) = [name for kind, name in repo.storage.files if kind is FileType.PACK]
    (index,) = [name for kind, name in repo.storage.files if kind is FileType.INDEX]
    raw = repo.storage.files.pop((FileType.PACK, old))
    new = repo.put(FileType.PACK, b"moved" + raw)
    plain = repo.storage.files.pop((FileType.INDEX, index))
    (pack,) = json.loads(decode_unpacked(repo.keys, plain))["packs"]
    for blob in pack["blobs"]:
        blob["offset"] += len(b"moved")
    repo.index((new, pack["blobs"]))


async def test_a_prune_during_the_examination() -> None:
    """Packs that another process replaces are not reported as missing."""
    repo = MemoryRepo()
    _back_up(repo, 1, repo.file("a", b"1"))
    view = BackupTree(await repo.open())
    await view.repository.index()
    _move_pack(repo)
    assert not (await examine(view)).total

    def move(kind: FileType, _name: str) -> None:
        if kind is FileType.SNAPSHOT:  # after the index was listed
            repo.storage.before_read = lambda _kind, _name: None
            _move_pack(repo)

    view = BackupTree(await repo.open())
    repo.storage.before_read = move
    assert not (await examine(view)).total
