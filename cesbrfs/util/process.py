"""Programs of the administrator's, run to their end: their output as it comes, no process left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from cesbrfs.errors import ScriptError

_TERMINATE_GRACE: Final = 5.0
"""Seconds that a program gets to end by itself when its time is over."""
_PIPE_GRACE: Final = 1.0
"""Seconds for the rest of its output, which something that it started may hold open."""
_CHUNK: Final = 64 << 10
_LINE_MAX: Final = 64 << 10
_SECRET: Final = ("PASSWORD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "_KEY")


def public_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without what looks like a secret, for programs that need none of ours."""
    return {
        name: value
        for name, value in environ.items()
        if not any(part in name.upper() for part in _SECRET)
    }


async def run_program(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    seconds: float,
    env: Mapping[str, str],
    stdin: bytes = b"",
    stdout: int | None = None,
) -> int:
    """Run `command` and return its exit code, negative for the signal that ended it.

    `on_line` gets each line of its output, or of stderr alone when its `stdout` goes to a
    descriptor; `stdin` is all that it reads.  After `seconds`, and when the caller is cancelled,
    it is ended with all that it started.  Raises ScriptError when it cannot be started, and when
    it took too long.
    """
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
            env=env,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ScriptError(f"{command[0]} cannot be started: {reason}.") from error
    lines = process.stdout if stdout is None else process.stderr
    assert lines is not None, "it was started with a pipe"
    read = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_lines, lines, on_line, read)
        if process.stdin is not None:
            nursery.start_soon(_feed, process.stdin, stdin)
        try:
            with trio.move_on_after(seconds) as limit:
                await process.wait()
        finally:
            if process.returncode is None:
                with trio.CancelScope(shield=True):
                    await _end(process)
        with trio.move_on_after(_PIPE_GRACE):
            await read.wait()
        nursery.cancel_scope.cancel()
    if limit.cancelled_caught:
        raise ScriptError(
            f"{command[0]} took longer than {seconds:g} s (script_timeout) and was ended."
        )
    assert process.returncode is not None
    return process.returncode


async def _read_lines(
    stream: trio.abc.ReceiveStream, on_line: Callable[[str], None], read: trio.Event
) -> None:
    """Hand on each line as it comes; what is longer than a line may be comes in pieces."""
    waiting = b""
    async with stream:
        while chunk := await stream.receive_some(_CHUNK):
            *lines, waiting = (waiting + chunk).split(b"\n")
            if len(waiting) >= _LINE_MAX:
                lines, waiting = [*lines, waiting], b""
            for line in lines:
                on_line(line.decode(errors="replace"))
    if waiting:
        on_line(waiting.decode(errors="replace"))
    read.set()


async def _feed(stream: trio.abc.SendStream, data: bytes) -> None:
    """Write all that the program may read; it need not read it."""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)


async def _end(process: trio.Process) -> None:
    """End the process and its group: asked first, then killed."""
    for number, grace in ((signal.SIGTERM, _TERMINATE_GRACE), (signal.SIGKILL, _TERMINATE_GRACE)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with trio.move_on_after(grace):
            await process.wait()
            break
    with contextlib.suppress(ProcessLookupError):  # what outlived it
        os.killpg(process.pid, signal.SIGKILL)
