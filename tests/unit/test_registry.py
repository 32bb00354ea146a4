"""The file registry: keys are paths, values are bytes, a write is whole or not there."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.registry import FileRegistry, Registry
from cesbrfs.errors import RegistryError


@pytest.fixture
def registry(tmp_path: Path) -> FileRegistry:
    """Return an empty registry whose folder does not exist yet."""
    return FileRegistry(tmp_path / "var/registry")


async def test_a_missing_registry_is_empty(registry: FileRegistry) -> None:
    """Without a registry every read finds nothing, and no folder is created."""
    typed: Registry = registry  # it is what the protocol asks for
    assert await typed.get("/config/backup/active") is None
    assert await typed.read("/") == {}
    assert await typed.children("/dogu") == []
    await typed.delete("/config/x")
    assert not registry.path.exists()


@pytest.mark.parametrize("value", ["", "exact", " spaces \n", "zwei\r\nZeilen \N{ROCKET}\0"])
async def test_values_are_kept_exactly(registry: FileRegistry, value: str) -> None:
    """The file mirrors the key and holds the value's UTF-8 bytes, nothing else."""
    await registry.set("/config/redmine/logging/root", value)
    assert (registry.path / "config/redmine/logging/root").read_bytes() == value.encode()
    assert await registry.get("config/redmine/logging/root") == value


async def test_read_is_recursive_flat_and_sorted(registry: FileRegistry) -> None:
    """A prefix covers whole parts only, and may itself be a key."""
    for key in ("/config/b/y", "/config/b/x/z", "/config/bb", "/config/a", "/dogu/b/current"):
        await registry.set(key, key)
    assert list(await registry.read("/config/b")) == ["/config/b/x/z", "/config/b/y"]
    assert await registry.read("/config/a/") == {"/config/a": "/config/a"}
    assert list(await registry.read("/")) == sorted(await registry.read(""))
    assert len(await registry.read("/")) == 5
    assert await registry.children("/config") == ["a", "b", "bb"]
    assert await registry.children("/config/a") == []


@pytest.mark.parametrize("key", ["/a/../b", "/a//b", "//a", "/a/./b", "/..", "/nul\0", "/a//"])
async def test_keys_stay_inside(registry: FileRegistry, key: str) -> None:
    """A key that would leave the registry, or has two spellings, is refused by every method."""
    for call in (
        registry.get(key),
        registry.read(key),
        registry.children(key),
        registry.set(key, ""),
        registry.delete(key),
        registry.replace(key, "", None),
    ):
        with pytest.raises(RegistryError, match="no registry key"):
            await call
    assert not registry.path.exists()


async def test_a_key_is_a_value_or_a_folder(registry: FileRegistry) -> None:
    """What is one of them never becomes the other, and says which key is in the way."""
    await registry.set("/config/a", "value")
    await registry.set("/config/b/c", "value")
    with pytest.raises(RegistryError, match="/config/a/below cannot be set, a part of it"):
        await registry.set("/config/a/below", "")
    with pytest.raises(RegistryError, match="/config/a/below/more cannot be set, a part of it"):
        await registry.set("/config/a/below/more", "")
    with pytest.raises(RegistryError, match="/config/b cannot be set, it is a folder"):
        await registry.set("/config/b", "")
    with pytest.raises(RegistryError, match="/config/b is a folder of keys"):
        await registry.get("/config/b")
    with pytest.raises(RegistryError, match="/config/b is a folder of keys"):
        await registry.delete("/config/b")
    assert await registry.get("/config/a/below") is None
    assert await registry.read("/") == {"/config/a": "value", "/config/b/c": "value"}
    assert {p.name for p in registry.path.rglob("*")} == {"config", "a", "b", "c"}


@pytest.mark.parametrize("key", ["", "/"])
async def test_the_root_is_no_key(registry: FileRegistry, key: str) -> None:
    """The registry as a whole has no value."""
    with pytest.raises(RegistryError):
        await registry.get(key)
    with pytest.raises(RegistryError):
        await registry.set(key, "x")


async def test_deleting_removes_emptied_folders(registry: FileRegistry) -> None:
    """After the last key below a folder is gone, the folder's name can become a key."""
    await registry.set("/dogu/redmine/current", "1")
    await registry.set("/dogu/other", "1")
    await registry.delete("/dogu/redmine/current")
    await registry.delete("/dogu/redmine/current")
    assert await registry.children("/dogu") == ["other"]
    await registry.set("/dogu/redmine", "now a value")
    await registry.delete("/dogu/redmine")
    await registry.delete("/dogu/other")
    assert registry.path.exists()


