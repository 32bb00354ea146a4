"""The restic commands that this project uses, for one repository."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from cesbrfs.errors import (
    CesbrError,
    NotFoundError,
    RepositoryDamagedError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    ResticError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType, is_file_name, open_storage
from cesbrfs.restic.backup_args import PathLike, absolute, backup_flags, item_errors, split_missing
from cesbrfs.restic.binary import Version, find_restic, read_version
from cesbrfs.restic.diagnose import look
from cesbrfs.restic.environment import (
    environment,
    flags,
    has_usable_cache,
    passed_bytes,
    passed_key,
)
from cesbrfs.restic.errors import classify, retry_reason
from cesbrfs.restic.events import (
    BackupSummary,
    CheckReport,
    ItemError,
    PruneReport,
    check_errors,
    plain,
    prune_report,
)
from cesbrfs.restic.locks import remove_own
from cesbrfs.restic.output import BackupOutput, OnEvent, OnText, OutputHandler
from cesbrfs.restic.process import GRACE, Completed, Ending, run

PROBE_DEADLINE: Final = 30.0
"""Seconds for a look at the repository's state."""
INIT_DEADLINE: Final = 120.0
_INIT_LINGER: Final = 15.0
_SHORT_GRACE: Final = 2.0
SILENCE: Final = 600.0
"""Seconds that a long call may run without any progress."""

_RETRIES: Final = 3
"""Retries of restic that a short call waits for; restic itself retries for 15 minutes."""
_REST_VARIABLES: Final = Version(0, 16, 1)
_ANONYMOUS: Final = Version(0, 17)
_SOCKETS: Final = Version(0, 17)
_SECRET_NAME: Final = ("SECRET", "PASSWORD", "TOKEN", "KEY")
_PARTIAL: Final = 3
_LOOKED_AT: Final = (
    RepositoryUnreachableError,
    RepositoryDeniedError,
    RepositoryUntrustedError,
)
"""Errors of a storage that may say more to our reader; one that is silent has nothing to say."""
_UNLOCK_SECONDS: Final = 20.0
_IDS_IN_A_CALL: Final = 1000
"""Snapshot IDs of one command line: 65 kB of the 128 kB that fit everywhere."""


class _Config(msgspec.Struct):
    """What of ``restic cat config`` is of interest."""

    id: str


