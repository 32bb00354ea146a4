"""A record that cannot be parsed fails on its own, whatever is wrong with it."""

from __future__ import annotations

import json

import pytest

from cesbrfs.catalog.manifest import parse_manifest
from cesbrfs.errors import DamagedError, WrongKeyError
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.model import parse_lock, parse_snapshot
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.format.tree import parse_entries, parse_names, parse_tree
from cesbrfs.repo.format.tree_decoder import TARGET_MAX
from cesbrfs.repo.read.unpacked import UnpackedFiles
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.util.secret import Secret
from tests.hostile.cases import NESTED, NODE_FIELDS, VALUES, nested_in
from tests.support.memory_repo import PASSWORD, TIME, MemoryRepo


async def test_nested_json_in_snapshots_and_indexes() -> None:
    """They are reported as damaged; the others are used."""
    repo = MemoryRepo()
    repo.snapshot(repo.tree(repo.file("f", b"content")))
    deep = {
        f"{kind}/{repo.put(kind, repo.seal(nested_in({'time': TIME, 'packs': []})))}"
        for kind in (FileType.SNAPSHOT, FileType.INDEX)
    }
    repository = await repo.open()
    (snapshot,) = await repository.snapshots()
    assert b"f" in (await repository.trees.root(snapshot)).nodes
    assert repository.damaged.keys() == deep


async def test_nested_json_in_a_lock() -> None:
    """The other locks are listed."""
    repo = MemoryRepo()
    repo.put(FileType.LOCK, repo.seal(nested_in({"time": TIME})))
    good = repo.put(FileType.LOCK, repo.seal(json.dumps({"time": TIME, "pid": 1}).encode()))
    repository = await repo.open()
    assert [lock.id for lock in await repository.locks()] == [good]


async def test_nested_json_in_a_tree() -> None:
    """That directory fails, with both parsers."""
    repo = MemoryRepo()
    deep = repo.save(BlobType.TREE, b'{"nodes":' + NESTED)
    repo.snapshot(repo.tree(repo.directory("d", subtree=deep), repo.file("f", b"content")))
    repository = await repo.open()
    (snapshot,) = await repository.snapshots()
    assert set((await repository.trees.root(snapshot)).nodes) == {b"d", b"f"}
    with pytest.raises(DamagedError):
        await repository.trees.get(bytes.fromhex(deep))
    with pytest.raises(DamagedError):
        await repository.listings.get(bytes.fromhex(deep))
    with pytest.raises(DamagedError):
        await repository.trees.names(bytes.fromhex(deep))


def test_nested_json_in_a_manifest() -> None:
    """It is reported as damaged."""
    with pytest.raises(DamagedError):
        parse_manifest(nested_in({"format": 1}))


@pytest.mark.parametrize("raw", [nested_in({"kdf": "scrypt"}), b"", b"\xff", b"[]", b"{}"])
async def test_a_key_file_that_cannot_be_parsed(raw: bytes) -> None:
    """The others are tried; if none fits, the error names the damaged one."""
    repo = MemoryRepo()
    for _ in range(4):  # in any order of the listing
        bad = repo.put(FileType.KEY, raw)
        raw += b" "
    assert await Repository.open(repo.storage, Secret(PASSWORD))
    with pytest.raises(DamagedError) as caught:
        await Repository.open(repo.storage, Secret(b"another password"))
    assert not isinstance(caught.value, WrongKeyError)
    assert bad


async def test_an_error_that_nothing_foresees(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception for one file or key file is reported, and the others are read."""
    repo = MemoryRepo()
    names = [repo.put(FileType.SNAPSHOT, b"%d" % number) for number in range(3)]
    files = UnpackedFiles(repo.storage)
    taken: list[str] = []

    async def take(name: str, _raw: bytes) -> None:
        if name == names[1]:
            raise ZeroDivisionError("nobody thought of this")
        taken.append(name)

    await files.load(FileType.SNAPSHOT, names, take)
    assert set(taken) == {names[0], names[2]}
    (reason,) = files.damaged.current.values()
    assert "ZeroDivisionError: nobody thought of this" in reason

    def fail(*_: object) -> Keys:
        raise ZeroDivisionError

    monkeypatch.setattr("cesbrfs.repo.keys.open_master_key", fail)
    with pytest.raises(DamagedError, match="ZeroDivisionError"):
        await repo.open()


@pytest.mark.parametrize("field", NODE_FIELDS)
@pytest.mark.parametrize("kind", ["file", "dir", "symlink", "fifo", "dev"])
def test_any_value_in_any_field_of_an_entry(field: str, kind: str) -> None:
    """The entry or the tree is rejected without another exception; other entries stay."""
    for value in VALUES:
        node = {
            "name": "odd",
            "type": kind,
            "mtime": TIME,
            "linktarget": "t",
            "links": 2,
            "inode": 1,
        }
        tree = {"nodes": [{"name": "good", "type": "file"}, node | {field: value}]}
        data = json.dumps(tree).encode()
        try:
            parsed, (rows, _) = parse_tree(data), parse_entries(data)
            parse_names(data)
        except DamagedError:
            assert value == "\ud800"  # not valid JSON
            continue
        assert b"good" in parsed.nodes
        if field in ("content", "user", "group"):  # which the fast parser does not read
            continue
        assert [row.name for row in rows.listed] == [
            name for name in parsed.nodes if name not in (b".", b"/")
        ]
        assert len(parsed.nodes) + len(parsed.refused) == 2


@pytest.mark.parametrize(
    "field", ["time", "tree", "paths", "tags", "hostname", "original", "summary"]
)
def test_any_value_in_any_field_of_a_snapshot(field: str) -> None:
    """It is parsed or reported as damaged."""
    for value in VALUES:
        data = json.dumps({"time": TIME, "tree": "ab" * 32} | {field: value}).encode()
        for parse in (parse_snapshot, parse_lock):
            try:
                parse(data, "ab" * 32)
            except DamagedError:
                continue


@pytest.mark.parametrize("target", ["a\0b", "x" * (TARGET_MAX + 1)])
def test_a_target_that_no_link_can_have(target: str) -> None:
    """Such a link can be neither shown nor restored; it is rejected and reported."""
    link = {"name": "link", "type": "symlink", "linktarget": target}
    data = json.dumps({"nodes": [link, {"name": "good", "type": "file"}]}).encode()
    tree = parse_tree(data)
    assert list(tree.nodes) == [b"good"]
    (refused,) = tree.refused
    assert "'link'" in refused
    assert [row.name for row in parse_entries(data)[0].listed] == [b"good"]
