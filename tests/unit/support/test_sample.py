"""The sample instance contains what tests and the demo rely on."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sample import oddities
from tests.sample.dogus import DOGUS
from tests.sample.instance import Instance, build, change

_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make these")


@pytest.fixture(scope="module")
def sample(
    tmp_path_factory: pytest.TempPathFactory, make_instance: Callable[[Path], Instance]
) -> Instance:
    return make_instance(tmp_path_factory.mktemp("sample") / "root")


def _content(top: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and content of everything below `top`, without keys and encrypted data."""
    found = {}
    for path in sorted(top.rglob("*")):
        about = path.lstat()
        if path.suffix == ".pem" or "sa-" in path.parent.name:
            continue
        data = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        found[str(path.relative_to(top))] = (about.st_mode, about.st_mtime_ns, data)
    return found


def test_every_dogu_has_its_volumes_filled_and_a_private_key(sample: Instance) -> None:
    """All thirteen dogus, including volumes without backup and dogus without volumes."""
    assert len(sample.dogus) == 13
    for dogu in sample.dogus:
        for volume in dogu.volumes:
            directory = sample.volume(dogu.name, volume.name)
            assert any(path.is_file() for path in directory.rglob("*")), directory
        private = sample.volume(dogu.name, "_private") / "private.pem"
        assert private.exists() == bool(dogu.volumes)
    key = sample.volume("redmine", "_private") / "private.pem"
    assert key.read_bytes().startswith(b"-----BEGIN RSA PRIVATE KEY-----")


def test_registry_names_the_dogus_and_the_backup(sample: Instance) -> None:
    """Files contain the exact values; a removed dogu has versions but no current one."""
    registry = sample.registry
    assert (registry / "config/backup/encryption_key").read_text() == sample.key
    assert (registry / "config/backup/local_config/path").read_text() == str(sample.repository)
    for dogu in DOGUS:
        tree = "dogu" if dogu.only_v1 else "dogu_v2"
        assert (registry / tree / dogu.name / "current").read_text() == dogu.version
        described = json.loads((registry / tree / dogu.name / dogu.version).read_text())
        assert {key.lower() for key in described} >= {"name", "version", "volumes"}
    assert not (registry / "dogu_v2/usermgt").exists()
    assert not (registry / "dogu/cockpit/current").exists()
    assert (registry / "dogu/cockpit").is_dir()


def test_keys_of_descriptions_come_in_several_cases(sample: Instance) -> None:
    """dogu.json uses `Name`, `name` and `NAME`; mariadb omits NeedsBackup."""
    names = set()
    for path in (sample.registry / "dogu_v2").glob("*/*[0-9]"):
        names |= {key for key in json.loads(path.read_text()) if key.lower() == "name"}
    assert names == {"Name", "name", "NAME"}
    mariadb = next((sample.registry / "dogu_v2/mariadb").glob("1*")).read_text()
    assert "needsbackup" not in mariadb.lower()


def test_odd_names_are_there_byte_for_byte(sample: Instance) -> None:
    """Quotes, patterns, line breaks, invalid UTF-8, 255 bytes."""
    found = set(os.listdir(os.fsencode(sample.oddities / "names")))
    assert set(oddities.NAMES) <= found
    assert max(map(len, oddities.NAMES)) == 255
    with pytest.raises(UnicodeDecodeError):
        b"".join(oddities.NAMES).decode()


def test_links_are_links(sample: Instance) -> None:
    """Hard links in one directory and across two, symlinks to all kinds of targets."""
    links = sample.oddities / "links"
    assert (links / "here/one").stat().st_nlink == 3
    assert (links / "here/one").samefile(links / "there/three")
    assert (links / "to a directory").is_dir()
    assert os.path.isabs((links / "absolute").readlink())
    assert not (links / "dangling").exists()
    assert os.readlink(os.fsencode(links) + b"/to odd bytes \xfe") == "n\u00f6t ascii\n".encode()


def test_sparse_and_empty_files_are_so(sample: Instance) -> None:
    """Holes use no disk space, and empty files are empty."""
    shapes = sample.oddities / "shapes"
    for path in shapes.glob("*hole*"):
        about = path.stat()
        assert about.st_size >= oddities.HOLE_BYTES["tiny"]
        assert about.st_blocks * 512 < about.st_size // 2, path
    assert len(list(shapes.glob("*hole*"))) == 4
    assert (shapes / "empty file").stat().st_size == 0
    assert not list((shapes / "empty directory").iterdir())


def test_modes_times_and_attributes_are_kept(sample: Instance) -> None:
    """Special bits, nanoseconds, distant years, and an attribute with every byte value."""
    modes = sample.oddities / "modes"
    assert {stat.S_IMODE(path.stat().st_mode) for path in modes.iterdir()} >= {
        0o4755,
        0o2755,
        0o1777,
        0o7777,
    }
    for name, time_ns in oddities.TIMES_NS.items():
        if not any(note.startswith(f"time {name}") for note in sample.notes):
            assert (sample.oddities / "times" / name).stat().st_mtime_ns == time_ns
    if not any("user.binary" in note for note in sample.notes):
        path = sample.oddities / "attributes/binary value"
        assert os.getxattr(path, "user.binary") == bytes(range(256))
        acl = os.getxattr(sample.oddities / "attributes/acl", "system.posix_acl_access")
        assert len(acl) == 4 + 5 * 8


def test_special_files_are_special(sample: Instance) -> None:
    """A FIFO and a socket, neither of which can be read like a file."""
    special = sample.oddities / "special"
    assert (special / "fifo").is_fifo()
    assert (special / "socket").is_socket()


@_AS_ROOT
def test_root_gets_owners_closed_files_and_capabilities(sample: Instance) -> None:
    """Files that only root can create exist if root builds it."""
    ldap = next(sample.volume("ldap", "db").glob("*.mdb")).stat()
    assert (ldap.st_uid, ldap.st_gid) == (100, 101)
    assert (sample.oddities / "owners/large ids").stat().st_uid == 3_000_000_000
    assert stat.S_IMODE((sample.oddities / "modes/nothing allowed").stat().st_mode) == 0
    if not any("capability" in note for note in sample.notes):
        path = sample.oddities / "attributes/capability"
        assert os.getxattr(path, "security.capability")
    if not any("device" in note for note in sample.notes):
        about = (sample.oddities / "special/null").stat()
        assert stat.S_ISCHR(about.st_mode)
        assert about.st_rdev == os.makedev(1, 3)


def test_two_builds_are_alike(sample: Instance, tmp_path: Path) -> None:
    """Only the keys depend on the time and place of the build."""
    again = build(tmp_path / "again", repository=sample.repository)
    assert _content(again.root) == _content(sample.root)


def test_changes_edit_add_delete_rename_and_update(tmp_path: Path) -> None:
    """A day of changes has every kind of difference, and another day different ones."""
    instance = build(tmp_path / "root")
    seen = [_content(instance.root)]
    for day in (1, 2):
        change(instance.root, day=day)
        seen.append(_content(instance.root))
        before, after = seen[-2:]
        assert after.keys() - before.keys()
        assert before.keys() - after.keys()
        edited = [path for path in before.keys() & after.keys() if before[path] != after[path]]
        assert any(stat.S_ISREG(after[path][0]) for path in edited)
        version = (instance.registry / "dogu_v2/redmine/current").read_text()
        assert version == f"6.1.3-{2 + day}"
