"""Run a restic program on one repository: environment, locks, deadlines, errors."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import trio

from cesbrfs.errors import (
    TIMED_OUT,
    CesbrError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.restic.binary import Version
from cesbrfs.restic.diagnose import look
from cesbrfs.restic.environment import (
    environment,
    flags,
    has_usable_cache,
    passed_key,
    passed_source,
)
from cesbrfs.restic.errors import classify, retry_reason
from cesbrfs.restic.events import plain
from cesbrfs.restic.locks import remove_own
from cesbrfs.restic.output import OutputHandler
from cesbrfs.restic.process import GRACE, Completed, Ending, run

SILENCE: Final = 600.0
"""Maximum time without progress of a long command, in seconds."""

_SHORT_GRACE: Final = 2.0
_RETRIES: Final = 3
"""Number of retries after which a short command is stopped; restic retries for 15 minutes."""
_REST_VARIABLES: Final = Version(0, 16, 1)
_ANONYMOUS: Final = Version(0, 17)
_SOCKETS: Final = Version(0, 17)
_SECRET_NAME: Final = ("SECRET", "PASSWORD", "TOKEN", "KEY")
_DIAGNOSED: Final = (
    RepositoryUnreachableError,
    RepositoryDeniedError,
    RepositoryUntrustedError,
)
"""Errors that are diagnosed with our own reader; after a timeout it would find no reason either."""
_UNLOCK_SECONDS: Final = 20.0


class Program:
    """A restic program and a repository.

    Every method may raise the errors of `classify`, ResticError if the program cannot be run, and
    RepositoryTimedOutError if it makes no progress for too long. A cancelled call interrupts
    restic, waits until its lock is removed, and leaves no process behind.
    """

    def __init__(
        self,
        binary: Path,
        version: Version,
        access: Access,
        *,
        cache_dir: Path | None = None,
        silence: float = SILENCE,
        grace: float = GRACE,
    ) -> None:
        """Use `binary`; `cache_dir` is restic's cache directory.

        `silence` and `grace` are in seconds, see `SILENCE` and `GRACE`. Raises UsageError for an
        address or options that this version does not support.
        """
        self.binary: Final = binary
        self.version: Final = version
        self.access: Final = access
        self.cache_dir: Final = cache_dir
        self._silence: Final = silence
        self._grace: Final = grace
        if version < _SOCKETS and access.url.startswith("rest:http+unix:"):
            raise UsageError(
                f"restic {version} does not support Unix sockets, which {access.display_url}"
                f" requires. Set 'restic' to version {_SOCKETS} or newer, or let the server listen"
                " on a port."
            )
        self._flags: Final = flags(access, knows_anonymous=version >= _ANONYMOUS)
        self._environment: Final = environment(
            access, cache_dir=cache_dir, knows_rest_variables=version >= _REST_VARIABLES
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.binary}, {self.version}, {self.access.display_url})"

    async def unlock(self, *, remove_all: bool = False) -> str:
        """Remove stale locks, or all with `remove_all`; return restic's output."""
        command = ["unlock", "--remove-all"] if remove_all else ["unlock"]
        ended = await self._run(command, OutputHandler())
        if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
            raise await self._failure(command, ended)
        return plain(ended.stdout)

    async def _successful(
        self,
        command: Sequence[str],
        handler: OutputHandler,
        source: Program | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Run a command that takes a lock; raise an error for any exit code but 0."""
        ended = await self._locking(command, handler, source=source, pass_fds=pass_fds)
        if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
            raise await self._failure(command, ended, source)

    async def _locking(
        self,
        command: Sequence[str],
        handler: OutputHandler,
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        source: Program | None = None,
    ) -> Completed:
        """Run a command that takes a lock, and remove the lock if the call is cancelled.

        An interrupted restic does not remove a lock that is younger than 0.2 s.
        """
        started = time.time_ns()
        pids: list[int] = []
        try:
            return await self._run(
                command,
                handler,
                stdin=stdin,
                pass_fds=pass_fds,
                on_start=pids.append,
                source=source,
            )
        except BaseException:  # trio.Cancelled may be part of an exception group
            with (
                trio.CancelScope(shield=True),
                trio.move_on_after(_UNLOCK_SECONDS),
                contextlib.suppress(CesbrError),
            ):
                for pid, one in itertools.product(pids, filter(None, (self, source))):
                    await remove_own(one.access, pid, started, one.unlock)
            raise

    async def _short(
        self,
        command: Sequence[str],
        deadline: float,
        *,
        linger: float = 0.0,
        source: Program | None = None,
    ) -> Completed:
        """Run a short command, with a timeout and few retries; raise an error if it fails."""
        handler = OutputHandler(retries=_RETRIES)
        # There is no lock to remove, and newer versions do not exit on SIGINT while ssh hangs.
        grace = min(self._grace, _SHORT_GRACE)
        ended = await self._run(
            command, handler, deadline=deadline, linger=linger, grace=grace, source=source
        )
        if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
            raise await self._failure(command, ended, source)
        return ended

    async def _run(
        self,
        command: Sequence[str],
        handler: OutputHandler,
        *,
        deadline: float = math.inf,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        linger: float = 0.0,
        grace: float | None = None,
        on_start: Callable[[int], object] | None = None,
        source: Program | None = None,
    ) -> Completed:
        """Run one command with the key; the caller must check the exit code.

        The command may also read the repository of `source`, with its key.
        """
        with ExitStack() as passing:
            variables, key_fds = passing.enter_context(passed_key(self.access.key))
            env = self._environment | variables
            line = [str(self.binary), *self._flags]
            if source is not None:
                url = source._environment["RESTIC_REPOSITORY"]  # noqa: SLF001 - the same class
                from_source, more_fds = passing.enter_context(passed_source(source.access, url))
                env |= from_source
                key_fds += more_fds
            if not await trio.to_thread.run_sync(has_usable_cache, self._environment):
                line.append("--no-cache")
            return await run(
                [*line, *command],
                env=env,
                stdin=stdin,
                pass_fds=(*pass_fds, *key_fds),
                on_stdout=handler.stdout,
                on_stderr=handler.stderr,
                deadline=deadline,
                silence=self._silence,
                linger=linger,
                grace=self._grace if grace is None else grace,
                on_start=on_start,
            )

    async def _failure(
        self, command: Sequence[str], ended: Completed, source: Program | None = None
    ) -> CesbrError:
        """Return the error for `ended`, or a better one from our own reader of the storage."""
        used = [self, source] if source is not None else [self]
        error = self._classified(command, ended, used)
        if type(error) in _DIAGNOSED:
            for one in used:
                if (found := await look(one.access)) is not None:
                    return found
        return error

    def _classified(
        self, command: Sequence[str], ended: Completed, used: Sequence[Program]
    ) -> CesbrError:
        """Return the error for restic's output and exit code; `used` are the repositories."""
        output = ended.stderr
        for one in used:
            output = one._clean(output).encode()  # noqa: SLF001 - the same class
        text, shown = output.decode(), " or ".join(one.access.display_url for one in used)
        if ended.ending is not Ending.ITSELF:
            # The reasons of its retries explain more than its last message about the signal.
            reasons = [why for line in text.splitlines() if (why := retry_reason(line))]
            if reasons:
                return classify(
                    self.version, 1, f"Fatal: unable to open repository at x: {reasons[-1]}", shown
                )
            reason = f"restic {command[0]} made no progress and was stopped"
            return RepositoryTimedOutError(TIMED_OUT.format(display_url=shown, reason=reason))
        return classify(self.version, ended.exit_code, text, shown)

    def _clean(self, output: bytes) -> str:
        """Return `output` as text, with any secrets masked."""
        text = output.decode("utf-8", "replace").replace(self.access.url, self.access.display_url)
        secrets = [self.access.key.value.decode("utf-8", "replace")]
        secrets += [
            value
            for name, value in self.access.environment.items()
            if any(part in name for part in _SECRET_NAME)
        ]
        for secret in secrets:
            if len(secret) >= 4:  # noqa: PLR2004 - shorter ones would mask parts of words
                text = text.replace(secret, "***")
        return text
