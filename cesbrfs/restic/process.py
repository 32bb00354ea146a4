"""Run a program to its end or stop it cleanly: drained pipes, timeouts, no process left behind.

restic holds a lock in the repository while it runs. It removes the lock when it is interrupted, but
not when SIGKILL or a closed pipe (SIGPIPE) kills it. Therefore it is stopped with SIGINT first, and
its pipes are always read to their end.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import trio

from cesbrfs.errors import ResticError

GRACE: Final = 20.0
"""Seconds for an interrupted restic to remove its lock, which takes well under a second."""

_TERMINATE_GRACE: Final = 3.0
_PIPE_GRACE: Final = 2.0
"""Seconds for restic's children (ssh, rclone) to close the pipes after restic has exited."""
_TICK: Final = 5.0
"""Seconds between two checks of whether a silent restic still reads data."""
_TRICKLE: Final = 4096
"""Bytes read per tick that count as progress; an idle program reads less."""
_CHUNK: Final = 64 << 10
_KEPT_LINES: Final = 2000


class Ending(Enum):
    """Why a process ended."""

    ITSELF = auto()
    DEADLINE = auto()
    """It exceeded the deadline and was stopped."""
    SILENCE = auto()
    """It made no progress for too long and was stopped."""
    HOPELESS = auto()
    """It was stopped because a line of its output showed that waiting is useless."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished process; `stdout` and `stderr` are the last lines that its handlers kept."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    ending: Ending = Ending.ITSELF


@dataclass(frozen=True, slots=True)
class LineVerdict:
    """The decision of a handler about one line of output."""

    keep: bool = True
    """Whether `Completed` contains the line."""
    progress: object = None
    """A value that changes with each progress; None if the line contains no progress."""
    give_up: bool = False
    """Whether to stop the process now."""


Handler = Callable[[bytes], LineVerdict]


def _keep_line(line: bytes) -> LineVerdict:
    return LineVerdict(progress=line)


async def run(
    command: Sequence[str | bytes],
    *,
    env: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    on_stdout: Handler = _keep_line,
    on_stderr: Handler = _keep_line,
    deadline: float = math.inf,
    silence: float = math.inf,
    grace: float = GRACE,
    linger: float = 0.0,
    on_start: Callable[[int], object] | None = None,
) -> Completed:
    """Run `command` and return its result; never leaves a process behind.

    `deadline` is the maximum duration in seconds, `silence` the maximum time without progress. If
    either is exceeded or the caller is cancelled, the process is interrupted, and killed if it does
    not end within `grace` seconds. An exception of a handler stops the process in the same way and
    is raised here. After cancellation, the process may end on its own for `linger` seconds before
    it is interrupted. `on_start` is called with the process ID.

    Raises ResticError if the program cannot be started.
    """
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            pass_fds=pass_fds,
            # restic must not get a ^C at the terminal: its ssh must run until the lock is removed.
            start_new_session=True,
        )
    except OSError as error:
        raise ResticError(
            f"Cannot start {os.fsdecode(command[0])}: {error.strerror}. Check the setting 'restic'."
        ) from error
    if on_start is not None:
        on_start(process.pid)
    call = _Call(process, deadline=deadline, silence=silence, grace=grace, linger=linger)
    return await call.finish(on_stdout, on_stderr)


class _Call:
    """A running process with its two pipes and a watchdog."""

    def __init__(
        self,
        process: trio.Process,
        *,
        deadline: float,
        silence: float,
        grace: float,
        linger: float,
    ) -> None:
        now = trio.current_time()
        self._process = process
        self._deadline = now + deadline
        self._silence = silence
        self._grace = grace
        self._linger = linger
        self._last_progress = now
        self._bytes_read = 0
        self._waiting = trio.CancelScope()
        self._ending = Ending.ITSELF
        self._failure: BaseException | None = None

    def progressed(self) -> None:
        """Record that the process has made progress."""
        self._last_progress = trio.current_time()

    def give_up(self, failure: BaseException | None) -> None:
        """Stop the process now, because of `failure` or as hopeless."""
        self._failure = self._failure or failure
        self._ending = Ending.HOPELESS
        self._waiting.cancel()

    async def finish(self, on_stdout: Handler, on_stderr: Handler) -> Completed:
        """Wait for the process to end or stop it, and close the pipes."""
        out = _Pipe(self._process.stdout, on_stdout, self)
        err = _Pipe(self._process.stderr, on_stderr, self)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.drain)
            nursery.start_soon(err.drain)
            try:
                await self._wait()
            finally:
                if self._process.returncode is None:
                    await self._stop()
                await _close_pipes(out, err)
        if self._failure is not None:
            raise self._failure
        return Completed(
            # None if it was killed but hangs in the kernel, as on a dead network file system.
            -signal.SIGKILL if self._process.returncode is None else self._process.returncode,
            out.kept(),
            err.kept(),
            self._ending,
        )

    async def _wait(self) -> None:
        """Return when the process has ended or must be stopped."""
        tick = min(_TICK, self._silence / 4)
        while True:
            now = trio.current_time()
            until = min(self._deadline, now + tick)
            with trio.CancelScope(deadline=until) as self._waiting:
                if self._ending is Ending.HOPELESS:  # set before this scope existed
                    return
                await self._process.wait()
                return
            if self._ending is Ending.HOPELESS:
                return
            now = trio.current_time()
            if now >= self._deadline:
                self._ending = Ending.DEADLINE
                return
            self._look_at_reads()
            if now - self._last_progress >= self._silence:
                self._ending = Ending.SILENCE
                return

    def _look_at_reads(self) -> None:
        """Count the bytes that the process reads as progress.

        `check` prints nothing while it walks a large tree, and neither does a backup while it loads
        a large index, but both read data. A restic whose storage hangs does not.
        """
        try:
            with open(f"/proc/{self._process.pid}/io", "rb") as file:
                read = int(file.readline().split()[1])
        except (OSError, IndexError, ValueError):
            return  # it has ended, or the kernel lacks this file: only output shows progress
        if read - self._bytes_read >= _TRICKLE:
            self.progressed()
        self._bytes_read = read

    async def _stop(self) -> None:
        """Interrupt the process; if it does not end, terminate it and then kill it."""
        with trio.CancelScope(shield=True):
            if self._ending is Ending.ITSELF:  # cancelled
                with trio.move_on_after(self._linger):
                    await self._process.wait()
                    return
            for number, seconds in (
                (signal.SIGINT, self._grace),
                (signal.SIGTERM, _TERMINATE_GRACE),
            ):
                self._process.send_signal(number)
                with trio.move_on_after(seconds):
                    await self._process.wait()
                    return
            # Kill the process group: children must not keep the storage or the pipes open.
            os.killpg(self._process.pid, signal.SIGKILL)
            with trio.move_on_after(_TERMINATE_GRACE):
                await self._process.wait()


class _Pipe:
    """Reads a pipe to its end, even after cancellation, and passes its lines to a handler."""

    def __init__(
        self, stream: trio.abc.ReceiveStream | None, handler: Handler, call: _Call
    ) -> None:
        assert stream is not None, "the process was started with pipes"
        self._stream = stream
        self._handler: Handler | None = handler
        self._call = call
        self._kept: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._progress: object = None
        self.shield = trio.CancelScope(shield=True)
        self.ended = trio.Event()

    def kept(self) -> bytes:
        """Return the lines that the handler kept."""
        return b"\n".join(self._kept)

    async def drain(self) -> None:
        """Read the pipe to its end."""
        parts: list[bytes] = []
        with self.shield:
            async with self._stream:
                while chunk := await self._stream.receive_some(_CHUNK):
                    first, *more = bytes(chunk).split(b"\n")
                    parts.append(first)
                    for next_part in more:
                        self._line(b"".join(parts))
                        parts = [next_part]
        self._line(b"".join(parts))
        self.ended.set()

    def _line(self, line: bytes) -> None:
        if self._handler is None or not line:
            return
        try:
            made = self._handler(line)
        except BaseException as failure:  # noqa: BLE001 - raised where the process is awaited
            self._handler = None
            self._call.give_up(failure)
            return
        if made.keep:
            self._kept.append(line)
        if made.progress is not None and made.progress != self._progress:
            self._progress = made.progress
            self._call.progressed()
        if made.give_up:
            self._call.give_up(None)


async def _close_pipes(*pipes: _Pipe) -> None:
    """Read the pipes to their end, but do not wait for a grandchild that keeps them open."""
    with trio.CancelScope(shield=True), trio.move_on_after(_PIPE_GRACE):
        for pipe in pipes:
            await pipe.ended.wait()
    for pipe in pipes:
        pipe.shield.cancel()
