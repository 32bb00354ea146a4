"""Run a real OpenSSH server on a free loopback port.

It has separate keys and configuration and runs as the current user, root or not. Only that user can
log in, with a generated key.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SECONDS: Final = 20
_CONFIGURATION: Final = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host
PidFile none
AuthorizedKeysFile {directory}/user.pub
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
MaxStartups 100:30:200
LogLevel QUIET
"""


def find_sshd() -> str | None:
    """Return the path of sshd, which is not in the PATH of users."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True)
class Sshd:
    """A server that can be stopped and restarted, with its keys in `directory`."""

    directory: Path
    port: int
    user: str

    def url(self, directory: Path | str) -> str:
        """Return the address of a repository in `directory` on this server."""
        return f"sftp:{self.user}@127.0.0.1:{directory}"

    def command(self, *more: str, port: int | None = None) -> str:
        """Return the ssh command for this server or another `port`, with extra options first."""
        config = self.directory / "ssh_config"
        given = " ".join(f"{part} " for part in more)
        return f"ssh {given}-F {config} -p {port or self.port} 127.0.0.1 -s sftp"

    @property
    def options(self) -> dict[str, str]:
        """Return the extended options for restic and cesbrfs."""
        return {"sftp.command": self.command()}

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it is listening."""
        binary = find_sshd()
        assert binary, "no sshd"
        if os.geteuid() == 0:  # for privilege separation
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [binary, "-D", "-e", "-f", self.directory / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        end = time.monotonic() + _SECONDS
        while not is_listening(self.port):
            assert process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < end, "sshd does not listen"
            time.sleep(0.01)
        return process


def signal_sessions(server: subprocess.Popen[bytes], number: int) -> int:
    """Send a signal to the processes that serve connections; return their number."""
    found = descendants(server.pid)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(found)


def is_listening(port: int) -> bool:
    """Return whether `port` on loopback accepts connections."""
    with socket.socket() as made:
        return made.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port


def descendants(pid: int) -> list[int]:
    """Return the descendants of `pid` that are not zombies."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *_ = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if state != "Z":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid]
    for known in found:  # extended while iterating
        found += children.get(known, [])
    return found[1:]


def kill(server: subprocess.Popen[bytes]) -> None:
    """Kill a server and its connection processes, without missing new ones."""
    stopped: list[int] = []
    while more := [pid for pid in (server.pid, *descendants(server.pid)) if pid not in stopped]:
        for pid in more:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped += more
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.wait(_SECONDS)


def make_key(path: Path, *, passphrase: str = "") -> None:
    """Generate a key pair."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "test", "-f", path],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def prepare(directory: Path) -> Sshd:
    """Create keys and configuration in `directory`, without starting the server."""
    server = Sshd(directory, free_port(), getpass.getuser())
    make_key(directory / "host")
    make_key(directory / "user")
    (directory / "sshd_config").write_text(
        _CONFIGURATION.format(port=server.port, directory=directory)
    )
    trust(server, directory / "host.pub")
    (directory / "ssh_config").write_text(
        "Host *\n"
        f"  User {server.user}\n"
        f"  IdentityFile {directory}/user\n"
        "  IdentitiesOnly yes\n"
        "  IdentityAgent none\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n"
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
    )
    return server


def trust(server: Sshd, key: Path) -> None:
    """Add `key` to known_hosts as host key for all ports on loopback."""
    kind, base64, *_ = key.read_text().split()
    (server.directory / "known_hosts").write_text(f"[127.0.0.1]:* {kind} {base64}\n")


@contextlib.contextmanager
def running(server: Sshd) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server; kill all of its processes on exit."""
    process = server.start()
    try:
        yield process
    finally:
        kill(process)
