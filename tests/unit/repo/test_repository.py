"""The reader on in-memory repositories: every kind of damage, and concurrent changes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import (
    BlobMissingError,
    CesbrError,
    DamagedError,
    NotFoundError,
    RepositoryDamagedError,
    RepositoryDeniedError,
    RepositoryMissingError,
    RepositoryUnreachableError,
    StorageError,
    WrongKeyError,
)
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.model import Node, Snapshot, Tree
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.memory import MemoryStorage
from cesbrfs.util.secret import Secret
from tests.support.memory_repo import PASSWORD, MemoryRepo

FILE = b"some content"


def simple(version: int = 2) -> MemoryRepo:
    """Return a repository with one snapshot that contains ``d/f.txt``."""
    repo = MemoryRepo(version)
    repo.snapshot(repo.tree(repo.directory("d", repo.file("f.txt", FILE))), ["/d"])
    return repo


def names(repo: MemoryRepo, kind: FileType) -> list[str]:
    return [name for held, name in repo.storage.files if held is kind]


def flip(repo: MemoryRepo, kind: FileType, name: str, at: int) -> None:
    """Change one byte of a file."""
    data = bytearray(repo.storage.files[kind, name])
    data[at] ^= 1
    repo.storage.files[kind, name] = bytes(data)


async def content(repository: Repository, tree: Tree, *path: bytes) -> bytes:
    """Read a complete file below `tree`."""
    *directories, last = path
    for name in directories:
        subtree = tree.nodes[name].subtree
        assert subtree is not None
        tree = await repository.trees.get(subtree)
    opened = await repository.open_file(tree.nodes[last])
    return await opened.read(0, opened.size)


async def only(repository: Repository) -> Snapshot:
    (snapshot,) = await repository.snapshots()
    return snapshot


async def read_all(repo: MemoryRepo, password: bytes = PASSWORD) -> bytes:
    """Open the repository of `simple` and read its file."""
    repository = await repo.open(password)
    return await content(
        repository, await repository.trees.root(await only(repository)), b"d", b"f.txt"
    )


class TestOpening:
    """Keys and config."""

    @pytest.mark.parametrize("version", [1, 2])
    async def test_both_formats(self, version: int) -> None:
        """The version, the ID and all content."""
        repo = simple(version)
        repository = await repo.open()
        assert (repository.version, repository.id) == (version, "c0" * 32)
        assert await read_all(repo) == FILE
        await repository.aclose()

    async def test_a_repository_of_format_2_may_hold_what_format_1_wrote(self) -> None:
        """As after ``restic migrate upgrade_repo_v2``: plain blobs, index and snapshots."""
        repo = simple(1)
        repo.set_config(version=2, id="c0" * 32)
        assert await read_all(repo) == FILE

    async def test_every_key_opens_it(self) -> None:
        """Each password opens it byte for byte, and no other does."""
        repo = simple()
        passwords = (PASSWORD, b"second ", b"\xff\0", b"")
        for password in passwords[1:]:
            repo.add_key(password)
        for password in passwords:
            assert await read_all(repo, password) == FILE
        with pytest.raises(WrongKeyError, match="Wrong encryption key"):
            await repo.open(b"second")

    async def test_the_wrong_key_says_so_without_showing_it(self) -> None:
        """Exit code 12; the message contains the address and not the key."""
        repo = simple()
        repo.storage.display_url = "sftp:host:/repo"
        with pytest.raises(WrongKeyError, match="sftp:host:/repo") as caught:
            await repo.open(b"a very wrong key")
        assert "very wrong" not in caught.value.message
        assert caught.value.exit_code == 12

    async def test_nothing_there(self) -> None:
        """A missing repository is error 10."""
        with pytest.raises(RepositoryMissingError):
            await Repository.open(MemoryStorage(), Secret(PASSWORD))

    @pytest.mark.parametrize(
        "kind", [FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.PACK]
    )
    async def test_config_is_gone_but_something_is_left(self, kind: FileType) -> None:
        """It is damaged, not missing: an init would make the remaining data inaccessible."""
        storage = MemoryStorage()
        storage.files[kind, "ab" * 32] = b"left"
        with pytest.raises(RepositoryDamagedError, match=kind.value):
            await Repository.open(storage, Secret(PASSWORD))

    async def test_no_keys_are_left(self) -> None:
        """It is damaged; the error is not a wrong key."""
        repo = simple()
        for name in names(repo, FileType.KEY):
            del repo.storage.files[FileType.KEY, name]
        with pytest.raises(RepositoryDamagedError, match="key files"):
            await repo.open()

    @pytest.mark.parametrize(
        "raw", [b"", b"{", b"[]", b'{"kdf": "scrypt"}', b'{"kdf": "scrypt", "N": 2, "r": -8}']
    )
    async def test_a_broken_key_file_beside_a_good_one(
        self, raw: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Other passwords work; the damaged file is reported."""
        repo = simple()
        (good,) = names(repo, FileType.KEY)
        key_file = repo.storage.files.pop((FileType.KEY, good))
        repo.put(FileType.KEY, raw)
        repo.storage.files[FileType.KEY, good] = key_file  # listed and tried last
        assert await read_all(repo) == FILE
        assert "key" in caplog.text.lower()
        with pytest.raises(DamagedError):  # it might be the key file for this password
            await repo.open(b"another")

    async def test_a_key_file_that_is_not_what_its_name_promises(self) -> None:
        """A flipped byte in it is damage, not a wrong key."""
        repo = simple()
        (name,) = names(repo, FileType.KEY)
        for at in (5, -10):
            flip(repo, FileType.KEY, name, at)
            with pytest.raises(DamagedError, match=name[:8]):
                await repo.open()
            flip(repo, FileType.KEY, name, at)
        assert await read_all(repo) == FILE

    @pytest.mark.parametrize("at", [0, 20, -1])
    async def test_a_flipped_byte_in_config(self, at: int) -> None:
        """In its nonce, its content or its tag."""
        repo = simple()
        flip(repo, FileType.CONFIG, "", at)
        with pytest.raises(RepositoryDamagedError, match="config"):
            await repo.open()

    @pytest.mark.parametrize("raw", [b"", b"x", bytes(100)])
    async def test_a_config_that_is_none(self, raw: bytes) -> None:
        """Empty, truncated or overwritten."""
        repo = simple()
        repo.storage.files[FileType.CONFIG, ""] = raw
        with pytest.raises(RepositoryDamagedError, match="config"):
            await repo.open()

    @pytest.mark.parametrize("version", [0, 3, None])
    async def test_a_format_of_another_time(self, version: int | None) -> None:
        """An unknown format version is rejected."""
        repo = simple()
        repo.set_config(version=version, id="c0" * 32)
        with pytest.raises(RepositoryDamagedError, match="version"):
            await repo.open()

    async def test_a_config_is_never_compressed(self) -> None:
        """The marker byte of compressed files is not allowed in it."""
        repo = simple()
        repo.storage.files[FileType.CONFIG, ""] = repo.seal(b'\x02{"version": 2}')
        with pytest.raises(RepositoryDamagedError):
            await repo.open()

    @pytest.mark.parametrize(
        "error", [RepositoryDeniedError("no"), RepositoryUnreachableError("?")]
    )
    async def test_a_storage_that_fails(self, error: CesbrError) -> None:
        """Access denied and unreachable are not missing."""
        repo = simple()
        repo.storage.fail[FileType.CONFIG, ""] = error
        with pytest.raises(type(error)):
            await repo.open()


