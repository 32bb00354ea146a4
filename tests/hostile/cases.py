"""Repositories that somebody who has the key could write: what they contain, what must happen.

Each case has two backups, ``one`` and ``two``, of the volume ``files`` of a dogu. Whatever the case
contains, the file ``good`` next to it can be read, unless `Case.readable` is false.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import zstandard

from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.storage import FileType
from tests.support.memory_repo import TIME, Blob, Json, MemoryRepo

KEY: Final = b"hostile"
VOLUME: Final = "/var/lib/ces/dogu/volumes/files"
GOOD: Final = b"this file is intact\n"
NESTED: Final = b"[" * 100_000
"""JSON that no recursive decoder can read."""
_BOMB_BYTES: Final = 1 << 30
_CHUNK: Final = 1 << 24
EVIL: Final = "\x1b]0;owned\x07\x1b[2J\x9b1m\r\nFORGED \u202eright\u2028\x7f"
"""A title, a cleared screen, a C1 control, a forged line, text from right to left."""
VALUES: Final[Sequence[Any]] = [
    None, True, -1, 0, 1 << 31, 1 << 63, 1 << 64, 10**400, 1.5, 1e300, "", "a", "\0", "\ud800",
    "\\x", "\\U00110000", "..", "ab" * 32, "é" * 200, "x" * 5000, TIME, "9999-99-99T99:99:99Z",
    [], [[]], {}, {"a": None}, [None], ["ab" * 32], ["zz" * 32], [{"name": "user.a\0b"}],
]  # fmt: skip
"""Values of every type, for fields of any type."""
NODE_FIELDS: Final = (
    "name", "type", "mode", "mtime", "atime", "ctime", "uid", "gid", "user", "group", "inode",
    "device_id", "size", "links", "linktarget", "linktarget_raw", "extended_attributes", "device",
    "content", "subtree",
)  # fmt: skip
_SNAPSHOT_FIELDS: Final = ("time", "tree", "paths", "tags", "hostname", "original", "summary")
_KEY_FIELDS: Final = ("kdf", "N", "r", "p", "salt", "data", "created")
_TIMES: Final = (
    "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59.999999999-23:59", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A hostile repository. `fill` writes its two backups."""

    name: str
    outcome: str
    """What a reader must do."""
    fill: Callable[[MemoryRepo], None]
    endless: bool = False
    """Whether listing all paths never ends; it must need constant memory, and stop at ^C."""
    readable: bool = True
    """Whether the file ``good`` can be read in both backups."""
    slow: bool = False
    """Whether the default tests read it with some commands only."""
    mebibytes_max: int = 700
    """Peak of memory, which the limit of 512 MiB for a tree determines."""


def build(case: Case, version: int = 2) -> MemoryRepo:
    """Return the repository of a case."""
    repo = MemoryRepo(version, password=KEY)
    case.fill(repo)
    repo.flush()
    return repo


def nested_in(fields: Json) -> bytes:
    """Return a JSON object with these fields and a field with 100,000 nested arrays."""
    return json.dumps(fields)[:-1].encode() + b',"deep":' + NESTED


def _backups(repo: MemoryRepo, *nodes: Json, second: Sequence[Json] | None = None) -> None:
    """Write both backups; `nodes` are in the volume, in the second one `second`."""
    for day, found in enumerate((nodes, nodes if second is None else second), 1):
        files = repo.directory(
            "files", *found, repo.file("good", GOOD), repo.file(f"day {day}", b"%d" % day)
        )
        tree = repo.tree(repo.path(VOLUME, files))
        tags = ["one" if day == 1 else "two", "kind=volumes", "dogu=dogu"]
        repo.snapshot(tree, [VOLUME], tags=tags, time=f"2026-11-{day:02}T21:30:00Z")


def _nodes(make: Callable[[MemoryRepo], Sequence[Json]]) -> Callable[[MemoryRepo], None]:
    return lambda repo: _backups(repo, *make(repo))


def _named(*names: str) -> Callable[[MemoryRepo], None]:
    return _nodes(lambda repo: [repo.file(name, b"content of it") for name in names])


