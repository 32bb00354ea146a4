"""Conformance tests of both registries, and the on-disk format of the file registry."""

from __future__ import annotations

import os
import stat
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.registry import FileRegistry, Registry
from cesbrfs.errors import RegistryError


async def test_a_missing_registry_is_empty(registry: Registry) -> None:
    """Reads of a missing registry or key return nothing."""
    assert await registry.get("/config/backup/active") is None
    assert await registry.read("/") == {}
    assert await registry.children("/dogu") == []
    await registry.delete("/config/x")
    assert await registry.read("/") == {}


@pytest.mark.parametrize("value", ["", "exact", " spaces \n", "zwei\r\nZeilen \N{ROCKET}\0"])
async def test_values_round_trip(registry: Registry, value: str) -> None:
    """Values are returned unchanged; the leading slash of a key is optional."""
    await registry.set("/config/redmine/logging/root", value)
    assert await registry.get("config/redmine/logging/root") == value


async def test_read_is_recursive_flat_and_sorted(registry: Registry) -> None:
    """A prefix matches complete parts of keys, and may itself be a key."""
    for key in ("/config/b/y", "/config/b/x/z", "/config/bb", "/config/a", "/dogu/b/current"):
        await registry.set(key, key)
    assert list(await registry.read("/config/b")) == ["/config/b/x/z", "/config/b/y"]
    assert await registry.read("/config/a/") == {"/config/a": "/config/a"}
    assert list(await registry.read("/")) == sorted(await registry.read(""))
    assert len(await registry.read("/")) == 5
    assert await registry.children("/config") == ["a", "b", "bb"]
    assert await registry.children("/config/a") == []


