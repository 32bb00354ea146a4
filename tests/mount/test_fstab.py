"""Mount through mount(8) with fstab, and through autofs. Needs root."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.support.mounting import environment
from tests.support.restic_repo import ResticRepo, create

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can use mount(8) and autofs")

_SECONDS = 60

_MOUNT = """
    mount -t tmpfs none /usr/local/sbin
    printf '#!/bin/sh\\nexec %s -m cesbrfs "$@"\\n' "$PYTHON" >/usr/local/sbin/cesbrfs
    chmod 755 /usr/local/sbin/cesbrfs
    mount --bind "$HERE/fstab" /etc/fstab
    {command}
    ls "$HERE/backups"
    grep " $HERE/backups " /proc/self/mountinfo | cut -d' ' -f6
    umount "$HERE/backups"
"""

_AUTOMOUNT = """
import ctypes, fcntl, os, struct, subprocess, sys
where, repository = sys.argv[1:]
os.setpgid(0, 0)
receiving, sending = os.pipe()
libc = ctypes.CDLL(None, use_errno=True)
data = f"fd={sending},pgrp={os.getpgrp()},minproto=5,maxproto=5,direct".encode()
if libc.mount(b"automount", where.encode(), b"autofs", 0, data):
    print("no autofs:", os.strerror(ctypes.get_errno()))
    sys.exit(77)
os.close(sending)
root = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
client = subprocess.Popen(["ls", where + "/"], stdout=subprocess.PIPE, start_new_session=True)
token = struct.unpack_from("iiI", os.read(receiving, 304))[2]
try:
    command = [sys.executable, "-m", "cesbrfs", repository, where]
    code = subprocess.run(command, timeout=20).returncode
except subprocess.TimeoutExpired:
    code = -1
READY, FAIL = 0x9360, 0x9361
fcntl.ioctl(root, FAIL if code else READY, token)
print(code, client.communicate()[0].decode().split())
os.close(root)
for _ in range(2):
    subprocess.run(["umount", "-l", where], stderr=subprocess.DEVNULL)
"""


@pytest.fixture(scope="module")
def repo(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A repository with one backup, shared read-only by all tests."""
    top = tmp_path_factory.mktemp("fstab")
    (top / "note.txt").write_text("hello\n")
    made = create(restic_new, top / "repo")
    made.backup(top / "note.txt", tags=["b1"])
    return made


def run_in_namespace(
    command: list[str], here: Path, repo: ResticRepo | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` in its own mount namespace."""
    access = repo.access if repo else Access("", Secret(b""))
    variables = environment(access) | {"HERE": str(here), "PYTHON": sys.executable}
    if repo is None:
        variables = {k: v for k, v in variables.items() if not k.startswith("RESTIC_")}
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", *command],
        env=variables, capture_output=True, text=True, check=False, timeout=_SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "command", "flags"),
    [
        ("nofail", 'mount "$HERE/backups"', ""),
        ("nofail", "mount -a", ""),
        ("noauto,nofail,_netdev,x-systemd.automount", 'mount "$HERE/backups"', ""),
        ("ro,nofail", 'mount -v "$HERE/backups"', ""),
        ("ro,user,nofail", 'mount "$HERE/backups"', "noexec"),
        ("ro,user,exec", 'mount "$HERE/backups"', "exec"),
        ("rw,dev,suid,noexec,nodiratime", 'mount "$HERE/backups"', "noexec"),
        ("lazytime,strictatime,iversion,silent", 'mount "$HERE/backups"', ""),
        ("nosymfollow,noexec", 'mount "$HERE/backups"', "nosymfollow,noexec"),
        ("dirsync,default_permissions", 'mount "$HERE/backups"', ""),
    ],
)
def test_fstab_options(
    options: str, command: str, flags: str, repo: ResticRepo, tmp_path: Path
) -> None:
    """mount(8) accepts the options, and always mounts with ro, nosuid and nodev."""
    (tmp_path / "backups").mkdir()
    (tmp_path / "key").write_text(repo.password)
    fields = (repo.directory, tmp_path / "backups", "fuse.cesbrfs")
    options = f"password_file={tmp_path}/key,{options}"
    (tmp_path / "fstab").write_text(f"{' '.join(map(str, fields))} {options} 0 0\n")
    script = textwrap.dedent(_MOUNT).format(command=command)
    done = run_in_namespace(["bash", "-euo", "pipefail", "-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    *_, listed, shown = done.stdout.split()
    assert listed == "latest" or "b1" in done.stdout
    got = set(shown.split(","))
    assert {"ro", "nosuid", "nodev"} <= got
    wanted = {flag for flag in flags.split(",") if flag and flag != "exec"}
    assert wanted <= got
    if "noexec" not in wanted:
        assert "noexec" not in got


def test_autofs_does_not_deadlock(repo: ResticRepo, tmp_path: Path) -> None:
    """Under autofs the program can access its mountpoint before the mount exists."""
    (tmp_path / "backups").mkdir()
    command = [sys.executable, "-c", _AUTOMOUNT, str(tmp_path / "backups"), str(repo.directory)]
    done = run_in_namespace(command, tmp_path, repo)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.stdout.startswith("0 ["), done.stdout + done.stderr
    assert "'b1'" in done.stdout