class Restic:
    """One restic program and one repository.

    Every method may raise what `classify` makes of a failure, ResticError when the program cannot
    be run, and RepositoryTimedOutError when it made no progress for too long.  A cancelled call
    interrupts restic, waits until its lock is gone, and leaves no process behind.
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
        """Drive `binary`; `cache_dir` is restic's cache, `silence` and `grace` are seconds.

        See `SILENCE`, and `GRACE` for the time an interrupted restic has to exit. Raises
        UsageError for options that this version does not support.
        """
        self.binary: Final = binary
        self.version: Final = version
        self.access: Final = access
        self._silence: Final = silence
        self._grace: Final = grace
        if version < _SOCKETS and access.url.startswith("rest:http+unix:"):
            raise UsageError(
                f"restic {version} cannot reach {access.display_url}, a server behind a socket;"
                " name one"
                f" from {_SOCKETS} on in the setting 'restic', or let the server listen on a port."
            )
        self._flags: Final = flags(access, knows_anonymous=version >= _ANONYMOUS)
        self._environment: Final = environment(
            access, cache_dir=cache_dir, knows_rest_variables=version >= _REST_VARIABLES
        )

    def __repr__(self) -> str:
        return f"Restic({self.binary}, {self.version}, {self.access.display_url})"

    @classmethod
    async def open(
        cls, access: Access, *, binary: str | None = None, cache_dir: Path | None = None
    ) -> Restic:
        """Find restic, ask its version, and return it for `access`; no repository is touched."""
        found = await find_restic(binary)
        return cls(found, await read_version(found), access, cache_dir=cache_dir)

    async def probe(self) -> str:
        """Open the repository, without a lock, and return its id.

        Raises RepositoryMissingError, WrongKeyError, RepositoryDeniedError,
        RepositoryDamagedError or RepositoryUnreachableError.  A repository that lost only its
        config looks missing from here: see `cesbrfs.readiness`.
        """
        ended = await self._short(["cat", "config", "--no-lock"], PROBE_DEADLINE)
        try:
            return msgspec.json.decode(ended.stdout, type=_Config).id
        except msgspec.MsgspecError as error:
            raise RepositoryDamagedError(
                f"The config of the repository at {self.access.display_url} holds no id; put it"
                " back from a copy of the repository."
            ) from error

    async def init(self) -> None:
        """Create the repository.

        The caller (`cesbrfs.readiness`) has made sure that there is no repository: 0.14 would
        destroy one that has lost only its config.
        """
        # A ^C between its two files would leave a key without a config: a damaged repository.
        await self._short(["init"], INIT_DEADLINE, linger=_INIT_LINGER)

    async def backup(
        self,
        paths: Sequence[PathLike] = (),
        *,
        tags: Sequence[str],
        host: str | None = None,
        parent: str | None = None,
        time: str | None = None,
        exclude: Sequence[PathLike] = (),
        stdin: tuple[str, bytes | int] | None = None,
        dry_run: bool = False,
        on_event: OnEvent | None = None,
        on_interrupt: Callable[[], None] | None = None,
    ) -> BackupSummary:
        """Save `paths`, or the one file ``(name, content)`` of `stdin`, as one snapshot.

        The content is bytes, or a descriptor that is read to its end.  An interrupted restic goes
        on waiting for that end, and then saves nothing: `on_interrupt`, which is called once it
        knows, may bring the end about.

        Paths are literal, of any bytes and any number; `exclude` are literal paths below them.
        `time` is ``YYYY-MM-DD HH:MM:SS``, local.  What could not be read is in the result's
        `errors`, and so are paths that do not exist; NotFoundError is raised when none does.
        """
        command = ["backup", "--json"]
        command += backup_flags(tags=tags, host=host, parent=parent, time=time, exclude=exclude)
        if dry_run:
            command.append("--dry-run")
        heard = BackupOutput(on_event, on_interrupt)
        if stdin is not None:
            if paths or not stdin[0] or "/" in stdin[0]:
                # 0.18.0 fails on a name with directories: "unable to save snapshot: open /x".
                raise UsageError("A backup from memory takes one bare file name and no paths.")
            command += ["--stdin", "--stdin-filename", stdin[0]]
            if isinstance(stdin[1], int):
                return await self._backup(command, heard, stdin=stdin[1])
            with passed_bytes(stdin[1]) as source:
                return await self._backup(command, heard, stdin=source)
        if not paths:
            raise UsageError("Nothing to back up: no path was given.")
        wanted = [absolute(path) for path in paths]
        there, missing = await trio.to_thread.run_sync(split_missing, wanted)
        if not there:
            raise NotFoundError(
                f"Nothing to back up: {os.fsdecode(wanted[0])!r} does not exist"
                + (f", nor do the other {len(wanted) - 1} paths." if wanted[1:] else ".")
            )
        with passed_bytes(b"".join(path + b"\0" for path in there)) as listed:
            command += ["--files-from-raw", f"/dev/fd/{listed}"]
            return await self._backup(command, heard, there, missing, pass_fds=(listed,))

    async def _backup(
        self,
        command: Sequence[str],
        heard: BackupOutput,
        paths: Sequence[bytes] = (),
        missing: Mapping[bytes, str] = {},
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> BackupSummary:
        """Run a backup; `missing` are the paths that are known not to be there."""
        ended = await self._locking(command, heard.ears, stdin=stdin, pass_fds=pass_fds)
        if ended.ending is not Ending.ITSELF or ended.exit_code not in (0, _PARTIAL):
            raise await self._failure(command, ended)
        if heard.summary is None:
            raise ResticError(
                f"restic ended its backup to {self.access.display_url} without a summary; look with"
                " 'cesbr backups' whether it is there."
            )
        errors = dict(missing)
        for path in paths:
            if path + b" does not exist, skipping" in ended.stderr:  # gone since we looked
                errors[path] = "does not exist"
        errors |= await trio.to_thread.run_sync(item_errors, heard.failed)
        if ended.exit_code == _PARTIAL and not errors:
            errors[b""] = "restic could not read everything and does not say what"
        return BackupSummary(
            snapshot_id="" if heard.summary.dry_run else heard.summary.snapshot_id,
            totals=heard.summary,
            errors=tuple(ItemError(path, message) for path, message in errors.items()),
        )

    async def check(
        self,
        *,
        read_data: bool = False,
        read_data_subset: str | None = None,
        on_line: OnText | None = None,
    ) -> CheckReport:
        """Check the repository's structure, and its packs with `read_data` or a subset.

        `read_data_subset` is restic's: ``1/5``, ``10%``, ``500M``.  `on_line` gets its words.
        Needs the lock: raises RepositoryLockedError where another process holds one.
        """
        # Without --json, which prints no progress, and which 0.14 does not have.
        command = ["check"]
        if read_data_subset is not None:
            command.append(f"--read-data-subset={read_data_subset}")
        elif read_data:
            command.append("--read-data")
        ended = await self._locking(command, OutputHandler(on_text=on_line))
        if ended.ending is Ending.ITSELF:
            if ended.exit_code == 0:
                return CheckReport()
            if b"repository contains errors" in ended.stderr:
                text = self._clean(ended.stderr + b"\n" + ended.stdout)
                return CheckReport(check_errors(plain(x.encode()) for x in text.splitlines()))
        raise await self._failure(command, ended)

    async def forget(self, snapshots: Collection[str]) -> None:
        """Remove the snapshots with these whole IDs; one that is gone already is no error.

        Their data stays until `prune`.  Needs the repository for itself, as do `untag` and
        `prune`: RepositoryLockedError where another process holds a lock.
        """
        await self._on_snapshots(["forget"], snapshots)

    async def untag(self, tags: Collection[str], snapshots: Collection[str]) -> None:
        """Take `tags` off these snapshots: each gets a new ID and keeps its first as `original`.

        One that is gone, or has no such tag, is no error.
        """
        await self._on_snapshots(["tag", *(f"--remove={tag}" for tag in sorted(tags))], snapshots)

    async def _on_snapshots(self, command: Sequence[str], snapshots: Collection[str]) -> None:
        """Run a command that changes snapshots, on as many at a time as fit a command line."""
        whole = {name for name in snapshots if is_file_name(name)}
        if len(whole) != len(snapshots):
            raise ValueError("a beginning of an ID may be that of another snapshot, too")
        remaining = iter(sorted(whole))
        while some := list(itertools.islice(remaining, _IDS_IN_A_CALL)):
            await self._successful([*command, *some], OutputHandler())

    async def prune(self, *, on_line: OnText | None = None) -> PruneReport:
        """Remove the data that no snapshot needs; `on_line` gets restic's words."""
        words: list[str] = []

        def hear(line: str) -> None:
            words.append(line)
            if on_line is not None:
                on_line(line)

        await self._successful(["prune"], OutputHandler(on_text=hear))
        return prune_report(words)

    async def unlock(self, *, remove_all: bool = False) -> str:
        """Remove locks that no process holds any more, or all; return restic's output."""
        command = ["unlock", "--remove-all"] if remove_all else ["unlock"]
        ended = await self._run(command, OutputHandler())
        if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
            raise await self._failure(command, ended)
        return plain(ended.stdout)

    async def locks(self) -> set[str]:
        """Return the names of the lock files; the key is not needed for that."""
        storage = open_storage(self.access)
        try:
            return {file.name for file in await storage.list(FileType.LOCK)}
        finally:
            await storage.aclose()

    async def _successful(self, command: Sequence[str], ears: OutputHandler) -> None:
        """Run a command that takes a lock and fails with every exit code but 0."""
        ended = await self._locking(command, ears)
        if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
            raise await self._failure(command, ended)

    async def _locking(
        self,
        command: Sequence[str],
        ears: OutputHandler,
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> Completed:
        """Run a command that takes a lock, and see that none is left when it is cancelled.

        When interrupted, restic does not remove a lock that is younger than 0.2 s.
        """
        started = time.time_ns()
        pids: list[int] = []
        try:
            return await self._run(
                command, ears, stdin=stdin, pass_fds=pass_fds, on_start=pids.append
            )
        except BaseException:  # a Cancelled comes in a group
            with (
                trio.CancelScope(shield=True),
                trio.move_on_after(_UNLOCK_SECONDS),
                contextlib.suppress(CesbrError),
            ):
                for pid in pids:
                    await remove_own(self.access, pid, started, self.unlock)
            raise

    async def _short(
        self, command: Sequence[str], deadline: float, *, linger: float = 0.0
    ) -> Completed:
        """Run a call that waits for no slow storage, and return its success."""
        ears = OutputHandler(retries=_RETRIES)
        # No lock is at stake: an ssh that hangs keeps newer restics from ending when interrupted.
        grace = min(self._grace, _SHORT_GRACE)
        ended = await self._run(command, ears, deadline=deadline, linger=linger, grace=grace)
        if ended.ending is not Ending.ITSELF or ended.exit_code != 0:
            raise await self._failure(command, ended)
        return ended

    async def _run(
        self,
        command: Sequence[str],
        ears: OutputHandler,
        *,
        deadline: float = math.inf,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        linger: float = 0.0,
        grace: float | None = None,
        on_start: Callable[[int], object] | None = None,
    ) -> Completed:
        """Run one command; the key goes along, exit codes are left to the caller."""
        with passed_key(self.access.key) as (variables, key_fds):
            line = [str(self.binary), *self._flags]
            if not await trio.to_thread.run_sync(has_usable_cache, self._environment):
                line.append("--no-cache")
            return await run(
                [*line, *command],
                env=self._environment | variables,
                stdin=stdin,
                pass_fds=(*pass_fds, *key_fds),
                on_stdout=ears.stdout,
                on_stderr=ears.stderr,
                deadline=deadline,
                silence=self._silence,
                linger=linger,
                grace=self._grace if grace is None else grace,
                on_start=on_start,
            )

    async def _failure(self, command: Sequence[str], ended: Completed) -> CesbrError:
        """Return the error for `ended`; our own reader of the storage may find a better one."""
        error = self._as_told(command, ended)
        if type(error) in _LOOKED_AT:
            return await look(self.access) or error
        return error

    def _as_told(self, command: Sequence[str], ended: Completed) -> CesbrError:
        """Return the error that restic's words and its exit code mean."""
        text, shown = self._clean(ended.stderr), self.access.display_url
        if ended.ending is not Ending.ITSELF:
            # The reasons of its retries explain more than its last message, about the signal.
            reasons = [why for line in text.splitlines() if (why := retry_reason(line))]
            if reasons:
                return classify(
                    self.version, 1, f"Fatal: unable to open repository at x: {reasons[-1]}", shown
                )
            return RepositoryTimedOutError(
                f"The storage of {shown} does not answer in time: restic {command[0]} made no"
                " progress and was ended; check the address and the connection."
            )
        return classify(self.version, ended.exit_code, text, shown)

    def _clean(self, output: bytes) -> str:
        """Return `output` as text without the secrets that restic might have repeated."""
        text = output.decode("utf-8", "replace").replace(self.access.url, self.access.display_url)
        secrets = [self.access.key.value.decode("utf-8", "replace")]
        secrets += [
            value
            for name, value in self.access.environment.items()
            if any(part in name for part in _SECRET_NAME)
        ]
        for secret in secrets:
            if len(secret) >= 4:  # noqa: PLR2004 - shorter ones would blot out words
                text = text.replace(secret, "***")
        return text
