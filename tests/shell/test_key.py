"""key: passwords are listed, added, changed and removed, and nobody is ever locked out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from cesbrfs.ces.private_keys import PrivateKeys
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.ces.repository_config import ENCRYPTION_KEY, configured_key
from cesbrfs.key_rotation import obsolete_keys, opened_key, owner
from cesbrfs.repo.location import Access
from cesbrfs.restic.events import RepositoryKey
from cesbrfs.util.secret import Secret
from tests.sample import registry as sample_registry
from tests.shell.conftest import KEY, Cesbr, Inside, Site
from tests.shell.terminal import terminal
from tests.support.killed import killed_at_each_step
from tests.support.restic_repo import ResticRepo, cheapen_key, reseal

NEW = "another password"
TYPED = "typed by hand"
HOST = os.uname().nodename


@pytest.fixture
def own(empty_site: Site, restic_old: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """Commands in this process, on a repository that the test may change."""
    monkeypatch.setenv("CESBR_RESTIC", str(restic_old))
    made = Inside(empty_site.root)
    yield made
    made.close()


@pytest.fixture
def new_file(tmp_path: Path) -> Path:
    """A file with the new password."""
    file = tmp_path / "new"
    file.write_text(f"{NEW}\n")
    return file


def _listed(own: Inside) -> list[Any]:
    said = own("key", "list", "--json")
    assert said.code == 0, said.err
    found = said.json
    assert isinstance(found, list)
    return found


def _opened(site: Site, password: bytes) -> str | None:
    return trio.run(opened_key, Access(str(site.repository), Secret(b"")), Secret(password))


def _registered(site: Site) -> bytes:
    return (site.root / "var/lib/cesbr/registry/config/backup/encryption_key").read_bytes()


def test_add_and_remove(own: Inside, empty_site: Site, new_file: Path) -> None:
    """The key in use and the last key cannot be removed; the new password opens the repository."""
    (first,) = _listed(own)
    assert (first["current"], first["created"][-1]) == (True, "Z")
    said = own("key", "remove", first["id"], "-y")
    assert (said.code, "is the last key" in said.err) == (2, True)
    said = own("key", "add", "--new-password-file", str(new_file), "--user", "emergency", "-y")
    assert (said.code, said.out.startswith("Added key ")) == (0, True), said.err
    cheapen_key(ResticRepo(Path(), empty_site.repository, NEW))
    second = next(key for key in _listed(own) if not key["current"])
    assert (second["user"], second["host"], second["replaces"]) == ("emergency", HOST, None)
    assert _registered(empty_site).decode() == KEY
    said = own("key", "add", "--new-password-file", str(new_file), "-y")
    assert said.out == f"Key {second['id'][:8]} has this password already.\n"
    said = own("key", "remove", first["id"], "-y")
    assert (said.code, "is in use" in said.err) == (2, True)
    assert own("key", "remove", "f" * 9, "-y").code == 2
    assert own("key", "remove", second["id"][:6], "--dry-run").code == 0
    said = own("key", "remove", second["id"][:6], "-y")
    assert (said.code, said.out) == (0, f"Removed key {second['id'][:8]}.\n")
    assert _listed(own) == [first]
    for wrong in (("remove",), ("list", "x"), ("add", "--generate"), ("list", "--use")):
        assert own("key", *wrong, "-y").code == 2
    new_file.write_text(" \n")
    assert own("key", "change", "--new-password-file", str(new_file), "-y").code == 2


@pytest.mark.parametrize("repeated", [TYPED, "a typing error", ""])
def test_a_password_that_is_typed(
    cesbr: Cesbr, empty_site: Site, tmp_path: Path, repeated: str
) -> None:
    """It is asked for twice, and never shown."""
    here = cesbr.having(CESBR_ROOT=str(empty_site.root))
    with terminal(here, tmp_path, "key", "add", "-y") as typing:
        typing.wait_for(r"^New password:\Z")
        typing.line(TYPED if repeated else "")
        typing.wait_for(r"^Repeat new password:\Z")
        typing.line(repeated)
        code = typing.exit_code()
        screen = typing.screen()
    assert TYPED not in screen
    if repeated == TYPED:
        assert (code, "Added key " in screen) == (0, True), screen
        assert _opened(empty_site, TYPED.encode()) is not None
    else:
        why = "The passwords differ." if repeated else "The new password is empty."
        assert (code, why in screen) == (2, True), screen
        assert len(list((empty_site.repository / "keys").iterdir())) == 1


def test_a_password_without_a_terminal(own: Inside) -> None:
    """Nobody can type it."""
    said = own("key", "add", "-y")
    assert (said.code, "There is no terminal" in said.err) == (2, True)


def _is_step(event: str, arguments: Any) -> bool:
    """Return whether the process is about to run restic on the keys, or to replace a password."""
    if event == "subprocess.Popen":
        return "key" in arguments[1] or "cat" in arguments[1]
    return event == "os.rename" and ".cesbr-" in str(arguments[0])


def test_a_killed_change_never_locks_out(
    empty_site: Site,
    restic_old: Path,
    new_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a kill before each step, every stored password opens the repository."""
    old_password = KEY.strip()
    reseal(ResticRepo(Path(), empty_site.repository, KEY), old_password)
    empty_site.set(ENCRYPTION_KEY, old_password)
    stored = tmp_path / "password"
    stored.write_text(old_password)
    stored.chmod(0o640)
    monkeypatch.setenv("CESBR_RESTIC", str(restic_old))
    monkeypatch.setenv("CESBR_PASSWORD_FILE", str(stored))
    old = _opened(empty_site, old_password.encode())

    def work() -> None:
        made = Inside(empty_site.root)
        said = made("key", "change", "--new-password-file", str(new_file), "-y")
        assert said.code == 0, said.err

    steps = 0
    for step in killed_at_each_step(work, is_step=_is_step):
        steps += 1
        cheapen_key(ResticRepo(Path(), empty_site.repository, NEW))
        assert _opened(empty_site, stored.read_bytes().strip()), step
        assert _opened(empty_site, _registered(empty_site)), step
        if steps == 1:
            assert _opened(empty_site, NEW.encode()) is None
    assert steps >= 6
    assert stored.read_text() == f"{NEW}\n"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o640
    assert _registered(empty_site).decode() == NEW
    assert old is not None
    assert [name[:8] == old for name in os.listdir(empty_site.repository / "keys")] == [False]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".cesbr-")]