def _directories_named(*names: str) -> Callable[[MemoryRepo], None]:
    return _nodes(lambda repo: [repo.directory(name, repo.file("f", b"x")) for name in names])


def _forged(repo: MemoryRepo, kind: BlobType, plain: bytes, **lies: Any) -> str:
    """Write a blob in its own pack, with `lies` in its index entry; return the ID in the index."""
    blob = repo.blob(kind, plain)
    name, entries = repo.pack(blob)
    entries[0] |= lies
    repo.index((name, entries))
    found: str = entries[0]["id"]
    return found


def _cycle(repo: MemoryRepo) -> None:
    cyclic = "5a" * 32
    content = json.dumps({"nodes": [repo.directory("again") | {"subtree": cyclic}]}).encode()
    _forged(repo, BlobType.TREE, content, id=cyclic)
    _backups(repo, repo.directory("cycle") | {"subtree": cyclic})


def _doubling(repo: MemoryRepo, leaf: bytes, name: str) -> Json:
    """Return a directory whose 50 distinct directories form 2**50 paths."""
    node = repo.directory("a", repo.file("leaf", leaf))
    for _ in range(49):
        node = repo.directory("a", node, node | {"name": "b"})
    return node | {"name": name}


def _doubling_alike(repo: MemoryRepo) -> None:
    _backups(
        repo,
        _doubling(repo, b"one", "tree"),
        second=[_doubling(repo, b"one", "tree"), repo.file("more", b"x")],
    )


def _doubling_differing(repo: MemoryRepo) -> None:
    first, second = (_doubling(repo, text, "tree") for text in (b"one", b"two"))
    _backups(repo, first, second=[second])


def _doubling_touched(repo: MemoryRepo) -> None:
    """Write trees that differ in a time only, which a comparison of content does not report."""
    nodes = []
    for time in ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"):
        node = repo.directory("a", repo.file("leaf", b"same", mtime=time))
        for _ in range(49):
            node = repo.directory("a", node, node | {"name": "b"})
        nodes.append(node | {"name": "tree"})
    _backups(repo, nodes[0], second=[nodes[1]])


def _deep(levels: int) -> Callable[[MemoryRepo], None]:
    def make(repo: MemoryRepo) -> Sequence[Json]:
        node = repo.file("leaf", b"at the bottom")
        for _ in range(levels):
            node = repo.directory("d", node)
        return [node]

    return _nodes(make)


def _many(count: int) -> Callable[[MemoryRepo], None]:
    return _nodes(
        lambda repo: [
            repo.directory("many", *(repo.file(f"{number:07}") for number in range(count)))
        ]
    )


def _lying_sizes(repo: MemoryRepo) -> Sequence[Json]:
    return [
        repo.file("too large", b"four") | {"size": 1 << 40},
        repo.file("too small", b"more than one byte") | {"size": 1},
        repo.file("negative", b"four") | {"size": -1},
        repo.file("beyond 64 bits", b"four") | {"size": 1 << 70},
        repo.file("without content") | {"size": 1 << 40, "content": []},
    ]


def _lying_lengths(repo: MemoryRepo) -> None:
    nodes = []
    for number, lies in enumerate([
        {"uncompressed_length": 1}, {"uncompressed_length": 1 << 31}, {"uncompressed_length": -1},
        {"length": 1}, {"length": 1 << 31}, {"offset": 1 << 40}, {"offset": -1},
    ]):  # fmt: skip
        text = b"number %d of the lies" % number
        lost = _forged(repo, BlobType.DATA, text, **lies)
        node = repo.file(f"lie {number}") | {"content": [lost], "size": len(text)}
        tree = json.dumps({"nodes": [repo.file("f", text)]}).encode()
        nodes += [node, repo.directory(f"tree {number}") | {
            "subtree": _forged(repo, BlobType.TREE, tree, **lies)
        }]  # fmt: skip
    _backups(repo, *nodes)


