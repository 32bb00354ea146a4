"""What the undamaged repository contains, and which of its files each path needs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from cesbrfs.catalog import directory_names
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.model import Node, Snapshot, Tree
from cesbrfs.repo.format.pack import decode_unpacked
from cesbrfs.repo.repository import Repository
from cesbrfs.vfs.tree import BackupTree
from tests.damage.reading import Reading, Record, read_everything, record_of
from tests.damage.sample import Sample
from tests.support import compare

Blob = tuple[str, bytes]
"""Type ("data" or "tree") and ID of a blob."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be intact to read a path: a snapshot, trees to list it, and blobs of content."""

    snapshot: str
    trees: frozenset[Blob]
    content: frozenset[Blob] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index file has a blob: `length` bytes at `offset` of a pack."""

    index: str
    pack: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Truth:
    """The undamaged reading, and what each of its stored paths needs.

    `places` are all places of each blob, `snapshots` the snapshots of each backup, and `keys` the
    paths of the key files.
    """

    reading: Reading
    needs: dict[bytes, Needs]
    places: dict[Blob, list[Place]]
    snapshots: dict[bytes, frozenset[str]]
    keys: frozenset[str]
    records: dict[str, dict[bytes, Record]]
    """Records of all snapshots by path in the snapshot."""
    stored: dict[str, dict[bytes, Needs]]
    """What the paths of each snapshot need."""


def learn(sample: Sample) -> Truth:
    """Read the undamaged repository; raises AssertionError if it does not equal restic's."""
    reading = read_everything(sample.access, remote=False, cache=None)
    problems = [reading.failed, reading.errors, reading.damaged, reading.faults]
    assert not any(problems), problems
    truth = trio.run(_learn, sample, reading)
    stored = {path for path, needs in truth.needs.items() if needs.snapshot}
    assert stored <= reading.records.keys()
    for path, record in reading.records.items():
        assert path in stored or stat.S_ISDIR(record.mode), path
    return truth


async def _learn(sample: Sample, reading: Reading) -> Truth:
    repository = await sample.repo.open()
    view = BackupTree(repository)
    backups = await view.backups()
    records: dict[str, dict[bytes, Record]] = {}
    stored: dict[str, dict[bytes, Needs]] = {}
    for snapshot in await repository.snapshots():
        records[snapshot.id], stored[snapshot.id] = {}, {}
        async for path, record, needs in _walk(repository, snapshot):
            records[snapshot.id][path] = record
            stored[snapshot.id][path] = needs
    needed: dict[bytes, Needs] = {}
    for backup in backups.by_name.values():
        layout = await view.layout(backup)
        for parts, placement in layout.placed.items():
            source = os.fsencode(placement.source).strip(b"/")
            for path, needs in _below(stored[placement.snapshot.id], source):
                needed[os.path.join(backup.name, *parts, path).rstrip(b"/")] = needs
        for snapshot in layout.whole:
            above = os.path.join(backup.name, directory_names.SNAPSHOTS)
            needed |= _whole(above, snapshot, stored)
    for snapshot in backups.loose:
        needed |= _whole(directory_names.SNAPSHOTS, snapshot, stored)
    found = backups.by_name.values()
    return Truth(
        reading=reading,
        needs=needed,
        places=places(sample.directory, repository.keys),
        snapshots={backup.name: backup.identity for backup in found},
        keys=frozenset(f"keys/{name}" for name in os.listdir(sample.directory / "keys")),
        records=records,
        stored=stored,
    )


def _whole(
    above: bytes, snapshot: Snapshot, stored: dict[str, dict[bytes, Needs]]
) -> Iterator[tuple[bytes, Needs]]:
    """Yield what the paths of a snapshot need that is shown unchanged below `above`."""
    top = os.path.join(above, snapshot.id[:8].encode())
    yield top, Needs(snapshot.id, frozenset())
    for path, needs in stored[snapshot.id].items():
        yield os.path.join(top, path), needs


def _below(paths: dict[bytes, Needs], source: bytes) -> Iterator[tuple[bytes, Needs]]:
    for path, needs in paths.items():
        if path == source or path.startswith(source + b"/"):
            yield path[len(source) + 1 :], needs


async def _walk(
    repository: Repository, snapshot: Snapshot
) -> AsyncIterator[tuple[bytes, Record, Needs]]:
    """Yield the path of each entry of a snapshot, its record and what it needs."""
    assert snapshot.tree is not None
    root = frozenset([("tree", snapshot.tree)])
    pending: list[tuple[bytes, Tree, frozenset[Blob]]]
    pending = [(b"", await repository.trees.root(snapshot), root)]
    while pending:
        above, tree, trees = pending.pop()
        for name, node in tree.nodes.items():
            path = os.path.join(above, name)
            blobs = frozenset(("data", blob) for blob in node.blobs)
            content = await _digest(repository, node)
            yield path, record_of(node, content), Needs(snapshot.id, trees, blobs)
            if node.subtree is not None:
                inner = trees | {("tree", node.subtree)}
                pending.append((path, await repository.trees.get(node.subtree), inner))


async def _digest(repository: Repository, node: Node) -> str:
    if node.type != "file":
        return ""
    content = await repository.open_file(node)
    return hashlib.sha256(await content.read(0, content.size)).hexdigest()


def places(directory: Path, keys: Keys) -> dict[Blob, list[Place]]:
    """Return the places of all blobs from the index files of a repository."""
    found: dict[Blob, list[Place]] = {}
    for file in sorted((directory / "index").iterdir()):
        index = json.loads(decode_unpacked(keys, file.read_bytes()))
        for pack in index["packs"]:
            name = pack["id"]
            path = f"data/{name[:2]}/{name}"
            for blob in pack["blobs"]:
                place = Place(f"index/{file.name}", path, blob["offset"], blob["length"])
                key = (blob["type"], bytes.fromhex(blob["id"]))
                found.setdefault(key, []).append(place)
    return found


def compare_with_restic(sample: Sample, truth: Truth, directory: Path) -> list[str]:
    """Restore all snapshots with restic; return what differs from the truth."""
    lines: list[str] = []
    for snapshot, ours in truth.records.items():
        target = directory / snapshot[:8]
        sample.repo.run("restore", "--target", target, snapshot)
        theirs = compare.records(str(target))
        del theirs[b""]
        lines += [f"{snapshot[:8]}: only one has {path!r}" for path in ours.keys() ^ theirs.keys()]
        for path in ours.keys() & theirs.keys():
            twins = max(1, len(theirs[path].twins))
            other = Record(
                theirs[path].mode, theirs[path].uid, theirs[path].gid, theirs[path].mtime_ns,
                theirs[path].size, theirs[path].target, theirs[path].xattrs, twins,
                theirs[path].content,
            )  # fmt: skip
            mine = ours[path]
            if stat.S_ISDIR(mine.mode):
                mine = dataclasses.replace(mine, links=1)
            if mine != other:
                lines.append(f"{snapshot[:8]}: {path!r}: {mine} != {other}")
    return lines
