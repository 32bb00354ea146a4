"""The Debian package: content, lintian, and its life from installation to purge."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs import __version__
from cesbrfs.config.layers import TOML_KEYS
from tests.packaging.conftest import missing
from tests.sample.instance import build
from tests.support.debian_root import DebianRoot, missing_for_root, running_root
from tests.support.mounting import fuse_missing
from tests.support.project import PROJECT
from tests.support.restic_repo import create

pytestmark = pytest.mark.timeout(900)

_REPORT = "redmine/volumes/files/report.txt"
_CONFIG = 'repository = "/srv/repo"\npassword_file = "/srv/key"\nroot = "/srv/instance"\n'
_UNITS = ("cesbrfs.service", "backups.mount", "backups.automount")


def _field(deb: Path, name: str) -> str:
    done = subprocess.run(["dpkg-deb", "-f", deb, name], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _content(deb: Path) -> dict[str, str]:
    """Return the mode and owner of each file, by path."""
    done = subprocess.run(["dpkg-deb", "-c", deb], check=True, capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines():
        mode, owner, _, _, _, path, *_ = line.split()
        found[path.removeprefix(".")] = f"{mode} {owner}"
    return found


def test_content(deb: Path) -> None:
    """Programs, manual pages, completions, unit and configuration are at their usual places."""
    files = _content(deb)
    assert {owner.split()[1] for owner in files.values()} == {"root/root"}
    programs = ("/usr/bin/cesbr", "/usr/bin/cesbrfs", "/usr/sbin/mount.fuse.cesbrfs")
    assert {files[program] for program in programs} == {"-rwxr-xr-x root/root"}
    assert files["/etc/cesbr/config.toml"] == "-rw------- root/root"
    for path in (
        "/usr/share/man/man1/cesbr.1.gz",
        "/usr/share/man/man1/cesbrfs.1.gz",
        "/usr/share/bash-completion/completions/cesbr",
        "/usr/share/zsh/vendor-completions/_cesbr",
        "/usr/share/fish/vendor_completions.d/cesbr.fish",
        "/usr/lib/systemd/system/cesbrfs.service",
        "/usr/share/doc/cesbrfs/copyright",
        "/usr/share/doc/cesbrfs/changelog.gz",
        "/usr/share/doc/cesbrfs/examples/backups.automount",
    ):
        assert files[path] == "-rw-r--r-- root/root"
    assert not [path for path in files if "__pycache__" in path or str(PROJECT) in path]


def test_control(deb: Path) -> None:
    """The version is the project's; the dependencies are what the programs need."""
    assert _field(deb, "Version").startswith(f"{__version__}-1+")
    python = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    depends = {word.split()[0] for word in _field(deb, "Depends").split(", ")}
    assert {"fuse3", python, "libc6"} < depends
    assert not [name for name in depends if re.search(r"gcc$|-dev$|-venv$|pip", name)]
    assert {"restic", "openssh-client"} < set(_field(deb, "Recommends").split(", "))


def test_lintian(deb: Path) -> None:
    """Lintian reports neither errors nor warnings beyond the overrides."""
    if shutil.which("lintian") is None:
        missing("no lintian on PATH; `.ci/apt-packages servers` installs it")
    done = subprocess.run(
        ["lintian", "--fail-on", "error,warning", "--tag-display-limit", "0", deb],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_example_configuration() -> None:
    """Every line is a comment; every setting is in it, and valid TOML without its '#'."""
    text = (PROJECT / "shell/cesbr/config.toml").read_text()
    assert tomllib.loads(text) == {}
    assert set(tomllib.loads(re.sub(r"^#(?! )", "", text, flags=re.MULTILINE))) == TOML_KEYS


@pytest.fixture
def system(tmp_path: Path) -> Iterator[DebianRoot]:
    """A disposable system with a sample instance in /srv/instance."""
    reason = missing_for_root()
    if reason:
        pytest.skip(reason)
    overlay, srv = tmp_path / "overlay", tmp_path / "srv"
    overlay.mkdir()
    srv.mkdir()
    build(srv / "instance", scale="tiny")
    (srv / "instance/var/lib/ces" / _REPORT).write_text("the report\n")
    (srv / "key").write_text("a throw-away key\n")
    with running_root(overlay, srv) as started:
        yield started


def _next_version(deb: Path, directory: Path) -> Path:
    """Return the package with a higher version, and one module under another name."""
    directory.mkdir()
    root = directory / "root"
    subprocess.run(["dpkg-deb", "-R", deb, root], check=True)
    control = root / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"{__version__}-1+", f"{__version__}-2+"))
    (module,) = root.glob("usr/lib/cesbrfs/lib/*/site-packages/cesbrfs/__main__.py")
    module.rename(module.with_name("renamed.py"))
    built = directory / "next.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, built],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return built