async def test_replacing_compares_first(registry: FileRegistry) -> None:
    """A value is exchanged, made or removed only if what was expected is there."""
    assert await registry.replace("/config/a", "1", None)
    assert not await registry.replace("/config/a", "2", None)
    assert not await registry.replace("/config/a", "2", "")
    assert not await registry.replace("/config/b", "2", "1")
    assert not await registry.replace("/config/b", None, "1")
    assert await registry.replace("/config/b", None, None)
    assert await registry.read("/") == {"/config/a": "1"}
    assert await registry.replace("/config/a", "", "1")
    assert await registry.replace("/config/a", "3", "")
    assert not await registry.replace("/config/a", None, "")
    assert await registry.replace("/config/a", None, "3")
    assert await registry.children("/") == []
    await registry.set("/config/c/d", "1")
    with pytest.raises(RegistryError, match="/config/c is a folder"):
        await registry.replace("/config/c", "1", None)


async def test_of_two_writers_one_waits(registry: FileRegistry) -> None:
    """Many that count up at the same time lose no step, though none of them knows the others."""
    await registry.set("/count", "0")

    async def count_up() -> None:
        for _ in range(5):
            while True:
                found = await registry.get("/count")
                assert found is not None
                if await registry.replace("/count", str(int(found) + 1), found):
                    break

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(count_up)
    assert await registry.get("/count") == "25"


async def test_other_bytes_are_refused_by_name(registry: FileRegistry) -> None:
    """A value that is no UTF-8 names its key, in a single read and in one of many."""
    await registry.set("/config/a", "fine")
    (registry.path / "config/b").write_bytes(b"\xff\xfe")
    for call in (registry.get("/config/b"), registry.read("/config")):
        with pytest.raises(RegistryError, match="/config/b does not hold UTF-8"):
            await call


async def test_names_that_are_no_keys_are_told(registry: FileRegistry) -> None:
    """A file whose name cannot be a key is reported, not skipped."""
    await registry.set("/config/a", "fine")
    (registry.path / os.fsdecode(b"config/\xff")).touch()
    with pytest.raises(RegistryError, match=r"not UTF-8, b'\\xff'"):
        await registry.read("/config")


async def test_only_files_and_folders_hold_keys(registry: FileRegistry) -> None:
    """Links to values are followed; links to folders (maybe in a circle) and fifos are told."""
    await registry.set("/config/a", "value")
    (registry.path / "config/link").symlink_to("a")
    assert await registry.read("/config") == {"/config/a": "value", "/config/link": "value"}
    (registry.path / "config/round").symlink_to(".")
    with pytest.raises(RegistryError, match="round is neither a value nor a folder"):
        await registry.read("/config")
    (registry.path / "config/round").unlink()
    os.mkfifo(registry.path / "config/fifo")
    with pytest.raises(RegistryError, match="fifo is neither"):
        await registry.read("/config")


async def test_a_linked_registry_is_read(registry: FileRegistry, tmp_path: Path) -> None:
    """The registry's own folder may be a link."""
    await registry.set("/a", "1")
    (tmp_path / "link").symlink_to(registry.path)
    assert await FileRegistry(tmp_path / "link").read("/") == {"/a": "1"}


async def test_new_values_are_private_and_old_modes_stay(registry: FileRegistry) -> None:
    """Values may be secrets; an administrator's own choice of mode survives a change."""
    await registry.set("/config/secret", "1")
    file = registry.path / "config/secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.chmod(0o644)
    await registry.set("/config/secret", "2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


async def test_an_unfinished_write_is_no_key(registry: FileRegistry) -> None:
    """What a crash left of a write shows in no listing and can be no key."""
    await registry.set("/config/a", "1")
    left = registry.path / "config/.cesbr-new-0123"
    left.write_text("half")
    assert await registry.read("/") == {"/config/a": "1"}
    assert await registry.children("/config") == ["a"]
    with pytest.raises(RegistryError, match="no registry key"):
        await registry.get("/config/.cesbr-new-0123")


async def test_readers_never_see_half_a_value(registry: FileRegistry) -> None:
    """While one thread writes two long values in turn, a reader sees always one of them, whole."""
    values = {"a" * 300_000, "b" * 300_000}
    await registry.set("/k", "a" * 300_000)
    done = threading.Event()

    async def write() -> None:
        for value in sorted(values) * 10:
            await registry.set("/k", value)
        done.set()

    seen = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while not done.is_set():
            seen.add(await registry.get("/k"))
    assert seen <= values
    assert [p.name for p in registry.path.iterdir()] == ["k"]


async def test_a_failed_write_leaves_the_old_value(
    registry: FileRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk refuses, the error names the key and nothing is left behind."""
    await registry.set("/config/a", "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cesbrfs.ces.registry.os.fsync", full)
    with pytest.raises(RegistryError, match=r"/config/a .*No space left on device"):
        await registry.set("/config/a", "new")
    assert [p.read_text() for p in (registry.path / "config").iterdir()] == ["old"]


async def test_unreadable_values_are_told(registry: FileRegistry) -> None:
    """A name that is too long for the file system is an error that names the key."""
    with pytest.raises(RegistryError, match="Cannot set the registry key /config/xxx"):
        await registry.set(f"/config/{'x' * 256}", "")
    with pytest.raises(RegistryError, match="Cannot read the registry key /config/xxx"):
        await registry.get(f"/config/{'x' * 256}")