def test_a_password_in_the_environment(
    own: Inside, empty_site: Site, new_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left to the user, and the old key is kept until a second run."""
    monkeypatch.setenv("RESTIC_PASSWORD", KEY)
    first = Inside(empty_site.root)
    assert first("key", "change", "--generate", "-y").code == 2
    said = first("key", "change", "--new-password-file", str(new_file), "-y")
    assert said.code == 3, said.err
    assert "Set RESTIC_PASSWORD to the new one." in said.err
    cheapen_key(ResticRepo(Path(), empty_site.repository, NEW))
    assert len(_listed(first)) == 2
    first.close()
    monkeypatch.setenv("RESTIC_PASSWORD", NEW)
    second = Inside(empty_site.root)
    assert "An interrupted change has left key" in second("key", "list").err
    said = second("key", "change", "--generate", "-y", "--json")
    assert said.code == 0, said.err
    assert len(_listed(second)) == 1
    second.close()


def test_an_encrypted_password_stays_encrypted(own: Inside, empty_site: Site) -> None:
    """A generated password is printed only on request; the shell continues with it."""
    pem = empty_site.root / "var/lib/ces/redmine/volumes/_private/private.pem"
    pem.parent.mkdir()
    pem.write_bytes(sample_registry.private_pem("redmine"))
    empty_site.set(ENCRYPTION_KEY, sample_registry.encrypted("redmine", KEY))
    said = own("key", "change", "--generate", "-y", "--json")
    assert said.code == 0, said.err
    assert isinstance(said.json, dict)
    assert set(said.json) == {"key", "added", "stored", "removed", "by_hand"}
    registry = FileRegistry(empty_site.root / "var/lib/cesbr/registry")
    stored = trio.run(configured_key, registry, PrivateKeys(empty_site.root))
    assert stored is not None
    assert _opened(empty_site, stored.value) == _listed(own)[0]["id"][:8]
    assert stored.value not in _registered(empty_site)


def test_what_an_interrupted_change_leaves() -> None:
    """Only keys in the line of the key in use are removed, and only those of this host."""
    used = RepositoryKey("aaaaaaaa", current=True, user_name="root", host_name=HOST)
    lost = RepositoryKey("bbbbbbbb", user_name="root, replaces aaaaaaaa", host_name=HOST)
    other = RepositoryKey("cccccccc", user_name="root, replaces aaaaaaaa", host_name="other")
    spare = RepositoryKey("dddddddd", user_name="emergency", host_name=HOST)
    keys = [used, lost, other, spare]
    assert obsolete_keys(keys, None) == [used, lost]
    assert obsolete_keys(keys, "bbbbbbbb") == [used]
    assert obsolete_keys(keys, "aaaaaaaa") == []
    new = RepositoryKey("eeeeeeee", current=True, user_name="x, replaces dddddddd")
    assert obsolete_keys([spare, new], "eeeeeeee") == [spare]
    assert owner(lost) == f"root@{HOST}"