def test_life_of_the_package(deb: Path, system: DebianRoot) -> None:
    """Install, back up, restore, mount, upgrade, remove, and purge without leftovers."""
    before = system.added()
    system.run("sh", "-c", "! command -v gcc")
    shutil.copy(deb, system.srv / "cesbrfs.deb")
    system.run("dpkg", "--install", "/srv/cesbrfs.deb")
    assert system.run("cesbr", "--version") == f"cesbr {__version__}\n"
    assert system.run("cesbrfs", "--version") == f"cesbrfs {__version__}\n"
    config = system.path("/etc/cesbr/config.toml")
    with config.open("a") as file:
        file.write(_CONFIG)
    written = config.read_text()

    system.run("cesbr", "init")
    system.run("cesbr", "backup")
    assert "report.txt" in system.run("cesbr", "ls", "latest/redmine/volumes/files")
    system.run("cesbr", "restore", "--yes", "--backup", "latest", _REPORT, "--target", "/srv/back")
    original = system.srv / "instance/var/lib/ces" / _REPORT
    assert (system.srv / "back" / _REPORT).read_bytes() == original.read_bytes()

    mounted = fuse_missing() is None
    if mounted:
        _mount_through_fstab(system)
    _verify_units(system)

    shutil.copy(_next_version(deb, system.srv / "next"), system.srv / "next.deb")
    system.run("dpkg", "--install", "/srv/next.deb")
    assert config.read_text() == written
    renamed = {Path(path).name for path in system.added() if "/site-packages/cesbrfs/" in path}
    assert "renamed.py" in renamed
    assert not [name for name in renamed if name.startswith("__main__.")]
    if mounted:  # by the old version
        assert system.run("cat", f"/backups/latest/{_REPORT}") == original.read_text()
        system.run("umount", "/backups")

    system.run("dpkg", "--remove", "cesbrfs")
    assert config.read_text() == written
    system.run("dpkg", "--purge", "cesbrfs")
    system.run("rmdir", "/backups")
    system.run("sh", "-c", "rm -f /etc/systemd/system/backups.*")
    assert system.added() == before


def _mount_through_fstab(system: DebianRoot) -> None:
    """Mount with cesbr and with the helper of mount(8), and leave the second mount in place."""
    fstab = system.path("/etc/fstab")
    fstab.write_text("cesbrfs /backups fuse.cesbrfs allow_other,nofail,_netdev 0 0\n")
    system.run("mkdir", "/backups")
    system.run("cesbr", "mount", "/backups")
    system.run("cesbr", "umount", "/backups")
    system.run("mount", "--fake", "/backups")
    system.run("mountpoint", "/backups", code=32)
    system.run("mount", "/backups")
    assert "fuse.cesbrfs" in system.run("findmnt", "-no", "FSTYPE,OPTIONS", "/backups")
    refused = system.run("mount.fuse.cesbrfs", "cesbrfs", "/backups", "-N", "1", code=1)
    assert "-N" in refused
    system.run("ls", "/backups/latest/redmine")


def _verify_units(system: DebianRoot) -> None:
    """Systemd accepts the unit and the examples."""
    if shutil.which("systemd-analyze") is None:
        return
    system.run("sh", "-c", "cp /usr/share/doc/cesbrfs/examples/backups.* /etc/systemd/system")
    assert system.run("systemd-analyze", "verify", *_UNITS) == ""


_SERVICE = r"""
systemctl start cesbrfs.service
ls /backups
systemctl reload cesbrfs.service
cat /backups/b1/backup.json
systemctl stop cesbrfs.service
if mountpoint /backups; then exit 1; fi
systemctl start backups.mount
cat /backups/b1/backup.json
systemctl stop backups.mount
if mountpoint /backups; then exit 1; fi
chown -R backup /srv/repo /srv/key /etc/cesbr/config.toml
printf '[Service]\nEnvironment=OPTIONS=allow_other,drop_privileges=backup\n' \
  >/etc/systemd/system/cesbrfs.service.d/user.conf
systemctl daemon-reload
systemctl start cesbrfs.service
cat /backups/b1/backup.json
systemctl reload cesbrfs.service
test "$(stat -c %U /proc/$(systemctl show -P MainPID cesbrfs.service))" = backup
systemctl stop cesbrfs.service
if mountpoint /backups; then exit 1; fi
systemctl start cesbrfs.service
dpkg --remove cesbrfs
if mountpoint /backups; then exit 1; fi
"""


@pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))
def test_units_under_systemd(deb: Path, system: DebianRoot, restic_new: Path) -> None:
    """With its restrictions, the service mounts, reloads, stops, and is stopped by a removal."""
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("no systemd on this machine")
    repo = create(restic_new, system.srv / "repo")
    repo.backup(system.srv / "key", tags=["b1"], cwd=system.srv)
    shutil.copy(deb, system.srv / "cesbrfs.deb")
    system.run("dpkg", "--install", "/srv/cesbrfs.deb")
    system.run("mkdir", "/backups")
    (system.srv / "key").write_text(repo.password)
    system.path("/etc/cesbr/config.toml").write_text(_CONFIG)
    units = system.path("/etc/systemd/system")
    shutil.copy(PROJECT / "packaging/systemd/backups.mount", units)
    for unit in ("cesbrfs.service", "backups.mount"):  # start no other unit of this machine
        (units / f"{unit}.d").mkdir()
        (units / f"{unit}.d/test.conf").write_text("[Unit]\nDefaultDependencies=no\n")
    code, output = system.run_under_systemd(_SERVICE)
    assert code == 0, output
