"""A repository on an rclone remote, served by ``rclone serve restic`` as a child, on loopback.

restic itself uses HTTP/2 over rclone's stdin and stdout. A TCP port needs only HTTP/1.1 and
supports concurrent connections. Before 1.61, rclone does not support Unix sockets.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Final, Self

import trio

from cesbrfs.errors import RepositoryTimedOutError, StorageError, UsageError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import FileInfo, FileType
from cesbrfs.repo.storage.http.client import TIMEOUT_SECONDS
from cesbrfs.repo.storage.location import parse_rclone
from cesbrfs.repo.storage.rest import RestStorage

_ARGS: Final = "serve restic --stdio --b2-hard-delete"
"""restic's default."""
_NOT_INHERITED: Final = re.compile("(RESTIC|CESBR)_.*")
_USER: Final = "cesbr"
_TIME: Final = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (?:[A-Z]+ *: )?")
_LOOK_AGAIN: Final = 0.02
_GRACE: Final = 2.0
"""Seconds for rclone to exit after SIGTERM, before it is killed."""
_MESSAGE_CHARACTERS: Final = 300


class RcloneStorage:
    """Reads a repository's files through a child process, which the first request starts.

    If the child has exited, the next request starts it again.
    """

    def __init__(
        self, access: Access, command: Sequence[str], *, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        """Run `command`, the result of `command_of`, on the first request."""
        self.display_url = access.display_url
        self._access: Final = access
        self._command: Final = command
        self._timeout: Final = timeout
        self._starting: Final = trio.Lock()
        self._child: _Child | None = None

    @classmethod
    def from_access(cls, access: Access, *, timeout: float = TIMEOUT_SECONDS) -> Self:
        """Create the storage for `access`; raises UsageError for an invalid address or option.

        A `timeout` below the default is ignored: rclone has to start, and then retries requests
        to its own server.
        """
        return cls(access, command_of(access), timeout=max(timeout, TIMEOUT_SECONDS))

    @property
    def pid(self) -> int | None:
        """The process ID of the child; None if it has not been started."""
        return self._child.process.pid if self._child else None

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        return await (await self._storage()).list(kind)

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        return await (await self._storage()).read(kind, name, offset, length)

    async def aclose(self) -> None:
        """Close all connections and stop the child."""
        child, self._child = self._child, None
        if child is not None:
            await child.aclose()

    async def _storage(self) -> RestStorage:
        """Return the storage of a running child; concurrent callers share one start."""
        async with self._starting:
            if self._child is not None and self._child.process.poll() is not None:
                await self.aclose()
            if self._child is None:
                self._child = await self._start()
            return self._child.storage

    async def _start(self) -> _Child:
        port, password = _free_port(), secrets.token_urlsafe()
        storage = RestStorage(
            self._access,
            f"http://127.0.0.1:{port}/",
            user=_USER,
            password=password.encode(),
            connections="rclone.connections",
            timeout=self._timeout,
        )
        environ = {k: v for k, v in os.environ.items() if not _NOT_INHERITED.fullmatch(k)}
        environ |= self._access.environment
        stderr = tempfile.TemporaryFile(prefix="cesbr-rclone-")  # noqa: SIM115 - the child's
        try:
            process = _popen(
                [*self._command[:-1], "--addr", f"127.0.0.1:{port}", self._command[-1]],
                # Any local user can connect to the port; arguments would expose the password.
                environ | {"RCLONE_USER": _USER, "RCLONE_PASS": password},
                stderr,
            )
        except OSError as error:
            stderr.close()
            await storage.aclose()
            raise StorageError(
                f"Cannot start {self._command[0]} for {self.display_url}: {error.strerror}."
            ) from None
        child = _Child(process, storage, stderr)
        try:
            with trio.move_on_after(self._timeout) as waiting:
                while not await _listens(port):
                    if process.poll() is not None:
                        break
                    await trio.sleep(_LOOK_AGAIN)
            if process.poll() is None and not waiting.cancelled_caught:
                return child
            message = child.last_message()
        except BaseException:
            await child.aclose()
            raise
        await child.aclose()
        if waiting.cancelled_caught:
            raise RepositoryTimedOutError(
                f"rclone did not serve {self.display_url} within {self._timeout:.0f} s"
                f" ({message}). Check that 'rclone.program' runs on this machine and supports"
                " 'serve restic --addr'."
            )
        raise StorageError(
            f"rclone exited before it could serve {self.display_url}: {message}. Correct the"
            " address or rclone's configuration."
        )


@dataclass(frozen=True, slots=True)
class _Child:
    """A running rclone; `stderr` is the unnamed file that contains its stderr."""

    process: subprocess.Popen[bytes]
    storage: RestStorage
    stderr: IO[bytes]

    def last_message(self) -> str:
        """Return the last line of its stderr without the timestamp."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return _TIME.sub("", lines[-1])[:_MESSAGE_CHARACTERS].rstrip(".") if lines else "no output"

    async def aclose(self) -> None:
        """Stop the process and close the connections to it."""
        with trio.CancelScope(shield=True):
            await self.storage.aclose()
            await trio.to_thread.run_sync(self._end)

    def _end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stderr.close()


def _popen(
    command: Sequence[str], environ: Mapping[str, str], stderr: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start the child from the thread of the event loop.

    The signal of ``setpriv --pdeathsig`` is sent when the thread that started the child ends. A
    worker thread ends after a few seconds without work.
    """
    return subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,  # ^C at the terminal must not interrupt it
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


async def _listens(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


def command_of(access: Access) -> list[str]:
    """Return the command that serves the repository of `access`; the remote is the last word.

    It consists of restic's options rclone.program and rclone.args, without ``--stdio``. Raises
    UsageError if an option is invalid or the program is not installed.
    """
    address = parse_rclone(access.url)
    program = _split(access, "rclone.program", "rclone")
    args = [part for part in _split(access, "rclone.args", _ARGS) if part != "--stdio"]
    if shutil.which(program[0]) is None:
        raise UsageError(
            f"{program[0]} is required for {access.display_url}, but it is not installed. Install"
            " it (for example 'apt install rclone'), or set the option rclone.program."
        )
    bound = shutil.which("setpriv")
    together = [bound, "--pdeathsig", "TERM", "--"] if bound else []
    return [*together, *program, *args, address.remote]


def _split(access: Access, option: str, default: str) -> list[str]:
    text = access.options.get(option, default)
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"Invalid value {text!r} of the option {option}: {error}.") from None
    if not parts:
        raise UsageError(f"The option {option} is empty. Remove it to use {default!r}.")
    return parts
