"""A disposable copy of the running Debian system: an overlay on / in its own namespaces.

It has no network, no compiler, no checkout of the project, and an empty /root, /tmp and /run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.project import PROJECT

_TIMEOUT: Final = 300
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
_ENTER: Final = """
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mkdir -p "./$3"
for place in tmp run root "./$3"; do mount -t tmpfs tmpfs "$place"; done
mount --rbind /dev dev
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --bind "$2" srv
rm -f usr/bin/*gcc* usr/bin/cc usr/bin/c99 usr/bin/ld* usr/sbin/policy-rc.d
rm -f var/lib/man-db/auto-update  # the index of all manual pages takes seconds
echo ready
exec cat
"""
# The arguments are the directory of the copy and the name of a new cgroup.
_SYSTEMD: Final = """
cd "$1"
mount -t proc proc proc
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir "sys/fs/cgroup/$2"
echo 0 >"sys/fs/cgroup/$2/cgroup.procs"
umount sys/fs/cgroup
exec unshare --cgroup sh -euc '
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  exec chroot . /lib/systemd/systemd --system --unit=script.target --log-target=console
'
"""
_CLEAN_UP: Final = """
mount -t cgroup2 cgroup2 sys/fs/cgroup
find "sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
umount sys/fs/cgroup
"""
_UNITS: Final = {
    "script.target": "[Unit]\nDefaultDependencies=no\nRequires=script.service\n",
    "script.service": "[Unit]\nDefaultDependencies=no\nSuccessAction=exit\nFailureAction=exit\n"
    "[Service]\nType=oneshot\nStandardOutput=file:/srv/output\nStandardError=file:/srv/output\n"
    "ExecStart=/bin/sh -eux /srv/script\n",
}
"""systemd runs /srv/script, and ends with its exit code. It starts no unit of the machine."""
_VOLATILE: Final = ("var/lib/dpkg/", "var/log/", "var/cache/ldconfig/", "var/cache/man/")
"""Files that dpkg and its triggers change."""


@dataclass(frozen=True, slots=True)
class DebianRoot:
    """The running copy. `srv` is its /srv."""

    pid: int
    overlay: Path
    srv: Path

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command and return what it prints; its exit code must be `code`."""
        done = subprocess.run(
            [
                *("nsenter", "--target", str(self.pid), "--mount", "--net", "--pid"),
                *("chroot", str(self.overlay / "root"), *command),
            ],
            env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=_TIMEOUT,
        )  # fmt: skip
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def run_under_systemd(self, script: str) -> tuple[int, str]:
        """Run a shell script as a service of another systemd; return exit code and output."""
        units = self.path("/etc/systemd/system")
        for name, text in _UNITS.items():
            (units / name).write_text(text)
        (self.srv / "script").write_text(script)
        cgroup = f"cesbrfs-test-{os.getpid()}"
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid"]
        root = str(self.overlay / "root")
        done = subprocess.run(
            [*enter, "unshare", "--mount", "--pid", "--fork", "--kill-child",
             "sh", "-euc", _SYSTEMD, "sh", root, cgroup],
            env={**_ENVIRONMENT, "container": "lxc"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False, timeout=_TIMEOUT,
        )  # fmt: skip
        self.run("sh", "-euc", _CLEAN_UP, "sh", cgroup)
        output = self.srv / "output"
        return done.returncode, output.read_text() if output.exists() else done.stdout

    def path(self, name: str) -> Path:
        """Return where a file of the copy can be accessed from outside."""
        return Path(f"/proc/{self.pid}/root{self.overlay}/root") / name.lstrip("/")

    def added(self) -> set[str]:
        """Return the files and directories that do not exist on the machine itself."""
        upper = Path(f"/proc/{self.pid}/root{self.overlay}/upper")
        found = set()
        for directory, directories, files in os.walk(upper):
            for name in (*directories, *files):
                path = os.path.relpath(os.path.join(directory, name), upper)
                if not os.path.lexists(f"/{path}") and not path.startswith(_VOLATILE):
                    found.add(f"/{path}")
        return found


def missing_for_root() -> str | None:
    """Return why a copy cannot be made here, or None."""
    if os.getuid() != 0:
        return "only root can mount an overlay"
    for program in ("dpkg", "unshare", "nsenter", "chroot"):
        if shutil.which(program) is None:
            return f"no {program} on PATH"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlay file system"
    return None


@contextlib.contextmanager
def running_root(overlay: Path, srv: Path) -> Iterator[DebianRoot]:
    """Start a copy in the directory `overlay`, and end it with all its processes."""
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    command += ["--propagation", "private", "sh", "-euc", _ENTER, "sh"]
    command += map(str, (overlay, srv, PROJECT))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as unshare:
        assert unshare.stdin
        assert unshare.stdout
        assert unshare.stdout.readline() == "ready\n"
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text()
        try:
            yield DebianRoot(int(children), overlay, srv)
        finally:
            unshare.stdin.close()