def _expanding(before: bytes = b"") -> bytes:
    """Return a zstd frame of a GiB, with `before` at its beginning."""
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=False).compressobj()
    parts = [compressor.compress(before)]
    parts += [compressor.compress(bytes(_CHUNK)) for _ in range(_BOMB_BYTES // _CHUNK)]
    return b"".join([*parts, compressor.flush()])


def _bombs(repo: MemoryRepo) -> None:
    frame = _expanding()
    ids = {}
    for kind in (BlobType.DATA, BlobType.TREE):
        for length in (10, _BOMB_BYTES):
            claimed = hashlib.sha256(b"%d %d" % (kind, length)).digest()
            blob = Blob(kind, claimed, repo.seal(frame), length, compressed=True)
            repo.index(repo.pack(blob))
            ids[kind, length] = claimed.hex()
    _backups(
        repo,
        *(
            repo.file(f"data {length}") | {"content": [ids[BlobType.DATA, length]], "size": length}
            for length in (10, _BOMB_BYTES)
        ),
        *(
            repo.directory(f"tree {length}") | {"subtree": ids[BlobType.TREE, length]}
            for length in (10, _BOMB_BYTES)
        ),
    )
    start = b"\x02" + _expanding(b'{"packs":[],"time":"')
    for file in (FileType.SNAPSHOT, FileType.INDEX, FileType.LOCK):
        repo.put(file, repo.seal(start))


def _absurd_keys(repo: MemoryRepo) -> None:
    absurd: Sequence[Json] = [
        {"N": 1 << 40}, {"N": 1 << 62, "r": 1 << 30}, {"N": 3}, {"N": 0}, {"N": -2}, {"r": 0},
        {"N": 1 << 20, "r": 1 << 12, "p": 1 << 12}, {"p": 1 << 30}, {"N": 1 << 70},
        {"r": 1 << 70}, {"kdf": "argon2"}, {"salt": ""}, {"data": ""}, {"data": "!"},
    ]  # fmt: skip
    for count, fields in enumerate(absurd):
        repo.add_key(b"other %d" % count, **fields)
    _backups(repo)


def _nested(repo: MemoryRepo) -> None:
    tree = _forged(repo, BlobType.TREE, b'{"nodes":' + NESTED)
    _backups(repo, repo.directory("nested") | {"subtree": tree})
    for file in (FileType.SNAPSHOT, FileType.INDEX, FileType.LOCK):
        repo.put(file, repo.seal(nested_in({"time": TIME, "packs": []})))
    repo.put(FileType.KEY, nested_in({"kdf": "scrypt"}))
    for name, inner in (("manifest.json", {"format": 1}), ("dogu.json", {"Name": "x"})):
        tree = repo.tree(repo.file(name, nested_in(inner)))
        repo.snapshot(tree, [f"/{name}"], tags=["three", f"kind={name.partition('.')[0]}"])


def _wrong_types(repo: MemoryRepo) -> None:
    nodes: list[Json] = []
    for field in NODE_FIELDS:
        for number, value in enumerate(VALUES):
            if value == "\ud800":
                continue  # invalid JSON, and the whole tree with it
            kind = ("file", "dir", "symlink", "fifo", "dev")[number % 5]
            name = f"{field} {number}"
            nodes.append({"name": name, "type": kind, "mtime": TIME, "linktarget": "t"})
            nodes[-1] |= {"content": [], "links": 2, "inode": 1} | {field: value}
    _backups(repo, repo.directory("odd", *nodes))
    entry: Json = {"id": "ab" * 32, "type": "data", "offset": 0, "length": 99}
    for value in VALUES:
        for field in _SNAPSHOT_FIELDS:
            fields: Json = {"time": TIME, "tree": "ab" * 32, "paths": ["/x"]}
            _put_json(repo, FileType.SNAPSHOT, fields | {field: value})
        for field in (*entry, "uncompressed_length"):
            blobs = [entry | {field: value}]
            _put_json(repo, FileType.INDEX, {"packs": [{"id": "cd" * 32, "blobs": blobs}]})
        for pack in ({"id": value, "blobs": []}, {"id": "cd" * 32, "blobs": value}, value):
            _put_json(repo, FileType.INDEX, {"packs": [pack]})
        _put_json(repo, FileType.INDEX, {"packs": value})
        _put_json(repo, FileType.LOCK, {"time": value, "pid": value, "exclusive": value})
        for field in _KEY_FIELDS:
            repo.add_key(b"another", **{field: value})


def _put_json(repo: MemoryRepo, kind: FileType, content: Json) -> None:
    repo.put(kind, repo.seal(json.dumps(content).encode()))


def _times(repo: MemoryRepo) -> None:
    kinds = ("mtime", "atime", "ctime")
    nodes = [
        repo.file(f"{kind} {number}", b"x") | {kind: time}
        for number, time in enumerate(_TIMES)
        for kind in kinds
    ]
    _backups(repo, *nodes)
    tree = repo.tree(repo.file("f", b"x"))
    for number, time in enumerate(_TIMES):
        repo.snapshot(tree, ["/x"], tags=[f"time {number}"], time=time)


def _special(repo: MemoryRepo) -> Sequence[Json]:
    setuid, setgid, sticky = 1 << 23, 1 << 22, 1 << 20
    device: Json = {"mtime": TIME, "mode": 1 << 26 | 0o666, "device": 0x103}
    return [
        {"name": "null", "type": "chardev"} | device | {"mode": 1 << 26 | 1 << 21 | 0o666},
        {"name": "disk", "type": "dev"} | device,
        {"name": "pipe", "type": "fifo", "mtime": TIME, "mode": 1 << 25 | 0o666},
        {"name": "socket", "type": "socket", "mtime": TIME, "mode": 1 << 24 | 0o666},
        repo.file("setuid", b"#!/bin/sh\n", mode=setuid | setgid | 0o755),
        repo.directory("sticky", mode=1 << 31 | sticky | setgid | 0o777),
        {"name": "out", "type": "symlink", "linktarget": "/etc", "mode": 1 << 27 | 0o777},
        {"name": "up", "type": "symlink", "linktarget": "../" * 40, "mode": 1 << 27 | 0o777},
    ]


def _escapes_in(repo: MemoryRepo, text: bytes) -> Json:
    whose: Json = {"user": f"user{EVIL}", "group": f"group{EVIL}"}
    xattrs = [{"name": f"user.{EVIL}", "value": "eA=="}]
    files = [
        repo.file(f"file{EVIL}", text, extended_attributes=xattrs, **whose),
        repo.file("plain", text + b"plain", **whose),
        {"name": f"link{EVIL}", "type": "symlink", "linktarget": f"to{EVIL}", "mode": 0o777},
        {"name": f"odd{EVIL}", "type": f"type{EVIL}", "mode": 0o644},
        repo.directory(f"lost{EVIL}", **whose) | {"subtree": "ab" * 32},
        repo.file(f"short{EVIL}", **whose) | {"content": ["cd" * 32], "size": 5},
    ]
    return repo.directory(f"files{EVIL}", *files, **whose)


def fill_with_escapes(repo: MemoryRepo) -> None:
    """Write two backups and a snapshot of no backup with `EVIL` in each of their texts."""
    for day, name in enumerate((f"one{EVIL}", f"two{EVIL}"), 1):
        common: Json = {
            "time": f"2026-11-{day:02}T21:30:00Z",
            "hostname": f"host{EVIL}",
            "username": f"user{EVIL}",
        }
        dogu = f"dogu{EVIL}"
        path = f"/var/lib/ces/{dogu}/volumes"
        files = _escapes_in(repo, b"%d" % day)
        tree = repo.tree(repo.path(path, repo.directory("volumes", files)))
        tags = [name, "kind=volumes", f"dogu={dogu}"]
        volumes = repo.snapshot(tree, [path], tags=tags, **common)
        registry = json.dumps({f"/config/{EVIL}": EVIL, "/config/_global/fqdn": EVIL}).encode()
        tree = repo.tree(repo.file("registry.json", registry))
        points = [{"kind": "volumes", "dogu": dogu, "snapshot": volumes, "bytes": 1}]
        tags = [name, "kind=registry"]
        points.append({"kind": "registry", "dogu": None, "bytes": len(registry)})
        points[1]["snapshot"] = repo.snapshot(tree, ["/registry.json"], tags=tags, **common)
        failed = [{"path": f"/lost{EVIL}", "error": f"error{EVIL}"}] * (day == 1)
        for point in points:
            point["failed"] = failed
        manifest = {"format": 1, "id": name, "time": common["time"], "host": common["hostname"]}
        content = json.dumps({**manifest, "points": points}).encode()
        tree = repo.tree(repo.file("manifest.json", content))
        repo.snapshot(tree, ["/manifest.json"], tags=[name, "kind=manifest"], **common)
    loose = _escapes_in(repo, b"loose")
    repo.snapshot(repo.tree(loose), [f"/{EVIL}"], hostname=EVIL, username=EVIL)
    held = {"time": "2026-11-01T21:30:00Z", "hostname": EVIL, "username": EVIL, "pid": 7}
    repo.put_unpacked(FileType.LOCK, {**held, "exclusive": False})
    repo.put(FileType.SNAPSHOT, b"damaged")


_ENTRY = "The entry is refused and reported; everything else is shown and restored."
_RECORD = "The record fails alone, and is named; everything else is shown and restored."

CASES: Final[Sequence[Case]] = (
    Case("name-dot", _ENTRY, _named(".", "..")),
    Case("name-empty", _ENTRY, _named("")),
    Case("name-slash", _ENTRY, _named("a/b", "/etc/passwd", "../../up")),
    Case("name-nul", _ENTRY, _named("a\\x00b")),
    Case("name-256-bytes", _ENTRY, _named("x" * 256)),
    Case("name-dot-directory", _ENTRY, _directories_named("..", ".", "a/b")),
    Case("name-newline", "The name is shown escaped, and restored.", _named("a\\nb", "-rf", "\\t")),
    Case("name-255-bytes", "The name is shown and restored.", _named("x" * 255)),
    Case("name-not-utf-8", "The bytes are kept.", _named("a\\xffb", "\\x80")),
    Case("name-case", "Both names are shown and restored.", _named("README", "readme")),
    Case("name-twice", "One of the entries is shown, the other reported.", _named("f", "f")),
    Case("cycle", _RECORD, _cycle),
    Case(
        "doubling",
        "2**50 paths are equal.",
        _doubling_alike,
        endless=True,
        slow=True,
    ),
    Case("doubling-differing", "2**50 paths differ.", _doubling_differing, endless=True, slow=True),
    Case("doubling-touched", "2**50 times differ.", _doubling_touched, endless=True, slow=True),
    Case("deep", "1,000 nested directories are shown and restored.", _deep(1_000), slow=True),
    Case("many", "2,000 entries of a directory are shown.", _many(2_000)),
    Case("sizes", "Content is what the blobs contain, never more.", _nodes(_lying_sizes)),
    Case("lengths", _RECORD, _lying_lengths),
    Case("bombs", "No record is decompressed beyond its limit.", _bombs, slow=True),
    Case("scrypt", "The key is found, and no other costs more than seconds.", _absurd_keys),
    Case("nested-json", _RECORD, _nested),
    Case("wrong-types", _RECORD, _wrong_types, slow=True),
    Case("times", "Times that a file system cannot store are cut or refused.", _times),
    Case("escapes", "No control character reaches a terminal.", fill_with_escapes, readable=False),
    Case("special", "Modes, devices and links are restored below the target.", _nodes(_special)),
)
"""The cases that the tests read."""

LARGE: Final[Sequence[Case]] = (
    Case("deeper", "10,000 nested directories are shown.", _deep(10_000)),
    Case("million", "A million entries are shown.", _many(1_000_000), mebibytes_max=2_000),
)
"""The cases that take minutes."""


def all_cases() -> Iterator[Case]:
    """Yield all cases."""
    yield from CASES
    yield from LARGE
