"""Both registries: keys, folders and values; of the file registry also what lies on the disk."""

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
    """Without a registry, or a key in it, every read finds nothing."""
    assert await registry.get("/config/backup/active") is None
    assert await registry.read("/") == {}
    assert await registry.children("/dogu") == []
    await registry.delete("/config/x")
    assert await registry.read("/") == {}


@pytest.mark.parametrize("value", ["", "exact", " spaces \n", "zwei\r\nZeilen \N{ROCKET}\0"])
async def test_values_are_kept_exactly(registry: Registry, value: str) -> None:
    """Every character of a value comes back, and the leading slash of a key may be missing."""
    await registry.set("/config/redmine/logging/root", value)
    assert await registry.get("config/redmine/logging/root") == value


async def test_read_is_recursive_flat_and_sorted(registry: Registry) -> None:
    """A prefix covers whole parts only, and may itself be a key."""
    for key in ("/config/b/y", "/config/b/x/z", "/config/bb", "/config/a", "/dogu/b/current"):
        await registry.set(key, key)
    assert list(await registry.read("/config/b")) == ["/config/b/x/z", "/config/b/y"]
    assert await registry.read("/config/a/") == {"/config/a": "/config/a"}
    assert list(await registry.read("/")) == sorted(await registry.read(""))
    assert len(await registry.read("/")) == 5
    assert await registry.children("/config") == ["a", "b", "bb"]
    assert await registry.children("/config/a") == []