class TestSnapshots:
    """Repeated listings of snapshots."""

    async def test_oldest_first(self) -> None:
        """Sorted by time, whatever time zone it is written in."""
        repo = MemoryRepo()
        times = ["2026-01-02T00:30:00+02:00", "2026-01-01T23:00:00Z", "0000-01-01T00:00:00Z"]
        ids = [repo.snapshot(None, time=time) for time in times]
        assert [s.id for s in await (await repo.open()).snapshots()] == [ids[2], ids[0], ids[1]]

    async def test_new_ones_come_and_forgotten_ones_go(self) -> None:
        """Each file is read once."""
        repo = simple()
        repository = await repo.open()
        first = await only(repository)
        second = repo.snapshot(None)
        repo.storage.reads.clear()
        assert {s.id for s in await repository.snapshots()} == {first.id, second}
        assert [name for _, name, *_ in repo.storage.reads] == [second]
        repo.forget(first.id)
        assert (await only(repository)).id == second

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)),
            lambda raw: raw[:20] + bytes((raw[20] ^ 1,)) + raw[21:],
            lambda raw: raw[:50],
            lambda _: b"",
        ],
        ids=["tag", "content", "cut", "empty"],
    )
    async def test_a_damaged_one_is_left_out_and_told(
        self, spoil: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The others are listed; it is logged once, and reported until repaired or removed."""
        repo = simple()
        good = names(repo, FileType.SNAPSHOT)[0]
        bad = repo.snapshot(None, ["/bad"])
        whole = repo.storage.files[FileType.SNAPSHOT, bad]
        repo.storage.files[FileType.SNAPSHOT, bad] = spoil(whole)
        repository = await repo.open()
        for _ in range(2):
            assert (await only(repository)).id == good
        assert list(repository.damaged) == [f"snapshots/{bad}"]
        assert caplog.text.count(bad) == 1
        repo.storage.files[FileType.SNAPSHOT, bad] = whole
        assert len(await repository.snapshots()) == 2
        assert repository.damaged == {}
        repo.storage.files[FileType.SNAPSHOT, "ab" * 32] = b""
        assert len(await repository.snapshots()) == 2
        assert list(repository.damaged) == ["snapshots/" + "ab" * 32]
        repo.forget("ab" * 32)
        assert len(await repository.snapshots()) == 2
        assert repository.damaged == {}

    async def test_one_snapshot_in_the_place_of_another(self) -> None:
        """Its MAC is right, but its content does not match the file name."""
        repo = simple()
        (name,) = names(repo, FileType.SNAPSHOT)
        other = repo.snapshot(None, ["/other"])
        repo.storage.files[FileType.SNAPSHOT, name] = repo.storage.files[FileType.SNAPSHOT, other]
        repository = await repo.open()
        assert (await only(repository)).id == other
        assert f"snapshots/{name}" in repository.damaged

    @pytest.mark.parametrize(
        "error", [RepositoryDeniedError("no"), RepositoryUnreachableError("?")]
    )
    async def test_a_storage_that_fails_is_no_empty_repository(self, error: CesbrError) -> None:
        """The listing raises the storage error, and works again later."""
        repo = simple()
        for _ in range(20):
            repo.snapshot(None, [f"/{_}"])
        repository = await repo.open()
        for name in names(repo, FileType.SNAPSHOT)[:5]:
            repo.storage.fail[FileType.SNAPSHOT, name] = error
        with pytest.raises(type(error)):
            await repository.snapshots()
        repo.storage.fail.clear()
        assert len(await repository.snapshots()) == 21

    async def test_one_that_is_forgotten_while_it_is_listed(self) -> None:
        """A file removed after the listing is neither an error nor damage."""
        repo = simple()
        repository = await repo.open()
        vanishing = repo.snapshot(None)
        files = repo.storage.files
        repo.storage.before_read = lambda *_: files.pop((FileType.SNAPSHOT, vanishing), None)
        await only(repository)
        assert repository.damaged == {}


class TestTrees:
    """Directories, including malicious ones."""

    async def test_a_hostile_directory_shows_what_it_can(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Invalid entries are rejected and logged with the reason; valid ones are shown."""
        repo = MemoryRepo()
        hostile = ["..", "a/b", "", r"nul\x00", "x" * 256, r"\Uffffffff"]
        nodes = [repo.file(name, b"evil") for name in hostile]
        tree = repo.tree(repo.file("good", FILE), *nodes, repo.file("good", b"second"))
        repo.snapshot(tree)
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        assert list(root.nodes) == [b"good"]
        assert len(root.refused) == len(hostile) + 1
        assert caplog.text.count("cannot be shown") == len(hostile) + 1
        assert await content(repository, root, b"good") == FILE

    @pytest.mark.parametrize("name", [".", "/"])
    async def test_a_root_that_is_a_directory_in_itself(self, name: str) -> None:
        """Very old backups have a node ``.`` in the root; it is replaced by its content."""
        repo = MemoryRepo()
        inner = repo.directory(
            name, repo.file("f", FILE), repo.directory(name, repo.file("g", b""))
        )
        repo.snapshot(repo.tree(inner, repo.file("h", b"")))
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        assert sorted(root.nodes) == [b"f", b"h"]
        assert len(root.refused) == 1
        assert await content(repository, root, b"f") == FILE

    @pytest.mark.parametrize("name", [".", "/"])
    async def test_a_root_entry_of_that_name_that_is_no_directory(self, name: str) -> None:
        """It would be a file named ``.``."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file(name, b"evil"), repo.file("good", FILE)))
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        assert list(root.nodes) == [b"good"]
        assert len(root.refused) == 1

    @pytest.mark.parametrize("special", [".", "/"])
    async def test_entries_of_the_root_and_of_a_special_directory_in_it(self, special: str) -> None:
        """Of two entries with the same name the second is reported."""
        repo = MemoryRepo()
        inside = repo.directory(special, repo.file("a", b"inside"), repo.file("b", b"only inside"))
        repo.snapshot(repo.tree(inside, repo.file("a", FILE)))
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        assert await content(repository, root, b"a") == FILE
        assert set(root.nodes) == {b"a", b"b"}
        (reason,) = root.refused
        assert "b'a'" in reason

    async def test_two_special_directories_in_a_root(self) -> None:
        """Of entries with the same name the first is kept."""
        repo = MemoryRepo()
        dot = repo.directory(".", repo.file("a", FILE))
        repo.snapshot(repo.tree(dot, repo.directory("/", repo.file("a", b"other"))))
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        assert await content(repository, root, b"a") == FILE
        assert len(root.refused) == 1

    async def test_a_snapshot_without_a_tree(self) -> None:
        """It cannot be read; restic cannot restore it either."""
        repo = MemoryRepo()
        repo.snapshot(None)
        repository = await repo.open()
        with pytest.raises(DamagedError, match="tree is missing"):
            await repository.trees.root(await only(repository))

    async def test_a_tree_that_is_none(self) -> None:
        """The blob matches its ID, but is not a tree."""
        repo = MemoryRepo()
        repo.snapshot(repo.save(BlobType.TREE, b"no tree"))
        repository = await repo.open()
        with pytest.raises(DamagedError):
            await repository.trees.root(await only(repository))

    async def test_a_large_directory(self) -> None:
        """It is decoded in a thread, and cached by the memory size of its nodes."""
        repo = MemoryRepo()
        nodes = [repo.file(f"file {number}") for number in range(2000)]
        repo.snapshot(repo.tree(*nodes))
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        assert len(root.nodes) == 2000
        repo.storage.reads.clear()
        assert await repository.trees.root(await only(repository)) is root
        assert repo.storage.reads == []

    async def test_a_data_blob_is_no_tree(self) -> None:
        """A data blob with the same ID is not used as a tree."""
        repo = MemoryRepo()
        data = json.dumps({"nodes": []}).encode() + b"\n"
        repo.snapshot(repo.save(BlobType.DATA, data))
        repository = await repo.open()
        with pytest.raises(BlobMissingError):
            await repository.trees.root(await only(repository))
        repo.save(BlobType.TREE, data)
        repo.flush()
        assert (await repository.trees.root(await only(repository))).nodes == {}


class TestContent:
    """Reading files."""

    @given(st.lists(st.binary(max_size=6), max_size=8), st.integers(0, 60), st.integers(0, 60))
    def test_any_part_of_any_file(self, parts: list[bytes], offset: int, size: int) -> None:
        """Across blobs, with empty and repeated ones, past the end."""

        async def check() -> None:
            repo = MemoryRepo()
            repo.snapshot(repo.tree(repo.file("f", *parts)))
            repository = await repo.open()
            node = (await repository.trees.root(await only(repository))).nodes[b"f"]
            opened = await repository.open_file(node)
            assert opened.size == sum(map(len, parts))
            assert await opened.read(offset, size) == b"".join(parts)[offset : offset + size]

        trio.run(check)

    @pytest.mark.parametrize("cache_bytes", [0, 5 << 20, 64 << 20])
    async def test_reading_ahead_changes_no_bytes(self, cache_bytes: int) -> None:
        """Forward, backward and random; if everything fits in the cache, blobs are read once."""
        repo = MemoryRepo()
        noise = random.Random(5)
        parts = [noise.randbytes(noise.randrange(1, 300_000)) for _ in range(40)]
        repo.snapshot(repo.tree(repo.file("f", *parts)))
        whole = b"".join(parts)
        repository = await Repository.open(
            repo.storage, Secret(PASSWORD), CacheConfig(memory=cache_bytes)
        )
        opened = await repository.open_file(
            (await repository.trees.root(await only(repository))).nodes[b"f"]
        )
        repo.storage.reads.clear()
        async with trio.open_nursery() as nursery:
            repository.blobs.read_ahead_in(nursery)
            await opened.read(0, 1)
            assert bool(repository.blobs.fetching) == bool(cache_bytes)
            offsets = [*range(0, len(whole), 100_000), *range(len(whole), 0, -700_000), 3, 0]
            for offset in offsets:
                assert await opened.read(offset, 100_000) == whole[offset : offset + 100_000]
        assert repository.blobs.fetching == 0
        if cache_bytes > len(whole):  # one read may extend past the pack and be repeated
            assert len(repo.storage.reads) <= len(parts) + 1

    async def test_a_damaged_blob_that_is_read_ahead(self) -> None:
        """Only a read of that blob fails; the blobs before and after it are read."""
        repo = MemoryRepo()
        parts = [bytes((n,)) * 200_000 for n in range(6)]
        repo.snapshot(repo.tree(repo.file("f", *parts)))
        flip(repo, FileType.PACK, pack_of(repo), len(repo.blob(BlobType.DATA, parts[0]).record) + 9)
        repository = await repo.open()
        opened = await repository.open_file(
            (await repository.trees.root(await only(repository))).nodes[b"f"]
        )
        async with trio.open_nursery() as nursery:
            repository.blobs.read_ahead_in(nursery)
            assert await opened.read(0, 200_000) == parts[0]
            with pytest.raises(DamagedError):
                await opened.read(200_000, 1)
            assert await opened.read(400_000, 800_000) == b"".join(parts[2:])

    async def test_the_blobs_tell_the_size(self) -> None:
        """The size in the node may be wrong."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", FILE, size=1 << 40)))
        repository = await repo.open()
        node = (await repository.trees.root(await only(repository))).nodes[b"f"]
        assert (await repository.open_file(node)).size == len(FILE)

    async def test_only_the_blob_is_read_and_only_once(self) -> None:
        """Not the whole pack; ten concurrent readers share one read."""
        repo = MemoryRepo()
        large = [bytes((n,)) * 200_000 for n in range(3)]  # decoded in a thread
        repo.snapshot(repo.tree(repo.file("f", *large)))
        repository = await repo.open()
        node = (await repository.trees.root(await only(repository))).nodes[b"f"]
        opened = await repository.open_file(node)
        repo.storage.reads.clear()

        async def read() -> None:
            assert await opened.read(200_000, 1000) == b"\1" * 1000

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
        ((kind, _, _, length),) = repo.storage.reads
        assert kind is FileType.PACK
        assert length == len(repo.blob(BlobType.DATA, large[1]).record)

    async def test_index_files_that_disagree_about_a_length(self) -> None:
        """A wrong length in one index file must not shift the file's content."""
        repo = MemoryRepo()
        first, second = (repo.blob(BlobType.DATA, part) for part in (b"first", b"second"))
        name, entries = repo.pack(first, second)
        wrong = [entries[0] | {"uncompressed_length": 9}]
        repo.index(("00" * 32, wrong), (name, entries))
        node = repo.file("f")
        node["content"] = [first.id.hex(), second.id.hex()]
        repo.snapshot(repo.tree(node))
        repository = await repo.open()
        opened = await repository.open_file(
            (await repository.trees.root(await only(repository))).nodes[b"f"]
        )
        with pytest.raises(DamagedError, match="disagree"):
            await opened.read(0, 100)

    async def test_a_missing_blob(self) -> None:
        """The message names it; other files can be read."""
        repo = MemoryRepo()
        lost = repo.file("lost")
        lost["content"] = ["ab" * 32]
        repo.snapshot(repo.tree(lost, repo.file("good", FILE)))
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        with pytest.raises(BlobMissingError, match="abababab"):
            await repository.open_file(root.nodes[b"lost"])
        assert await content(repository, root, b"good") == FILE


