"""Real mounts: the program in its own process, waited for as a service manager would."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cesbrfs.access import Access

_START_SECONDS = 30
_STOP_SECONDS = 15
_PROJECT = Path(__file__).resolve().parents[2]


def fuse_missing() -> str | None:
    """Say why nothing can be mounted here, None where it can."""
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs FUSE where there is none."""
    reason = fuse_missing()
    if reason is None:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason=reason))


def environment(access: Access) -> dict[str, str]:
    """Return the environment that leads the program to a repository."""
    return {
        **os.environ,
        "PYTHONPATH": str(_PROJECT),
        "PYTHONWARNINGS": "error",
        "RESTIC_REPOSITORY": access.url,
        "RESTIC_PASSWORD": os.fsdecode(access.key.value),
    }


def is_mounted(path: Path) -> bool:
    """Tell whether the kernel has a mount at `path`."""
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        return any(line.split(" ")[4] == str(path) for line in lines)


@dataclass
class Mount:
    """A running mount: where, its process, and what it has logged so far."""

    path: Path
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it with a signal; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_STOP_SECONDS)

    @property
    def mounted(self) -> bool:
        """Whether the kernel still has it."""
        return is_mounted(self.path)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    """Mount a repository on a new folder: ``mount(access, "-o", "noxattr")``."""
    started: list[Mount] = []

    def start(access: Access, *arguments: str) -> Mount:
        number = len(started)
        path = tmp_path / f"mount{number}"
        path.mkdir()
        log = tmp_path / f"log{number}"
        address = str(tmp_path / f"notify{number}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, log.open("wb") as lines:
            ready.bind(address)
            ready.settimeout(_START_SECONDS)
            process = subprocess.Popen(
                [sys.executable, "-m", "cesbrfs", "-f", str(path), *arguments],
                env={**environment(access), "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stderr=lines,
            )
            made = Mount(path, process, log)
            started.append(made)
            assert ready.recv(100) == b"READY=1", log.read_text()
        return made

    yield start
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
