"""The child process that connects to an SFTP server: ssh or a configured command.

Only `readable` and `aclose` wait for the process, so that a task can be cancelled anywhere. There
is no background task.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Final

import trio

_PIPE_BYTES: Final = 1 << 20
"""What the answers' pipe is to hold: with the usual 64 KiB ssh would wait for us all the time."""
_CHUNK: Final = 1 << 20
_TOLD: Final = 8 << 10
"""Bytes of what ssh says that are kept."""
_REAPING: Final = 3.0
"""Seconds for a killed process to go; it takes longer only where the kernel holds it."""
_SECRET: Final = re.compile("(RESTIC|CESBR|AWS)_.*|SSH_ASKPASS.*")
"""What ssh, and what its configuration starts, gets not from our environment."""


def ssh_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for ssh: no secrets of ours, English, and nobody to ask."""
    kept = {name: value for name, value in environ.items() if not _SECRET.fullmatch(name)}
    return kept | {"LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}


class SshProcess:
    """One running command, its standard input, output and error.  Made by `SshProcess.start`."""

    def __init__(self, process: trio.Process, pipes: Sequence[int]) -> None:
        self._process = process
        self._stdin, self._stdout, self._stderr = pipes
        self._told = b""
        self._open = True

    @classmethod
    async def start(cls, command: Sequence[str]) -> SshProcess:
        """Start `command`; raises OSError when it cannot be started."""
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as theirs:
            stdin_theirs, stdin = os.pipe()
            stdout, stdout_theirs = os.pipe()
            stderr, stderr_theirs = os.pipe()
            pipes = (stdin, stdout, stderr)
            for descriptor in pipes:
                on_failure.callback(os.close, descriptor)
                os.set_blocking(descriptor, False)
            for descriptor in (stdin_theirs, stdout_theirs, stderr_theirs):
                theirs.callback(os.close, descriptor)
            with contextlib.suppress(OSError):  # many pipes of one user: they stay small
                fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            process = await trio.lowlevel.open_process(
                command,
                stdin=stdin_theirs,
                stdout=stdout_theirs,
                stderr=stderr_theirs,
                env=ssh_environment(os.environ),
                # Without a terminal it cannot ask: nobody is there to answer behind a mount.  And
                # a ^C at ours is for us alone.
                start_new_session=True,
            )
            on_failure.pop_all()
        return cls(process, pipes)

    @property
    def pid(self) -> int:
        """The process' number, and its group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.returncode

    @property
    def complaints(self) -> str:
        """The end of what it has written to its standard error."""
        return self._told.decode("utf-8", "replace")

    def write(self, data: bytearray) -> None:
        """Send what goes without waiting of `data`, and take it away there."""
        while data and self._open:
            try:
                sent = os.write(self._stdin, data)
            except BlockingIOError:
                return
            except BrokenPipeError:  # it has ended: readers find the end of its output
                data.clear()
                return
            del data[:sent]

    def read(self) -> bytes | None:
        """Return what it has sent: b"" at the end, None where there is nothing now."""
        if not self._open:
            return b""
        self._listen()
        try:
            return os.read(self._stdout, _CHUNK)
        except BlockingIOError:
            return None

    def _listen(self) -> None:
        """Take what it complains about, so that it never waits for that."""
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self._stderr, 64 << 10):
                self._told = (self._told + said)[-_TOLD:]

    async def readable(self) -> None:
        """Wait until `read` has something."""
        await trio.lowlevel.wait_readable(self._stdout)

    async def ended(self, seconds: float) -> int | None:
        """Wait at most so long for its end and return its exit code, None while it runs."""
        with trio.move_on_after(seconds):
            await self._process.wait()
        if self._open:
            self._listen()
        return self._process.returncode

    async def aclose(self) -> None:
        """End it at once, with all that it started; there is nothing that it could lose."""
        if self._open:
            self._open = False
            for descriptor in (self._stdin, self._stdout, self._stderr):
                trio.lowlevel.notify_closing(descriptor)
                os.close(descriptor)
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True), trio.move_on_after(_REAPING):
                await self._process.wait()