def pack_of(repo: MemoryRepo) -> str:
    (name,) = names(repo, FileType.PACK)
    return name


class TestDamage:
    """Flipped bytes, truncation and losses in packs and index files."""

    @pytest.mark.parametrize("version", [1, 2])
    async def test_every_byte_of_a_pack_is_under_a_check(self, version: int) -> None:
        """A flipped byte in a blob makes reads of that blob fail, and no others."""
        repo = MemoryRepo(version)
        parts = [b"first", b"second", b"third"]
        repo.snapshot(repo.tree(repo.file("f", *parts)))
        name = pack_of(repo)
        end = 0
        for victim, part in enumerate(parts):
            start, end = end, end + len(repo.blob(BlobType.DATA, part).record)
            for at in range(start, end, 7):
                flip(repo, FileType.PACK, name, at)
                repository = await repo.open()
                for number, other in enumerate(parts):
                    blob = hashlib.sha256(other).digest()
                    if number == victim:
                        with pytest.raises(DamagedError):
                            await repository.data(blob)
                    else:
                        assert await repository.data(blob) == other
                flip(repo, FileType.PACK, name, at)

    async def test_a_truncated_pack(self) -> None:
        """Blobs before the end are read, others are damaged."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"first", b"second")))
        name = pack_of(repo)
        kept = len(repo.blob(BlobType.DATA, b"first").record)
        repo.storage.files[FileType.PACK, name] = repo.storage.files[FileType.PACK, name][
            : kept + 9
        ]
        repository = await repo.open()
        assert await repository.data(hashlib.sha256(b"first").digest()) == b"first"
        with pytest.raises(DamagedError):
            await repository.data(hashlib.sha256(b"second").digest())

    async def test_an_empty_pack(self) -> None:
        """A file that lost its content in a crash."""
        repo = simple()
        repo.storage.files[FileType.PACK, pack_of(repo)] = b""
        with pytest.raises(DamagedError):
            await read_all(repo)

    async def test_a_missing_pack(self) -> None:
        """A pack in the index that does not exist is damage, not a missing file."""
        repo = simple()
        del repo.storage.files[FileType.PACK, pack_of(repo)]
        with pytest.raises(BlobMissingError):
            await read_all(repo)

    @pytest.mark.parametrize("loss", ["missing", "truncated", "flipped", "disk"])
    @pytest.mark.parametrize("first", [True, False])
    async def test_a_duplicate_elsewhere_is_taken(
        self, loss: str, first: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whichever of the two copies is lost or damaged."""
        repo = MemoryRepo()
        blob = repo.blob(BlobType.DATA, FILE)
        again = repo.blob(BlobType.DATA, FILE, compress=False)
        packs = [repo.pack(blob), repo.pack(repo.blob(BlobType.DATA, b"x"), again)]
        for pack in packs:
            repo.index(pack)
        name, entries = packs[0 if first else 1]
        key = (FileType.PACK, name)
        if loss == "missing":
            del repo.storage.files[key]
        elif loss == "truncated":
            repo.storage.files[key] = repo.storage.files[key][: entries[-1]["offset"] + 5]
        elif loss == "flipped":
            flip(repo, *key, entries[-1]["offset"] + 20)
        else:
            repo.storage.fail[key] = StorageError("input/output error")
        repository = await repo.open()
        assert await repository.data(blob.id) == FILE
        lost_first = (await repository.index()).places(BlobType.DATA, blob.id)[0].pack.hex() == name
        assert ("next location" in caplog.text) == lost_first

    async def test_all_duplicates_are_lost(self) -> None:
        """One is damaged, one is missing."""
        repo = MemoryRepo()
        blob = repo.blob(BlobType.DATA, FILE)
        packs = [repo.pack(blob), repo.pack(repo.blob(BlobType.DATA, b"x"), blob)]
        repo.index(*packs)
        flip(repo, FileType.PACK, packs[0][0], 0)
        del repo.storage.files[FileType.PACK, packs[1][0]]
        repository = await repo.open()
        with pytest.raises(CesbrError):
            await repository.data(blob.id)

    async def test_a_blob_at_another_ones_place(self) -> None:
        """MAC and length are right, but the content is wrong: the SHA-256 detects it."""
        repo = MemoryRepo()
        name, entries = repo.pack(
            repo.blob(BlobType.DATA, b"one"), repo.blob(BlobType.DATA, b"two")
        )
        entries[0]["offset"], entries[1]["offset"] = entries[1]["offset"], entries[0]["offset"]
        repo.index((name, entries))
        repository = await repo.open()
        for part in (b"one", b"two"):
            with pytest.raises(DamagedError):
                await repository.data(hashlib.sha256(part).digest())

    @pytest.mark.parametrize("at", [0, 40, -1, None], ids=["nonce", "content", "tag", "empty"])
    async def test_a_damaged_index_file(
        self, at: int | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Only its blobs are missing; it is reported, and used after a repair."""
        repo = simple()
        (name,) = names(repo, FileType.INDEX)
        whole = repo.storage.files[FileType.INDEX, name]
        other = repo.blob(BlobType.DATA, b"other")
        repo.index(repo.pack(other))
        if at is None:
            repo.storage.files[FileType.INDEX, name] = b""
        else:
            flip(repo, FileType.INDEX, name, at)
        repository = await repo.open()
        with pytest.raises(BlobMissingError):
            await repository.trees.root(await only(repository))
        assert await repository.data(other.id) == b"other"
        assert list(repository.damaged) == [f"index/{name}"]
        assert caplog.text.count(f"Cannot read index/{name}") == 1
        repo.storage.files[FileType.INDEX, name] = whole
        root = await repository.trees.root(await only(repository))
        assert await content(repository, root, b"d", b"f.txt") == FILE
        assert repository.damaged == {}

    @pytest.mark.parametrize(
        "fields", [{"uncompressed_length": -5}, {"offset": 1 << 40}, {"id": "../../etc/passwd"}]
    )
    async def test_an_absurd_index_file(self, fields: dict[str, Any]) -> None:
        """It is ignored like a damaged one."""
        repo = simple()
        name, entries = repo.pack(repo.blob(BlobType.DATA, b"other"))
        absurd = repo.index((name, [entries[0] | fields]))
        assert await read_all(repo) == FILE
        repository = await repo.open()
        await repository.index()
        assert list(repository.damaged) == [f"index/{absurd}"]

    async def test_places_that_lie_in_no_pack(self) -> None:
        """Past the end of the pack, four gigabytes long."""
        repo = MemoryRepo()
        blob = repo.blob(BlobType.DATA, FILE)
        name, (entry,) = repo.pack(blob)
        repo.index((name, [entry | {"length": (1 << 32) - 1, "offset": (1 << 32) - 1}]))
        repository = await repo.open()
        with pytest.raises(DamagedError):
            await repository.data(blob.id)


class TestChangesMeanwhile:
    """Another process runs backup, forget and prune while the repository is open."""

    @staticmethod
    def rewrite(repo: MemoryRepo, *, keep_indexes: bool = False) -> None:
        """Rewrite all packs like prune, then remove the old index files and packs."""
        packs, indexes = names(repo, FileType.PACK), names(repo, FileType.INDEX)
        repo._saved.clear()
        repo.tree(repo.directory("d", repo.file("f.txt", FILE)))
        repo.flush()
        for name in packs:
            repo.storage.files.pop((FileType.PACK, name))
        for name in () if keep_indexes else indexes:
            repo.storage.files.pop((FileType.INDEX, name))

    @pytest.mark.parametrize("keep_indexes", [False, True])
    async def test_packs_that_were_written_anew(self, keep_indexes: bool) -> None:
        """The index is listed again, and the blob is found at its new location."""
        repo = simple()
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        self.rewrite(repo, keep_indexes=keep_indexes)
        assert await content(repository, root, b"d", b"f.txt") == FILE
        index = await repository.index()
        assert len(index.names) == (2 if keep_indexes else 1)

    async def test_trees_that_a_prune_removed_leave_the_caches(self) -> None:
        """Trees of forgotten backups are evicted; existing ones stay cached."""
        repo = simple()
        removed = bytes.fromhex(repo.tree(repo.file("g.txt", b"other content")))
        repo.flush()
        repository = await repo.open()
        root = await repository.trees.root(await only(repository))
        kept = root.nodes[b"d"].subtree
        assert kept is not None
        for tree in (kept, removed):
            await repository.trees.get(tree)
            await repository.listings.get(tree)
        self.rewrite(repo)
        assert await content(repository, root, b"d", b"f.txt") == FILE
        assert repository.listings.trees() == {kept}
        assert repository.trees.cache.peek(kept) is not None
        assert repository.trees.cache.peek(removed) is None

    async def test_a_stale_index_whose_other_place_is_damaged(self) -> None:
        """A missing pack causes a reload of the index, even if the other copy is damaged."""
        repo = MemoryRepo()
        blob = repo.blob(BlobType.DATA, FILE)
        packs = [repo.pack(blob), repo.pack(repo.blob(BlobType.DATA, b"x"), blob)]
        old = repo.index(*packs)
        repository = await repo.open()
        places = (await repository.index()).places(BlobType.DATA, blob.id)
        del repo.storage.files[FileType.PACK, places[0].pack.hex()]
        repo.storage.files[FileType.PACK, places[1].pack.hex()] = b""
        del repo.storage.files[FileType.INDEX, old]
        repo.index(repo.pack(repo.blob(BlobType.DATA, b"y"), blob))
        assert await repository.data(blob.id) == FILE

    async def test_blobs_of_a_new_backup(self) -> None:
        """A snapshot made after the index was loaded can be read completely."""
        repo = simple()
        repository = await repo.open()
        await repository.index()
        repo.snapshot(
            repo.tree(repo.file("new", b"new content")), ["/new"], time="2027-01-01T00:00:00Z"
        )
        *_, newest = await repository.snapshots()
        root = await repository.trees.root(newest)
        assert await content(repository, root, b"new") == b"new content"

    async def test_a_file_of_a_new_backup_is_opened_first_of_all(self) -> None:
        """The new index files are loaded for its size as well."""
        repo = simple()
        repository = await repo.open()
        await repository.index()
        blob = bytes.fromhex(repo.save(BlobType.DATA, b"new content"))
        repo.flush()
        node = Node(name=b"f", type="file", mode=0o100644, content=blob)
        assert (await repository.open_file(node)).size == len(b"new content")

    async def test_many_readers_list_the_index_once(self) -> None:
        """Each misses its blob; one listing serves all of them."""
        repo = simple()
        parts = [bytes((n,)) * 10 for n in range(20)]
        repository = await repo.open()
        await repository.index()
        repo.index(repo.pack(*(repo.blob(BlobType.DATA, part) for part in parts)))
        repo.storage.listings.clear()

        async def read(part: bytes) -> None:
            assert await repository.data(hashlib.sha256(part).digest()) == part

        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(read, part)
        assert repo.storage.listings[FileType.INDEX] == 1

    async def test_a_forgotten_snapshot_is_not_found(self) -> None:
        """Its files report "not found"; missing data of kept snapshots is damage."""
        repo = simple()
        repository = await repo.open()
        snapshot = await only(repository)
        root = await repository.trees.root(snapshot)
        directory = root.nodes[b"d"].subtree
        assert directory is not None
        node = (await repository.trees.get(directory)).nodes[b"f.txt"]
        opened = await repository.open_file(node, snapshot)
        for name in names(repo, FileType.PACK):
            del repo.storage.files[FileType.PACK, name]
        with pytest.raises(BlobMissingError):
            await opened.read(0, 10)
        repo.forget(snapshot.id)
        for name in names(repo, FileType.INDEX):
            del repo.storage.files[FileType.INDEX, name]
        with pytest.raises(NotFoundError, match=snapshot.id[:8]):
            await opened.read(0, 10)
        with pytest.raises(NotFoundError, match=snapshot.id[:8]):
            await repository.open_file(node, snapshot)

    async def test_an_index_file_replaced_while_it_is_loaded(self) -> None:
        """A file removed after the listing: its replacement is found with the first read."""
        repo = simple()
        repository = await repo.open()
        snapshot = await only(repository)
        (old,) = names(repo, FileType.INDEX)

        def replace(kind: FileType, name: str) -> None:
            if (kind, name) == (FileType.INDEX, old) and (kind, old) in repo.storage.files:
                self.rewrite(repo)

        repo.storage.before_read = replace
        root = await repository.trees.root(snapshot)
        assert await content(repository, root, b"d", b"f.txt") == FILE
        assert repository.damaged == {}

    @pytest.mark.parametrize("times", [3, 7])
    async def test_an_index_replaced_again_and_again(self, times: int) -> None:
        """It is listed again until complete, while `prune` and `repair index` run."""
        repo = simple()
        repository = await repo.open()
        snapshot = await only(repository)
        left = times

        def replace(kind: FileType, name: str) -> None:
            nonlocal left
            if kind is FileType.INDEX and left and (kind, name) in repo.storage.files:
                left -= 1
                self.rewrite(repo)

        repo.storage.before_read = replace
        root = await repository.trees.root(snapshot)
        assert await content(repository, root, b"d", b"f.txt") == FILE
        assert not left

    async def test_an_index_that_is_replaced_without_end(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It ends with an error that does not report damage."""
        monkeypatch.setattr("cesbrfs.repo.read.index_loader._RELIST_SECONDS", (0.0, 0.0))
        repo = simple()
        repository = await repo.open()
        snapshot = await only(repository)
        repo.storage.before_read = lambda kind, name: (
            self.rewrite(repo)
            if kind is FileType.INDEX and (kind, name) in repo.storage.files
            else None
        )
        with pytest.raises(BlobMissingError) as caught:
            await repository.trees.root(snapshot)
        assert "being replaced" in caught.value.message
        assert "cesbr check" not in caught.value.message + caplog.text

    @pytest.mark.parametrize("ask", ["tree", "size", "known"])
    async def test_a_listing_that_missed_the_old_and_the_new_file(self, ask: str) -> None:
        """A listing is not atomic: it may miss both a file and its replacement."""
        repo = simple()
        repository = await repo.open()
        snapshot = await only(repository)
        files = repo.storage.files
        held = {key: files.pop(key) for key in list(files) if key[0] is FileType.INDEX}
        # A listing during the replacement finds another index.
        repo.index(repo.pack(repo.blob(BlobType.DATA, b"other")))
        listed: list[str] = []

        def give_back(kind: FileType, name: str) -> None:
            if kind is FileType.INDEX:
                listed.append(name)
                files.update(held)

        repo.storage.before_read = give_back
        if ask == "tree":
            assert b"d" in (await repository.trees.root(snapshot)).nodes
        elif ask == "known":
            assert not await repository.blobs.not_indexed(BlobType.TREE, {snapshot.tree or b""})
        else:
            node = Node(
                name=b"f", type="file", mode=0o100644, content=hashlib.sha256(FILE).digest()
            )
            assert (await repository.open_file(node)).size == len(FILE)
        assert len(listed) == 2


def test_a_node_has_no_blobs_without_content() -> None:
    """The blob list of a directory or a link is empty."""
    assert Node(name=b"d", type="dir", mode=0o40755).blobs == []