async def test_changes_are_watched(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes below the prefix are yielded; others and unchanged values are not."""
    monkeypatch.setattr("cesbrfs.ces.registry._POLL_SECONDS", 0.01)
    async with aclosing(registry.watch("/config")) as changes:
        with trio.fail_after(30):
            assert await anext(changes) == {}
            await registry.set("/config/a", "0")
            assert await anext(changes) == {"/config/a": "0"}
            await registry.set("/dogu/a", "1")
            await registry.set("/config/a", "0")
            await registry.set("/config/b", "1")
            assert await anext(changes) == {"/config/a": "0", "/config/b": "1"}
            await registry.delete("/config/a")
            assert await anext(changes) == {"/config/b": "1"}


@pytest.mark.parametrize("key", ["/a/../b", "/a//b", "//a", "/a/./b", "/..", "/nul\0", "/a//"])
async def test_invalid_keys_are_rejected(registry: Registry, key: str) -> None:
    """Every method rejects keys with path traversal and non-canonical keys."""
    for call in (
        registry.get(key),
        registry.read(key),
        registry.children(key),
        registry.set(key, ""),
        registry.delete(key),
        registry.compare_and_set(key, "", None),
    ):
        with pytest.raises(RegistryError, match="Invalid registry key"):
            await call
    assert await registry.read("/") == {}


async def test_a_key_is_a_value_or_a_directory(registry: Registry) -> None:
    """A value cannot become a directory or vice versa; the error names the key."""
    await registry.set("/config/a", "value")
    await registry.set("/config/b/c", "value")
    with pytest.raises(
        RegistryError, match="Cannot set the registry key /config/a/below: a parent"
    ):
        await registry.set("/config/a/below", "")
    with pytest.raises(RegistryError, match="Cannot set the registry key /config/a/below/more: a"):
        await registry.set("/config/a/below/more", "")
    with pytest.raises(RegistryError, match="Cannot set the registry key /config/b: it is a dir"):
        await registry.set("/config/b", "")
    with pytest.raises(RegistryError, match="Cannot read the registry key /config/b: it is a dir"):
        await registry.get("/config/b")
    with pytest.raises(RegistryError, match="Cannot delete the registry key /config/b: it is a "):
        await registry.delete("/config/b")
    assert await registry.get("/config/a/below") is None
    assert await registry.read("/") == {"/config/a": "value", "/config/b/c": "value"}
    await registry.delete("/config/a/below")
    await registry.delete("/config/b/c/below")
    assert await registry.children("/config") == ["a", "b"]


@pytest.mark.parametrize("key", ["", "/"])
async def test_the_root_is_not_a_key(registry: Registry, key: str) -> None:
    """The root has no value and cannot be set."""
    with pytest.raises(RegistryError):
        await registry.get(key)
    with pytest.raises(RegistryError):
        await registry.set(key, "x")


async def test_delete_removes_empty_directories(registry: Registry) -> None:
    """After the last key of a directory is deleted, its name can be used for a value."""
    await registry.set("/dogu/redmine/current", "1")
    await registry.set("/dogu/other", "1")
    await registry.delete("/dogu/redmine/current")
    await registry.delete("/dogu/redmine/current")
    assert await registry.children("/dogu") == ["other"]
    await registry.set("/dogu/redmine", "now a value")
    await registry.delete("/dogu/redmine")
    await registry.delete("/dogu/other")
    assert await registry.children("/") == []


async def test_compare_and_set(registry: Registry) -> None:
    """A value is changed, created or deleted only if the current value is the expected one."""
    assert await registry.compare_and_set("/config/a", "1", None)
    assert not await registry.compare_and_set("/config/a", "2", None)
    assert not await registry.compare_and_set("/config/a", "2", "")
    assert not await registry.compare_and_set("/config/b", "2", "1")
    assert not await registry.compare_and_set("/config/b", None, "1")
    assert await registry.compare_and_set("/config/b", None, None)
    assert await registry.read("/") == {"/config/a": "1"}
    assert await registry.compare_and_set("/config/a", "", "1")
    assert await registry.compare_and_set("/config/a", "3", "")
    assert not await registry.compare_and_set("/config/a", None, "")
    assert await registry.compare_and_set("/config/a", None, "3")
    assert await registry.children("/") == []
    await registry.set("/config/c/d", "1")
    with pytest.raises(RegistryError, match="/config/c: it is a directory"):
        await registry.compare_and_set("/config/c", "1", None)


@pytest.mark.parametrize(
    "part", ["a b", "100%", "%2e", "a?b#c", "registrator:x:80", "\N{ROCKET}", "+"]
)
async def test_special_characters_in_names(registry: Registry, part: str) -> None:
    """Any valid file name is a valid part of a key."""
    await registry.set(f"/services/{part}/x", part)
    assert await registry.read("/services") == {f"/services/{part}/x": part}
    assert await registry.children("/services") == [part]
    assert await registry.get(f"/services/{part}/x") == part
    assert await registry.compare_and_set(f"/services/{part}/x", None, part)
    assert await registry.children("/") == []


async def test_hidden_names_can_be_read_by_name(registry: Registry) -> None:
    """Names that begin with "_" are found by name, even if they are not listed."""
    await registry.set("/config/_global/fqdn", "ces.example.org")
    await registry.set("/config/redmine/a", "1")
    assert await registry.read("/config/_global") == {"/config/_global/fqdn": "ces.example.org"}
    assert await registry.children("/config/_global") == ["fqdn"]
    assert await registry.get("/config/_global/fqdn") == "ces.example.org"
    assert set(await registry.read("/config")) >= {"/config/redmine/a"}


async def test_concurrent_writers_lose_no_update(registry: Registry) -> None:
    """Concurrent increments with compare_and_set add up."""
    await registry.set("/count", "0")

    async def count_up() -> None:
        for _ in range(5):
            while True:
                found = await registry.get("/count")
                assert found is not None
                if await registry.compare_and_set("/count", str(int(found) + 1), found):
                    break

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(count_up)
    assert await registry.get("/count") == "25"


# File registry only


@pytest.fixture
def files(tmp_path: Path) -> FileRegistry:
    """Return an empty registry; its directory does not exist yet."""
    return FileRegistry(tmp_path / "var/registry")


async def test_each_key_is_a_file(files: FileRegistry) -> None:
    """A file contains exactly the value in UTF-8; only `set` creates directories."""
    assert await files.read("/") == {}
    await files.delete("/config/x")
    assert not files.path.exists()
    await files.set("/config/redmine/logging/root", "zwei\r\nZeilen \N{ROCKET}\0")
    file = files.path / "config/redmine/logging/root"
    assert file.read_bytes() == "zwei\r\nZeilen \N{ROCKET}\0".encode()
    await files.delete("/config/redmine/logging/root")
    assert list(files.path.iterdir()) == []


async def test_invalid_utf8_is_rejected(files: FileRegistry) -> None:
    """The error for an invalid value names its key, in `get` and in `read`."""
    await files.set("/config/a", "fine")
    (files.path / "config/b").write_bytes(b"\xff\xfe")
    for call in (files.get("/config/b"), files.read("/config")):
        with pytest.raises(RegistryError, match="key /config/b: not UTF-8"):
            await call


async def test_invalid_file_names_are_reported(files: FileRegistry) -> None:
    """A file name that is not UTF-8 is an error, it is not skipped."""
    await files.set("/config/a", "fine")
    (files.path / os.fsdecode(b"config/\xff")).touch()
    with pytest.raises(RegistryError, match=r"Invalid name b'\\xff' .*not UTF-8"):
        await files.read("/config")


async def test_symbolic_links_and_special_files(files: FileRegistry) -> None:
    """Links to values are followed; links to directories (possible loops) and FIFOs fail."""
    await files.set("/config/a", "value")
    (files.path / "config/link").symlink_to("a")
    assert await files.read("/config") == {"/config/a": "value", "/config/link": "value"}
    (files.path / "config/round").symlink_to(".")
    with pytest.raises(RegistryError, match="round is neither a file"):
        await files.read("/config")
    (files.path / "config/round").unlink()
    os.mkfifo(files.path / "config/fifo")
    with pytest.raises(RegistryError, match="fifo is neither"):
        await files.read("/config")


async def test_a_linked_registry_is_read(files: FileRegistry, tmp_path: Path) -> None:
    """The directory of the registry may be a symbolic link."""
    await files.set("/a", "1")
    (tmp_path / "link").symlink_to(files.path)
    assert await FileRegistry(tmp_path / "link").read("/") == {"/a": "1"}


async def test_file_modes(files: FileRegistry) -> None:
    """New files are private, as values may be secrets; existing files keep their mode."""
    await files.set("/config/secret", "1")
    file = files.path / "config/secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.chmod(0o644)
    await files.set("/config/secret", "2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


async def test_temporary_files_are_not_keys(files: FileRegistry) -> None:
    """A temporary file left by a crash is not listed and cannot be read as a key."""
    await files.set("/config/a", "1")
    left = files.path / "config/.cesbr-new-0123"
    left.write_text("half")
    assert await files.read("/") == {"/config/a": "1"}
    assert await files.children("/config") == ["a"]
    with pytest.raises(RegistryError, match="Invalid registry key"):
        await files.get("/config/.cesbr-new-0123")


async def test_writes_are_atomic(files: FileRegistry) -> None:
    """While two long values are written alternately, a reader always gets one of them."""
    values = {"a" * 300_000, "b" * 300_000}
    await files.set("/k", "a" * 300_000)
    done = threading.Event()

    async def write() -> None:
        for value in sorted(values) * 10:
            await files.set("/k", value)
        done.set()

    seen = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not done.is_set():
            seen.add(await files.get("/k"))
    assert seen <= values
    assert [p.name for p in files.path.iterdir()] == ["k"]


async def test_a_failed_write_leaves_the_old_value(
    files: FileRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk is full, the error names the key and no temporary file is left."""
    await files.set("/config/a", "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cesbrfs.util.atomicfile.os.fsync", full)
    with pytest.raises(RegistryError, match=r"/config/a .*No space left on device"):
        await files.set("/config/a", "new")
    assert [p.read_text() for p in (files.path / "config").iterdir()] == ["old"]


async def test_names_too_long_for_the_file_system(files: FileRegistry) -> None:
    """The error names the key."""
    with pytest.raises(RegistryError, match="Cannot set the registry key /config/xxx"):
        await files.set(f"/config/{'x' * 256}", "")
    with pytest.raises(RegistryError, match="Cannot read the registry key /config/xxx"):
        await files.get(f"/config/{'x' * 256}")
