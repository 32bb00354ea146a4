"""key: list, add, remove and change the keys of a repository."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.sample.registry import encrypted, private_pem
from tests.shell.conftest import KEY, Cesbr, Inside, Site


def _keys(own: Cesbr) -> dict[str, bool]:
    """Return the IDs of all keys, and for each whether it is in use."""
    said = own("key", "list", "--json")
    assert said.code == 0, said.err
    assert isinstance(said.json, list)
    return {key["id"]: key["current"] for key in said.json}


def test_add_list_and_remove(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """An added key opens the repository until it is removed; the key in use stays."""
    (first,) = _keys(own)
    new = tmp_path / "new"
    new.write_text("another password\n")
    said = own("key", "add", "--new-password-file", str(new))
    assert said.code == 0, said.err
    keys = _keys(own)
    assert keys[first]
    (second,) = keys.keys() - {first}
    assert not keys[second]
    assert f"{second[:8]}" in said.out
    assert own("backups", "--password-file", str(new)).code == 0
    assert "in use" in own("key", "list").out
    assert own("key", "remove", first[:8], "--yes").code == 2
    assert own("key", "remove", "no-such-key", "--yes").code == 1
    assert own("key", "remove", second[:8]).code == 2, "there is no terminal to ask"
    said = own("key", "remove", second[:8], "--yes")
    assert said.code == 0, said.err
    assert _keys(own) == {first: True}
    assert own("backups", "--password-file", str(new)).code == 12


def test_a_generated_password_is_printed_by_add_only(own: Cesbr, site: Site) -> None:
    """Nobody could use the key otherwise; `change` stores it."""
    said = own("key", "add", "--generate", "--json")
    assert isinstance(said.json, dict)
    password = said.json["password"]
    assert own.having(RESTIC_PASSWORD=password)("backups").code == 0
    changed = own("key", "passwd", "--generate", "--yes", "--json")
    assert changed.code == 0, changed.err
    stored = (site.root / "var/lib/cesbr/registry/config/backup/encryption_key").read_text()
    assert stored not in changed.out + changed.err
    assert own("backups").code == 0
    assert own.having(RESTIC_PASSWORD=KEY)("backups").code == 12


def test_change_of_a_password_file(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """It keeps its mode and the symlink to it; nothing but the new password opens the backups."""
    file, link = tmp_path / "key-file", tmp_path / "link"
    file.write_bytes(KEY.encode())
    link.symlink_to(file)
    new = tmp_path / "new"
    new.write_text("a password without white space at its ends")
    assert own("key", "add", "--new-password-file", str(new)).code == 0
    file.write_bytes(new.read_bytes())
    file.chmod(0o640)
    new.write_text("the next password")
    files = ("--password-file", str(link), "--new-password-file", str(new))
    said = own("key", "change", *files, "--yes")
    assert said.code == 0, said.err
    assert str(link) in said.out
    assert link.is_symlink()
    assert file.read_text() == "the next password\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert own("backups", "--password-file", str(link)).code == 0
    assert not list((tmp_path / "state/cesbr/key-changes").iterdir())


def test_an_encrypted_value_stays_encrypted(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """The registry gets the new password in the form of the old one."""
    private = site.root / "var/lib/ces/redmine/volumes/_private/private.pem"
    private.parent.mkdir(parents=True)
    private.write_bytes(private_pem("redmine"))
    site.set("/config/backup/encryption_key", encrypted("redmine", KEY))
    stored = site.root / "var/lib/cesbr/registry/config/backup/encryption_key"
    new = tmp_path / "new"
    for password in ("short", "longer than 64 bytes, so encrypted with AES and RSA: " + "x" * 64):
        new.write_text(password)
        said = own("key", "change", "--new-password-file", str(new), "--yes")
        assert said.code == 0, said.err
        assert password not in stored.read_text()
        assert own("backups").code == 0
    assert len(_keys(own)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("remove",),
        ("list", "abcd"),
        ("add", "abcd"),
        ("list", "--generate"),
        ("add",),
        ("add", "--generate", "--new-password-file", "x"),
        ("add", "--new-password-file", "missing"),
        ("add", "--new-password-file", "/dev/null"),
        ("add", "--new-password-file", "long"),
    ],
)
def test_usage(inside: Inside, kept_site: Site, tmp_path: Path, wrong: tuple[str, ...]) -> None:
    """Nothing is changed by a command that is wrong."""
    (tmp_path / "long").write_text("x" * 5000)
    before = os.listdir(kept_site.repository / "keys")
    said = inside("key", *(str(tmp_path / "long") if word == "long" else word for word in wrong))
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert os.listdir(kept_site.repository / "keys") == before


def test_a_key_in_the_environment_cannot_be_changed(own: Cesbr, site: Site) -> None:
    """The message says how to replace it by hand."""
    said = own.having(RESTIC_PASSWORD=KEY)("key", "change", "--generate", "--yes")
    assert said.code == 2
    assert "RESTIC_PASSWORD" in said.err
    assert "key add" in said.err
    assert len(_keys(own)) == 1
