"""A mount that drops root."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.fuse.privileges import find_user
from tests.mount.test_life import wait_until
from tests.support.mounting import environment, is_mounted
from tests.support.project import PROJECT
from tests.support.restic_repo import ResticRepo, create

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can drop root")

_USER = "nobody"
_SECONDS = 60


def as_user(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command as the other user."""
    return subprocess.run(
        ["setpriv", f"--reuid={_USER}", "--regid=nogroup", "--clear-groups", *command],
        check=False, capture_output=True, timeout=_SECONDS,
    )  # fmt: skip


@pytest.fixture(scope="module")
def python() -> tuple[str, str]:
    """A Python that the other user can run with our packages, and its PYTHONPATH."""
    path = os.pathsep.join((str(PROJECT), sysconfig.get_path("purelib")))
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, system):
        command = ("env", f"PYTHONPATH={path}", program, "-c", "import pyfuse3, cesbrfs.fuse.mount")
        if os.path.exists(program) and as_user(*command).returncode == 0:
            return program, path
    pytest.skip(f"{_USER} can run neither {sys.executable} nor {system} with our packages")


@dataclass
class Site:
    """A directory that all users can enter, with a repository and a mountpoint."""

    top: Path
    repo: ResticRepo
    python: tuple[str, str]

    @property
    def mountpoint(self) -> Path:
        """Where to mount."""
        return self.top / "mount"

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``cesbrfs``, which returns once the mount answers."""
        program, path = self.python
        variables = {**environment(self.repo.access), "PYTHONPATH": path}
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.run(
            [program, "-m", "cesbrfs", self.mountpoint, "--log", self.top / "log", *arguments,
             "-o", f"cache_dir={self.top / 'cache'}"],
            env=variables, check=False, capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip

    def process(self) -> int:
        """Return the process of the mount."""
        status = json.loads((self.mountpoint / ".cesbrfs/status.json").read_text())
        assert isinstance(status["pid"], int)
        return status["pid"]


@pytest.fixture(scope="module")
def site(restic_new: Path, python: tuple[str, str]) -> Iterator[Site]:
    """A repository that the other user owns."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        volume = top / "var/lib/ces/redmine/volumes/files"
        volume.mkdir(parents=True)
        (volume / "note.txt").write_text("hello\n")
        (volume / "private.txt").write_text("secret\n")
        (volume / "private.txt").chmod(0o600)
        repo = create(restic_new, top / "repo")
        repo.backup(volume, tags=["b1"])
        repo.backup(tags=["b1", "kind=registry"], stdin=("/registry.json", b"{}"))
        (top / "mount").mkdir()
        (top / "cache").mkdir()
        (top / "log").touch()
        subprocess.run(
            ["chown", "-R", _USER, repo.directory, top / "cache", top / "log"], check=True
        )
        try:
            yield Site(top, repo, python)
        finally:
            if is_mounted(top / "mount"):
                subprocess.run(["umount", "-l", top / "mount"], check=False)


def fields(pid: int | str) -> dict[str, list[str]]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def test_the_process_has_no_privileges(site: Site) -> None:
    """All threads have the IDs of the user and no capabilities; the mount is still that of root."""
    done = site.start("--drop-privileges", _USER, "-o", "allow_other")
    assert (done.returncode, done.stderr) == (0, "")
    user, pid = pwd.getpwnam(_USER), site.process()
    for thread in os.listdir(f"/proc/{pid}/task"):
        status = fields(f"{pid}/task/{thread}")
        assert status["Uid"] == [str(user.pw_uid)] * 4
        assert status["Gid"] == [str(user.pw_gid)] * 4
        assert {*status["Groups"]} <= {*map(str, os.getgrouplist(_USER, user.pw_gid))}
        assert {int(status[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == ["1"]
    files = site.mountpoint / "b1/redmine/volumes/files"
    assert as_user("cat", files / "note.txt").stdout == b"hello\n"
    assert as_user("cat", files / "private.txt").returncode != 0
    registry = site.mountpoint / "b1/_instance/registry.json"
    assert as_user("cat", registry).returncode != 0
    assert registry.read_text() == "{}"
    made = list((site.top / "cache").rglob("*"))
    assert made
    assert {path.lstat().st_uid for path in made} == {user.pw_uid}
    subprocess.run(["umount", site.mountpoint], check=True)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))


def end_by_signal(_site: Site, pid: int) -> None:
    """Let the user end the process."""
    assert as_user("kill", str(pid)).returncode == 0


def end_by_crash(_site: Site, pid: int) -> None:
    """Kill the process."""
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("end", [end_by_signal, end_by_crash])
def test_it_ends(site: Site, end: Callable[[Site, int], None]) -> None:
    """It can be unmounted and ended as any other; after a crash the next start replaces it."""
    assert site.start("-o", f"drop_privileges={_USER}").returncode == 0
    pid = site.process()
    (helper,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert fields(helper)["Uid"] == ["0"] * 4
    end(site, pid)
    wait_until(lambda: not any(os.path.exists(f"/proc/{each}") for each in (pid, helper)))
    assert is_mounted(site.mountpoint) == (end is end_by_crash)
    if end is end_by_crash:
        assert site.start("-o", f"drop_privileges={_USER}").returncode == 0
        assert (site.mountpoint / "b1/redmine/volumes/files/note.txt").read_text() == "hello\n"
        subprocess.run(["umount", site.mountpoint], check=True)


@pytest.mark.parametrize(
    ("closed", "reason"),
    [
        ("repo/data", f"{_USER} cannot read TOP/repo/data: Permission denied. Give {_USER} access"),
        ("repo/config", "TOP/repo"),
        ("log", "The log file TOP/log cannot be opened: Permission denied."),
    ],
)
def test_what_the_user_cannot_read_is_reported_before_mounting(
    site: Site, closed: str, reason: str
) -> None:
    """The error names the file, and nothing is mounted."""
    path = site.top / closed
    before = path.stat()
    os.chown(path, 0, 0)
    path.chmod(0o700)
    try:
        done = site.start("--drop-privileges", _USER)
    finally:
        os.chown(path, before.st_uid, before.st_gid)
    assert done.returncode in (1, 2)
    assert reason.replace("TOP", str(site.top)) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not is_mounted(site.mountpoint)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("root", "other than root"), ("0", "other than root"), ("no-such-user", "There is no user")],
)
def test_invalid_users(name: str, reason: str) -> None:
    """The error states what is wrong with the user."""
    with pytest.raises(UsageError, match=reason):
        find_user(name)
