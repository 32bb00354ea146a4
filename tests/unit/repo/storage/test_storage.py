"""The storage protocol, tested with the local and the in-memory storage."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import (
    DamagedError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    StorageError,
    UsageError,
)
from cesbrfs.repo.location import Access, kind_of, local_directory
from cesbrfs.repo.storage import (
    FileType,
    HasAvailability,
    Storage,
    is_file_name,
    open_storage,
    read_exactly,
)
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.repo.storage.memory import MemoryStorage
from cesbrfs.util.secret import Secret

NAME = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
LARGE = bytes(range(256)) * 2000

Fill = Callable[[dict[tuple[FileType, str], bytes]], Storage]


@pytest.fixture(params=["local", "memory"])
def fill(request: pytest.FixtureRequest, tmp_path: Path) -> Fill:
    """Create a storage with these files, by kind and name."""

    def local(files: dict[tuple[FileType, str], bytes]) -> Storage:
        for (kind, name), data in files.items():
            path = tmp_path / kind / (name[:2] if kind is FileType.PACK else "") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return LocalStorage(str(tmp_path))

    def memory(files: dict[tuple[FileType, str], bytes]) -> Storage:
        storage = MemoryStorage()
        storage.files.update(files)
        return storage

    return local if request.param == "local" else memory


async def test_files_are_listed_by_kind(fill: Fill) -> None:
    """With sizes; a kind without files, or without a directory, is empty."""
    storage = fill(
        {
            (FileType.SNAPSHOT, NAME): b"12345",
            (FileType.SNAPSHOT, OTHER): b"",
            (FileType.PACK, NAME): b"pack",
            (FileType.PACK, OTHER): b"another",
        }
    )
    assert sorted(await storage.list(FileType.SNAPSHOT)) == [(NAME, 5), (OTHER, 0)]
    assert sorted(await storage.list(FileType.PACK)) == [(NAME, 4), (OTHER, 7)]
    assert list(await storage.list(FileType.KEY)) == []
    await storage.aclose()


async def test_only_proper_names_are_listed(fill: Fill) -> None:
    """Temporary files of restic and unrelated files are ignored."""
    strange = (NAME[:-1], NAME + "-tmp-123", NAME.upper(), "." + NAME[1:], "README", NAME + "\n")
    files = dict.fromkeys([(FileType.INDEX, name) for name in strange], b"x")
    storage = fill(files | {(FileType.INDEX, NAME): b"index"})
    assert list(await storage.list(FileType.INDEX)) == [(NAME, 5)]
    assert not any(is_file_name(name) for name in strange)


async def test_reading_whole_files_and_parts(fill: Fill) -> None:
    """At any offset, of any length."""
    storage = fill({(FileType.PACK, NAME): LARGE})
    assert await storage.read(FileType.PACK, NAME) == LARGE
    for offset, length in ((0, 0), (0, 10), (7, 300_000), (len(LARGE) - 3, 3), (len(LARGE), 0)):
        part = await storage.read(FileType.PACK, NAME, offset, length)
        assert part == LARGE[offset : offset + length]
    assert await storage.read(FileType.PACK, NAME, 10) == LARGE[10:]


async def test_a_file_that_is_not_there(fill: Fill) -> None:
    """Completely or in part, and if the directory is missing."""
    storage = fill({(FileType.INDEX, OTHER): b""})
    for kind in (FileType.INDEX, FileType.PACK):
        with pytest.raises(FileMissingError):
            await storage.read(kind, NAME)
        with pytest.raises(FileMissingError):
            await storage.read(kind, NAME, 0, 10)
    with pytest.raises(FileMissingError):
        await storage.read(FileType.CONFIG)


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (100, 1), (0, 1 << 20)])
async def test_a_file_that_is_too_short(fill: Fill, offset: int, length: int) -> None:
    """The bytes up to its end are returned; DamagedError if all are required."""
    storage = fill({(FileType.PACK, NAME): b"0123456789"})
    assert await storage.read(FileType.PACK, NAME, offset, length) == b"0123456789"[offset:]
    with pytest.raises(DamagedError):
        await read_exactly(storage, FileType.PACK, NAME, offset, length)


async def test_a_cancelled_read_ends(fill: Fill) -> None:
    """A read in a cancelled scope does not start."""
    storage = fill({(FileType.PACK, NAME): LARGE})
    with trio.CancelScope() as scope:
        scope.cancel()
        await storage.read(FileType.PACK, NAME, 0, 10)
    assert scope.cancelled_caught


async def test_config_is_a_file_at_the_top(tmp_path: Path) -> None:
    """Packs are stored below the first two digits of their names."""
    (tmp_path / "config").write_bytes(b"config")
    (tmp_path / "data/01").mkdir(parents=True)
    (tmp_path / "data/01" / NAME).write_bytes(b"pack")
    storage = LocalStorage(str(tmp_path))
    assert await storage.read(FileType.CONFIG) == b"config"
    assert await storage.read(FileType.PACK, NAME) == b"pack"


async def test_files_that_vanish_while_they_are_listed(tmp_path: Path) -> None:
    """A file that is removed during the listing does not affect the others.

    A dangling link simulates this: it has a name but cannot be opened.
    """
    for directory in ("snapshots", "data/01"):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / NAME).write_bytes(b"here")
        (tmp_path / directory / OTHER).symlink_to("gone")
    storage = LocalStorage(str(tmp_path))
    assert list(await storage.list(FileType.SNAPSHOT)) == [(NAME, 4)]
    assert list(await storage.list(FileType.PACK)) == [(NAME, 4)]


async def test_no_directory_at_all(tmp_path: Path) -> None:
    """The listing is empty and config is missing; callers decide what that means."""
    storage = LocalStorage(str(tmp_path / "nothing"))
    assert list(await storage.list(FileType.KEY)) == []
    with pytest.raises(FileMissingError):
        await storage.read(FileType.CONFIG)


async def test_a_path_through_a_file_is_no_repository(tmp_path: Path) -> None:
    """A wrong address must not look like a missing repository."""
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(str(tmp_path / "file/repo"))
    with pytest.raises(RepositoryUnreachableError, match="address"):
        await storage.list(FileType.KEY)
    with pytest.raises(RepositoryUnreachableError):
        await storage.read(FileType.CONFIG)


async def test_a_directory_in_the_place_of_a_file(tmp_path: Path) -> None:
    """A directory instead of a file raises a storage error."""
    (tmp_path / "index" / NAME).mkdir(parents=True)
    storage = LocalStorage(str(tmp_path))
    with pytest.raises(StorageError, match=NAME):
        await storage.read(FileType.INDEX, NAME)


async def test_a_refused_directory_is_denied_not_missing(tmp_path: Path) -> None:
    """A directory without read permission must not look missing."""
    (tmp_path / "repo/keys").mkdir(parents=True)
    (tmp_path / "repo/config").write_bytes(b"config")
    storage = LocalStorage(str(tmp_path / "repo"))
    (tmp_path / "repo").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(RepositoryDeniedError, match="Permission denied"):
            await storage.list(FileType.KEY)
        with pytest.raises(RepositoryDeniedError):
            await storage.read(FileType.CONFIG)
    finally:
        if root:
            os.seteuid(0)
        (tmp_path / "repo").chmod(0o700)


async def test_errors_of_the_file_system(tmp_path: Path) -> None:
    """An unreachable network file system is no defect of a file."""
    storage = LocalStorage(str(tmp_path))
    stale = storage._translate(OSError(errno.ESTALE, "Stale"), str(tmp_path / "config"))
    assert isinstance(stale, RepositoryUnreachableError)
    assert "does not respond: Stale file handle" in stale.message
    failing = storage._translate(OSError(errno.EIO, "I/O"), str(tmp_path / "config"))
    assert type(failing) is StorageError
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ab").write_bytes(b"a file in the place of a directory")
    (tmp_path / "data/cd").symlink_to("cd")
    assert list(await storage.list(FileType.PACK)) == []
    (tmp_path / "config").write_bytes(b"short")
    with pytest.raises(DamagedError, match="is truncated at byte 5"):
        storage.read_into(FileType.CONFIG, "", 0, memoryview(bytearray(6)))


def test_addresses_of_local_directories() -> None:
    """With and without ``local:``; a colon as in Windows paths is no scheme."""
    assert local_directory("/srv/backup") == "/srv/backup"
    assert local_directory("local:/srv/backup") == "/srv/backup"
    assert local_directory("local:s3:odd") == "s3:odd"
    assert local_directory("relative/path") == "relative/path"
    assert local_directory("s3:https://host/bucket") is None
    assert local_directory("sftp:user@host:/srv") is None
    assert local_directory("rest:http://host/") is None
    assert kind_of("rest:http://host/") == "rest"
    assert kind_of("restful") == kind_of("rest/x:y") == kind_of("local:rest:x") == "local"


def test_open_storage_takes_a_directory_and_refuses_nothing(tmp_path: Path) -> None:
    """An empty address is a missing setting; displayed addresses contain no secrets."""
    storage = open_storage(Access(f"local:{tmp_path}", Secret(b"key")))
    assert storage.display_url == str(tmp_path)
    for empty in ("", "local:"):
        with pytest.raises(UsageError):
            open_storage(Access(empty, Secret(b"key")))


async def test_a_network_is_met_with_patience() -> None:
    """A closed port is reported after the configured timeout, or the one for opening."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    access = Access(f"rest:http://127.0.0.1:{port}/", Secret(b"key"), patience=0)
    storage = open_storage(access)
    assert isinstance(storage, HasAvailability)
    with pytest.raises(RepositoryUnreachableError, match="refused"):
        await storage.list(FileType.KEY)
    assert storage.is_offline
    await storage.aclose()
