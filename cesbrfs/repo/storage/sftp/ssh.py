"""The child process that connects to an SFTP server: ssh or a configured command.

Only `readable`, `ended` and `aclose` wait for the process; all other methods never block. There is
no background task.
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
"""Capacity of the pipe for ssh's output: with the default of 64 KiB, ssh blocks on it too often."""
_CHUNK: Final = 1 << 20
_STDERR_TAIL_BYTES: Final = 8 << 10
"""Bytes that are kept from the end of ssh's stderr."""
_REAPING: Final = 3.0
"""Seconds to wait for a killed process, which can take longer only if it hangs in the kernel."""
_SECRET: Final = re.compile("(RESTIC|CESBR|AWS)_.*|SSH_ASKPASS.*")
"""Variables that ssh and the commands in its configuration do not inherit."""


def ssh_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for ssh: no secrets, English messages, no prompts."""
    kept = {name: value for name, value in environ.items() if not _SECRET.fullmatch(name)}
    return kept | {"LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}


class SshProcess:
    """A running command with its stdin, stdout and stderr. Created by `SshProcess.start`."""

    def __init__(self, process: trio.Process, pipes: Sequence[int]) -> None:
        self._process = process
        self._stdin, self._stdout, self._stderr = pipes
        self._stderr_tail = b""
        self._open = True

    @classmethod
    async def start(cls, command: Sequence[str]) -> SshProcess:
        """Start `command`; OSError if it cannot be started."""
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
            with contextlib.suppress(OSError):  # the user's quota for pipes is used up
                fcntl.fcntl(stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            process = await trio.lowlevel.open_process(
                command,
                stdin=stdin_theirs,
                stdout=stdout_theirs,
                stderr=stderr_theirs,
                env=ssh_environment(os.environ),
                # Without a terminal ssh cannot prompt: in a mount nobody could answer. It also does
                # not get a ^C at our terminal.
                start_new_session=True,
            )
            on_failure.pop_all()
        return cls(process, pipes)

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._process.returncode

    @property
    def complaints(self) -> str:
        """The last part of its stderr."""
        return self._stderr_tail.decode("utf-8", "replace")

    def write(self, data: bytearray) -> None:
        """Send as much of `data` as possible without blocking, and remove it from `data`."""
        while data and self._open:
            try:
                sent = os.write(self._stdin, data)
            except BlockingIOError:
                return
            except BrokenPipeError:  # it has ended, and `read` returns the end of its output
                data.clear()
                return
            del data[:sent]

    def read(self) -> bytes | None:
        """Return a part of its output: b"" at the end, None if there is none now."""
        if not self._open:
            return b""
        self._listen()
        try:
            return os.read(self._stdout, _CHUNK)
        except BlockingIOError:
            return None

    def _listen(self) -> None:
        """Read its stderr, so that it never blocks on writing there."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._stderr, 64 << 10):
                self._stderr_tail = (self._stderr_tail + chunk)[-_STDERR_TAIL_BYTES:]

    async def readable(self) -> None:
        """Wait until `read` returns output or the end."""
        await trio.lowlevel.wait_readable(self._stdout)

    async def ended(self, seconds: float) -> int | None:
        """Wait at most `seconds` for its end; return the exit code, None if it still runs."""
        with trio.move_on_after(seconds):
            await self._process.wait()
        if self._open:
            self._listen()
        return self._process.returncode

    async def aclose(self) -> None:
        """Kill the process group. There is no data to lose, because nothing is written."""
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
