"""Run real mounts in separate processes, and wait for readiness like a service manager."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cesbrfs.repo.location import Access
from tests.support.project import PROJECT

_START_SECONDS = 30
_STOP_SECONDS = 15


def fuse_missing() -> str | None:
    """Return why FUSE mounts are not possible; None if they are."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"cannot open /dev/fuse: {error.strerror}"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return None


def environment(access: Access) -> dict[str, str]:
    """Return environment variables with the address and password of a repository."""
    return {
        **os.environ,
        **access.environment,
        "PYTHONPATH": str(PROJECT),
        "PYTHONWARNINGS": "error",
        "RESTIC_REPOSITORY": access.url,
        "RESTIC_PASSWORD": os.fsdecode(access.key.value),
        "CESBR_PATIENCE": str(access.patience),
    }


def is_mounted(path: Path) -> bool:
    """Return whether `path` is a mountpoint."""
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        return any(line.split(" ")[4] == str(path) for line in lines)


@dataclass
class Mount:
    """A running mount: path, process and log file."""

    path: Path
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the mount with a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_STOP_SECONDS)

    @property
    def mounted(self) -> bool:
        """Whether it is still mounted."""
        return is_mounted(self.path)


@contextlib.contextmanager
def mounting(directory: Path) -> Iterator[Callable[..., Mount]]:
    """Yield ``mount(access, "-o", "noxattr")``, which mounts on a new directory in `directory`.

    All mounts are unmounted on exit.
    """
    started: list[Mount] = []

    def start(access: Access, *arguments: str) -> Mount:
        number = len(started)
        path = directory / f"mount{number}"
        path.mkdir()
        log = directory / f"log{number}"
        variables = environment(access)
        if access.options:  # these have no environment variable
            settings = directory / f"settings{number}.toml"
            lines = [
                f"{json.dumps(name)} = {json.dumps(value)}"
                for name, value in access.options.items()
            ]
            settings.write_text("\n".join(["[options]", *lines]))
            variables["CESBR_CONFIG"] = str(settings)
        address = str(directory / f"notify{number}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as said:
            ready.bind(address)
            ready.settimeout(_START_SECONDS)
            process = subprocess.Popen(
                [sys.executable, "-m", "cesbrfs", "-f", str(path), *arguments],
                env={**variables, "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stderr=said,
            )
            made = Mount(path, process, log)
            started.append(made)
            assert ready.recv(100) == b"READY=1", log.read_text()
        return made

    try:
        yield start
    finally:
        problems = []
        for made in started:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                made.stop()
            if made.process.poll() is None:
                made.process.kill()
                made.process.wait()
                problems.append("the mount had to be killed")
            if made.mounted:
                subprocess.run(["fusermount3", "-uz", str(made.path)], check=False)
    assert not problems
