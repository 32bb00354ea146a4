"""Where a password is stored, and how a password file is replaced."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from cesbrfs.ces.registry import FileRegistry
from cesbrfs.ces.repository_config import ENCRYPTION_KEY
from cesbrfs.config.password import read_text
from cesbrfs.config.password_stores import PasswordFile, manual_source, password_stores
from cesbrfs.config.settings import Flags, load
from cesbrfs.errors import CesbrError, RegistryUnreachableError, UsageError
from cesbrfs.util.secret import Secret
from tests.support.killed import killed_at_each_step
from tests.support.rights import open_directory, without_rights

NEW = Secret(b"new password")


async def test_a_file_is_replaced(tmp_path: Path) -> None:
    """A symbolic link to it, its mode and its owner stay."""
    file, link = tmp_path / "real/key", tmp_path / "link"
    file.parent.mkdir()
    file.write_text("old")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 7, 8)
    before = file.stat()
    link.symlink_to(file)
    store = PasswordFile(link)
    await store.check(NEW)
    assert (await store.read() or Secret(b"")).value == b"old"
    await store.replace(NEW)
    after = file.stat()
    assert file.read_bytes() == b"new password\n"
    assert (await store.read() or Secret(b"")).value == NEW.value
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    assert link.is_symlink()
    assert os.listdir(file.parent) == ["key"]


def test_a_kill_leaves_one_of_both_passwords(tmp_path: Path) -> None:
    """The next replacement removes the temporary file."""
    file = tmp_path / "files/key"
    file.parent.mkdir()
    file.write_text("old")
    steps = 0
    for _ in killed_at_each_step(lambda: trio.run(PasswordFile(file).replace, NEW)):
        steps += 1
        assert file.read_bytes() in {b"old", b"new password\n"}
    assert steps > 2
    assert (file.read_bytes(), os.listdir(file.parent)) == (b"new password\n", ["key"])


async def test_files_that_cannot_be_replaced() -> None:
    """The reason is reported before anything is changed."""

    async def reason(file: Path) -> str:
        with pytest.raises(CesbrError, match="cannot be replaced: ") as caught:
            await PasswordFile(file).check(NEW)
        return caught.value.message

    with open_directory() as directory:
        os.mkfifo(directory / "fifo")
        (directory / "key").write_text("old")
        (directory / "loop").symlink_to("loop")
        assert "No such file" in await reason(directory / "missing")
        assert "not a regular file" in await reason(directory / "fifo")
        assert "not a regular file" in await reason(directory)
        assert "symbolic links" in await reason(directory / "loop")
        with pytest.raises(CesbrError, match="cannot be replaced: No such file"):
            await PasswordFile(directory / "missing").replace(NEW)
        assert await PasswordFile(directory / "missing").read() is None
        if os.geteuid() == 0:
            with without_rights():
                assert "belongs to another user" in await reason(directory / "key")
            os.chown(directory / "key", 65534, 65534)
            directory.chmod(0o755)
            with without_rights():
                assert f"{directory} is not writable" in await reason(directory / "key")
        assert (directory / "key").read_text() == "old"


async def test_all_places(tmp_path: Path) -> None:
    """Each file once, whatever names it, and the registry if it has a password."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    (tmp_path / "same").symlink_to("one")
    config = tmp_path / "config.toml"
    config.write_text(f'password_file = "{tmp_path}/missing"\n')
    registry = FileRegistry(tmp_path / "registry")
    flags = Flags(
        config=str(config), password_file=str(tmp_path / "one"), registry=str(registry.path)
    )
    environ = {
        "CESBR_PASSWORD_FILE": str(tmp_path / "same"),
        "RESTIC_PASSWORD_FILE": str(tmp_path / "two"),
    }
    settings = load(flags, environ)
    files = [str(tmp_path / name) for name in ("one", "two", "missing")]
    assert [store.name for store in await password_stores(settings, flags, environ)] == files
    await registry.set(ENCRYPTION_KEY, "three")
    *_, last = await password_stores(settings, flags, environ)
    assert last.name == f"{ENCRYPTION_KEY} in the registry {registry.address}"
    assert (await last.read() or Secret(b"")).value == b"three"


async def test_a_registry_that_cannot_be_reached(tmp_path: Path) -> None:
    """It is left out, unless the password in use comes from it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    flags = Flags(registry=f"http://127.0.0.1:{port}", password_file=str(tmp_path / "key"))
    settings = load(flags, {})
    (only,) = await password_stores(settings, flags, {})
    assert only.name == str(tmp_path / "key")
    settings.sources["password"] = "registry /config"  # type: ignore[index] # as after a lookup
    with pytest.raises(RegistryUnreachableError):
        await password_stores(settings, flags, {})


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        (Flags(password_file="/key"), {}, None),
        (Flags(), {"RESTIC_PASSWORD": "x"}, "RESTIC_PASSWORD"),
        (
            Flags(),
            {"RESTIC_PASSWORD_COMMAND": "pass"},
            "the output of the password command (environment RESTIC_PASSWORD_COMMAND)",
        ),
        (Flags(), {}, None),
    ],
)
def test_what_is_set_by_hand(flags: Flags, environ: dict[str, str], expected: str | None) -> None:
    """A variable and the output of a command cannot be replaced."""
    assert manual_source(load(flags, environ)) == expected


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("missing", "Correct the path."), (".", "Correct the path."), ("loop", "permissions.")],
)
def test_the_remedy_fits_the_error(tmp_path: Path, name: str, remedy: str) -> None:
    """A wrong path is not a matter of permissions."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError) as caught:
        read_text(tmp_path / name, "password file (flag)")
    assert caught.value.message.endswith(remedy)