async def test_changes_are_watched(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change below the prefix shows, others do not, and neither does a value set again."""
    monkeypatch.setattr("cesbrfs.ces.registry._LOOK_AGAIN_SECONDS", 0.01)
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
async def test_keys_stay_inside(registry: Registry, key: str) -> None:
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
    assert await registry.read("/") == {}


async def test_a_key_is_a_value_or_a_folder(registry: Registry) -> None:
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
    await registry.delete("/config/a/below")
    await registry.delete("/config/b/c/below")
    assert await registry.children("/config") == ["a", "b"]


@pytest.mark.parametrize("key", ["", "/"])
async def test_the_root_is_no_key(registry: Registry, key: str) -> None:
    """The registry as a whole has no value."""
    with pytest.raises(RegistryError):
        await registry.get(key)
    with pytest.raises(RegistryError):
        await registry.set(key, "x")


async def test_deleting_removes_emptied_folders(registry: Registry) -> None:
    """After the last key below a folder is gone, the folder's name can become a key."""
    await registry.set("/dogu/redmine/current", "1")
    await registry.set("/dogu/other", "1")
    await registry.delete("/dogu/redmine/current")
    await registry.delete("/dogu/redmine/current")
    assert await registry.children("/dogu") == ["other"]
    await registry.set("/dogu/redmine", "now a value")
    await registry.delete("/dogu/redmine")
    await registry.delete("/dogu/other")
    assert await registry.children("/") == []


async def test_replacing_compares_first(registry: Registry) -> None:
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


@pytest.mark.parametrize(
    "part", ["a b", "100%", "%2e", "a?b#c", "registrator:x:80", "\N{ROCKET}", "+"]
)
async def test_odd_names(registry: Registry, part: str) -> None:
    """Whatever a file may be called can be a key's part."""
    await registry.set(f"/services/{part}/x", part)
    assert await registry.read("/services") == {f"/services/{part}/x": part}
    assert await registry.children("/services") == [part]
    assert await registry.get(f"/services/{part}/x") == part
    assert await registry.replace(f"/services/{part}/x", None, part)
    assert await registry.children("/") == []


async def test_hidden_names_are_there_by_name(registry: Registry) -> None:
    """What begins with "_" is found by those who ask for it, whatever the listings show."""
    await registry.set("/config/_global/fqdn", "ces.example.org")
    await registry.set("/config/redmine/a", "1")
    assert await registry.read("/config/_global") == {"/config/_global/fqdn": "ces.example.org"}
    assert await registry.children("/config/_global") == ["fqdn"]
    assert await registry.get("/config/_global/fqdn") == "ces.example.org"
    assert set(await registry.read("/config")) >= {"/config/redmine/a"}


async def test_of_two_writers_one_waits(registry: Registry) -> None:
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


# The file registry alone


@pytest.fixture
def files(tmp_path: Path) -> FileRegistry:
    """Return an empty registry whose folder does not exist yet."""
    return FileRegistry(tmp_path / "var/registry")


async def test_the_file_mirrors_the_key(files: FileRegistry) -> None:
    """A file holds the value's UTF-8 bytes, nothing else; only a value makes a folder."""
    assert await files.read("/") == {}
    await files.delete("/config/x")
    assert not files.path.exists()
    await files.set("/config/redmine/logging/root", "zwei\r\nZeilen \N{ROCKET}\0")
    file = files.path / "config/redmine/logging/root"
    assert file.read_bytes() == "zwei\r\nZeilen \N{ROCKET}\0".encode()
    await files.delete("/config/redmine/logging/root")
    assert list(files.path.iterdir()) == []


async def test_other_bytes_are_refused_by_name(files: FileRegistry) -> None:
    """A value that is no UTF-8 names its key, in a single read and in one of many."""
    await files.set("/config/a", "fine")
    (files.path / "config/b").write_bytes(b"\xff\xfe")
    for call in (files.get("/config/b"), files.read("/config")):
        with pytest.raises(RegistryError, match="/config/b does not hold UTF-8"):
            await call


async def test_names_that_are_no_keys_are_told(files: FileRegistry) -> None:
    """A file whose name cannot be a key is reported, not skipped."""
    await files.set("/config/a", "fine")
    (files.path / os.fsdecode(b"config/\xff")).touch()
    with pytest.raises(RegistryError, match=r"not UTF-8, b'\\xff'"):
        await files.read("/config")


async def test_only_files_and_folders_hold_keys(files: FileRegistry) -> None:
    """Links to values are followed; links to folders (maybe in a circle) and fifos are told."""
    await files.set("/config/a", "value")
    (files.path / "config/link").symlink_to("a")
    assert await files.read("/config") == {"/config/a": "value", "/config/link": "value"}
    (files.path / "config/round").symlink_to(".")
    with pytest.raises(RegistryError, match="round is neither a value nor a folder"):
        await files.read("/config")
    (files.path / "config/round").unlink()
    os.mkfifo(files.path / "config/fifo")
    with pytest.raises(RegistryError, match="fifo is neither"):
        await files.read("/config")


async def test_a_linked_registry_is_read(files: FileRegistry, tmp_path: Path) -> None:
    """The registry's own folder may be a link."""
    await files.set("/a", "1")
    (tmp_path / "link").symlink_to(files.path)
    assert await FileRegistry(tmp_path / "link").read("/") == {"/a": "1"}


async def test_new_values_are_private_and_old_modes_stay(files: FileRegistry) -> None:
    """Values may be secrets; an administrator's own choice of mode survives a change."""
    await files.set("/config/secret", "1")
    file = files.path / "config/secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.chmod(0o644)
    await files.set("/config/secret", "2")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


async def test_an_unfinished_write_is_no_key(files: FileRegistry) -> None:
    """What a crash left of a write shows in no listing and can be no key."""
    await files.set("/config/a", "1")
    left = files.path / "config/.cesbr-new-0123"
    left.write_text("half")
    assert await files.read("/") == {"/config/a": "1"}
    assert await files.children("/config") == ["a"]
    with pytest.raises(RegistryError, match="no registry key"):
        await files.get("/config/.cesbr-new-0123")


async def test_readers_never_see_half_a_value(files: FileRegistry) -> None:
    """While one thread writes two long values in turn, a reader sees always one of them, whole."""
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
    """When the disk refuses, the error names the key and nothing is left behind."""
    await files.set("/config/a", "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cesbrfs.ces.registry.os.fsync", full)
    with pytest.raises(RegistryError, match=r"/config/a .*No space left on device"):
        await files.set("/config/a", "new")
    assert [p.read_text() for p in (files.path / "config").iterdir()] == ["old"]


async def test_unreadable_values_are_told(files: FileRegistry) -> None:
    """A name that is too long for the file system is an error that names the key."""
    with pytest.raises(RegistryError, match="Cannot set the registry key /config/xxx"):
        await files.set(f"/config/{'x' * 256}", "")
    with pytest.raises(RegistryError, match="Cannot read the registry key /config/xxx"):
        await files.get(f"/config/{'x' * 256}")
