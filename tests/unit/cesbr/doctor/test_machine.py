"""What ``cesbr doctor`` finds on machines that lack something."""

from __future__ import annotations

from pathlib import Path

import pytest
from cesbr.doctor import machine
from cesbr.doctor.finding import Finding, State

from cesbrfs.config.settings import Flags, load
from tests.support.rights import open_directory, without_rights


async def test_a_machine_without_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is missing is named, and what to do about it."""
    monkeypatch.setattr(machine, "_DEVICE", tmp_path / "fuse")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = await machine.check_fuse()
    assert found.state is State.WARNING
    assert f"{tmp_path}/fuse cannot be opened (No such file or directory)" in found.found
    assert "fusermount3 is not installed; the shell works without it" in found.found
    assert found.action.endswith("container and install the package fuse3")


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("# comment\n user_allow_other\n", True),
        ("#user_allow_other\n", False),
        (None, False),
    ],
)
async def test_mounts_of_other_users(
    monkeypatch: pytest.MonkeyPatch, text: str | None, allowed: bool
) -> None:
    """Whether they may pass allow_other."""
    with open_directory() as directory:
        for name in ("fuse", "fusermount3"):
            (directory / name).touch()
            (directory / name).chmod(0o777)
        if text is not None:
            (directory / "fuse.conf").write_text(text)
        monkeypatch.setattr(machine, "_DEVICE", directory / "fuse")
        monkeypatch.setattr(machine, "_FUSE_CONF", directory / "fuse.conf")
        monkeypatch.setenv("PATH", str(directory))
        with without_rights():
            found = machine._fuse()
    verb = "allows" if allowed else "does not allow"
    assert (found.state, f"fuse.conf {verb} allow_other" in found.found) == (State.OK, True)


async def test_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that can be created, one that cannot be written, one that takes long to measure."""
    new = await machine.check_cache(tmp_path / "new/cache")
    assert (new.state, new.found) == (
        State.OK, f"{tmp_path}/new/cache does not exist yet and can be created",
    )  # fmt: skip
    with open_directory() as directory:
        directory.chmod(0o755)
        with without_rights():
            denied = machine._cache(directory / "new")
    assert denied.state is State.WARNING
    assert "cannot be written (Permission denied)" in denied.found
    (tmp_path / "file").write_bytes(bytes(9000))
    assert (await machine.check_cache(tmp_path)).found.endswith("can be written and has 12.0 KiB")
    monkeypatch.setattr(machine, "_MEASURE_SECONDS", -1.0)
    assert "has at least 0 B" in (await machine.check_cache(tmp_path)).found


async def test_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little space is a warning, almost none an error; a server's space is unknown."""
    settings = load(Flags(repository=str(tmp_path / "repo"), cache_dir=str(tmp_path)), {})

    async def states() -> list[State]:
        checks = (machine.check_cache_space, machine.check_repository_space)
        return [(await check(settings)).state for check in checks]

    monkeypatch.setattr(machine, "_LEAST", 1)
    monkeypatch.setattr(machine, "_LOW", 0.0)
    assert await states() == [State.OK] * 2
    monkeypatch.setattr(machine, "_LOW", 1.0)
    assert await states() == [State.WARNING] * 2
    monkeypatch.setattr(machine, "_LEAST", 1 << 80)
    assert await states() == [State.ERROR] * 2
    remote = await machine.check_repository_space(load(Flags(repository="rest:http://host/"), {}))
    assert remote.found == "not known: the repository is on a server"
    none = await machine.check_repository_space(load(Flags(), {}))
    assert none.found == "not checked: no repository is configured"


def test_the_text_of_a_finding() -> None:
    """It has one full stop at the end of each sentence."""
    assert Finding("x", State.OK, "found.", "Do it.").text == "found. Do it."
    assert Finding("x", State.OK, "found").text == "found."
