"""Run restic's commands on one repository."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from cesbrfs.errors import (
    NotFoundError,
    RepositoryDamagedError,
    ResticError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType, is_file_name, open_storage
from cesbrfs.restic.backup_args import (
    REPLACED_FILES,
    PathLike,
    absolute,
    backup_flags,
    item_errors,
    split_missing,
)
from cesbrfs.restic.binary import find_restic, read_version
from cesbrfs.restic.environment import (
    passed_bytes,
    passed_new_key,
)
from cesbrfs.restic.errors import retry_reason
from cesbrfs.restic.events import (
    BackupSummary,
    CheckReport,
    ItemError,
    PruneReport,
    RepositoryKey,
    check_errors,
    plain,
    prune_report,
)
from cesbrfs.restic.output import BackupOutput, OnEvent, OnText, OutputHandler
from cesbrfs.restic.process import Ending
from cesbrfs.restic.program import Program
from cesbrfs.util.secret import Secret

PROBE_DEADLINE: Final = 30.0
"""Timeout of `probe` in seconds."""
INIT_DEADLINE: Final = 120.0
_INIT_LINGER: Final = 15.0
_PARTIAL: Final = 3
_STOPPED: Final = "restic was stopped at a missing file; there may be more damage"
_FOUND_DAMAGE: Final = (b"repository contains errors", b"LoadIndex returned errors")
"""What restic prints when `check` has found damage; the second one by 0.14 for an index file."""
_IDS_IN_A_CALL: Final = 1000
"""Snapshot IDs per command line: 65 kB of the 128 kB that are possible everywhere."""


class _Config(msgspec.Struct):
    """The relevant part of the output of ``restic cat config``."""

    id: str


class Restic(Program):
    """The commands of restic on one repository."""

    @classmethod
    async def open(
        cls, access: Access, *, binary: str | None = None, cache_dir: Path | None = None
    ) -> Restic:
        """Find restic and check its version; does not access the repository."""
        path = await find_restic(binary)
        return cls(path, await read_version(path), access, cache_dir=cache_dir)

    async def probe(self) -> str:
        """Open the repository without a lock, and return its ID.

        Raises RepositoryMissingError, WrongKeyError, RepositoryDeniedError,
        RepositoryDamagedError or RepositoryUnreachableError. A repository that has lost only its
        config is reported as missing; `cesbrfs.readiness` detects this case.
        """
        ended = await self._short(["cat", "config", "--no-lock"], PROBE_DEADLINE)
        try:
            return msgspec.json.decode(ended.stdout, type=_Config).id
        except (ValueError, RecursionError) as error:
            raise RepositoryDamagedError(
                f"The repository at {self.access.display_url} is damaged: 'config' contains no ID."
                " Restore 'config' from a copy of the repository."
            ) from error

    async def init(self, source: Restic | None = None) -> None:
        """Create the repository, with the chunker parameters of `source` if it is given.

        The caller (`cesbrfs.readiness`) must make sure that there is no repository: 0.14 would
        destroy one that has lost only its config.
        """
        # An interrupt between its two files would leave a key file without a config.
        command = ["init"] if source is None else ["init", "--copy-chunker-params"]
        await self._short(command, INIT_DEADLINE, linger=_INIT_LINGER, source=source)

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
        """Back up `paths`, or the file ``(name, content)`` in `stdin`, as one snapshot.

        The content is bytes, or a descriptor that is read to its end. An interrupted restic still
        waits for the end of its input, and then saves nothing. `on_interrupt` is called when restic
        has received the interrupt, and may end the input.

        There may be any number of `paths`, with arbitrary bytes. They and `exclude`, which are
        paths below them, are literal. `time` is ``YYYY-MM-DD HH:MM:SS`` in local time. The `errors`
        of the result contain the paths that are missing or could not be read. Raises NotFoundError
        if all paths are missing.
        """
        command = ["backup", "--json"]
        command += backup_flags(tags=tags, host=host, parent=parent, time=time, exclude=exclude)
        if stdin is None:
            command.append(f"--exclude={REPLACED_FILES}")
        if dry_run:
            command.append("--dry-run")
        output = BackupOutput(on_event, on_interrupt)
        if stdin is not None:
            if paths or not stdin[0] or "/" in stdin[0]:
                # 0.18.0 fails on a name with directories: "unable to save snapshot: open /x".
                raise UsageError(
                    "A backup from memory requires a file name without directories, and no paths."
                )
            command += ["--stdin", "--stdin-filename", stdin[0]]
            if isinstance(stdin[1], int):
                return await self._backup(command, output, stdin=stdin[1])
            with passed_bytes(stdin[1]) as source:
                return await self._backup(command, output, stdin=source)
        if not paths:
            raise UsageError("Nothing to back up: no path was given.")
        wanted = [absolute(path) for path in paths]
        existing, missing = await trio.to_thread.run_sync(split_missing, wanted)
        if not existing:
            raise NotFoundError(
                f"Nothing to back up: {os.fsdecode(wanted[0])!r} does not exist"
                + (f", nor do the other {len(wanted) - 1} paths." if wanted[1:] else ".")
            )
        with passed_bytes(b"".join(path + b"\0" for path in existing)) as listed:
            command += ["--files-from-raw", f"/dev/fd/{listed}"]
            return await self._backup(command, output, existing, missing, pass_fds=(listed,))

    async def _backup(
        self,
        command: Sequence[str],
        output: BackupOutput,
        paths: Sequence[bytes] = (),
        missing: Mapping[bytes, str] = {},
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> BackupSummary:
        """Run a backup; `missing` are paths that do not exist, with an error message."""
        ended = await self._locking(command, output.handler, stdin=stdin, pass_fds=pass_fds)
        if ended.ending is not Ending.ITSELF or ended.exit_code not in (0, _PARTIAL):
            raise await self._failure(command, ended)
        if output.summary is None:
            raise ResticError(
                f"restic printed no summary for {self.access.display_url}. Run 'cesbr backups' to"
                " check for the backup."
            )
        errors = dict(missing)
        for path in paths:
            if path + b" does not exist, skipping" in ended.stderr:  # removed after the check
                errors[path] = "does not exist"
        errors |= await trio.to_thread.run_sync(item_errors, output.failed)
        if ended.exit_code == _PARTIAL and not errors:
            errors[b""] = "restic could not read some files and did not report which"
        return BackupSummary(
            snapshot_id="" if output.summary.dry_run else output.summary.snapshot_id,
            totals=output.summary,
            errors=tuple(ItemError(path, message) for path, message in errors.items()),
        )

    async def check(
        self,
        *,
        read_data: bool = False,
        read_data_subset: str | None = None,
        on_line: OnText | None = None,
    ) -> CheckReport:
        """Check the structure of the repository, and its packs with `read_data` or a subset.

        `read_data_subset` has restic's format: ``1/5``, ``10%``, ``500M``. `on_line` is called with
        each line of output. Takes an exclusive lock: raises RepositoryLockedError if another
        process holds a lock.
        """
        # Without --json, which suppresses the progress and is not supported by 0.14.
        command = ["check"]
        if read_data_subset is not None:
            command.append(f"--read-data-subset={read_data_subset}")
        elif read_data:
            command.append("--read-data")
        # 0.14 retries for 15 minutes to read each tree of a missing pack.
        handler = OutputHandler(on_text=on_line, stops_at_missing_file=True)
        ended = await self._locking(command, handler)
        if handler.saw_missing_file:
            lines = [plain(x.encode()) for x in self._clean(ended.stderr).splitlines()]
            found = [x for x in lines if retry_reason(x) is None and "interrupt" not in x]
            return CheckReport((*(check_errors(found)), _STOPPED))
        if ended.ending is Ending.ITSELF:
            if ended.exit_code == 0:
                return CheckReport()
            if any(text in ended.stderr for text in _FOUND_DAMAGE):
                text = self._clean(ended.stderr + b"\n" + ended.stdout)
                return CheckReport(check_errors(plain(x.encode()) for x in text.splitlines()))
        raise await self._failure(command, ended)

    async def forget(self, snapshots: Collection[str]) -> None:
        """Remove the snapshots with these full IDs; a missing one is not an error.

        Their data is not removed before `prune`. Like `untag` and `prune`, this takes an exclusive
        lock: raises RepositoryLockedError if another process holds a lock.
        """
        await self._on_snapshots(["forget"], snapshots)

    async def untag(self, tags: Collection[str], snapshots: Collection[str]) -> None:
        """Remove `tags` from snapshots: each gets a new ID, and its first ID as `original`.

        A missing snapshot, or one without these tags, is not an error.
        """
        await self.tag(snapshots, remove=tags)

    async def tag(
        self, snapshots: Collection[str], *, add: Collection[str] = (), remove: Collection[str] = ()
    ) -> None:
        """Add and then remove tags of snapshots, each in one step, as in `untag`."""
        changes = [f"--add={tag}" for tag in sorted(add)]
        changes += [f"--remove={tag}" for tag in sorted(remove)]
        await self._on_snapshots(["tag", *changes], snapshots)

    async def copy(
        self, source: Restic, snapshots: Collection[str], *, on_line: OnText | None = None
    ) -> None:
        """Copy the snapshots with these full IDs from `source`; their data is re-encrypted.

        Each gets a new ID, and its first ID as `original`. A missing snapshot, or one that was
        copied before, is not an error. `on_line` is called with each line of output. Takes a lock
        of both repositories, neither of them exclusive.
        """
        await self._on_snapshots(["copy"], snapshots, source=source, on_line=on_line)

    async def _on_snapshots(
        self,
        command: Sequence[str],
        snapshots: Collection[str],
        *,
        source: Restic | None = None,
        on_line: OnText | None = None,
    ) -> None:
        """Run a command on snapshots, in batches that fit on a command line."""
        whole = {name for name in snapshots if is_file_name(name)}
        if len(whole) != len(snapshots):
            raise ValueError("an ID prefix may match several snapshots")
        remaining = iter(sorted(whole))
        while some := list(itertools.islice(remaining, _IDS_IN_A_CALL)):
            await self._successful([*command, *some], OutputHandler(on_text=on_line), source)

    async def prune(self, *, on_line: OnText | None = None) -> PruneReport:
        """Remove data that no snapshot uses; `on_line` is called with each line of output."""
        lines: list[str] = []

        def record(line: str) -> None:
            lines.append(line)
            if on_line is not None:
                on_line(line)

        await self._successful(["prune"], OutputHandler(on_text=record))
        return prune_report(lines)

    async def keys(self) -> list[RepositoryKey]:
        """Return the keys of the repository, oldest first; takes no lock."""
        ended = await self._short(["key", "list", "--json", "--no-lock"], PROBE_DEADLINE)
        try:
            found = msgspec.json.decode(ended.stdout, type=list[RepositoryKey])
        except (ValueError, RecursionError) as error:
            raise ResticError(
                f"restic {self.version} printed no list of keys for {self.access.display_url}. Run"
                " 'restic key list'."
            ) from error
        return sorted(found, key=lambda key: (key.created, key.id))

    async def add_key(self, password: Secret, *, user: str, host: str) -> None:
        """Add a key that `password` opens; `user` and `host` are shown in the list of keys.

        Raises UsageError if restic cannot read the password unchanged.
        """
        with passed_new_key(password) as reader:
            command = ["key", "add", f"--user={user}", f"--host={host}"]
            command.append(f"--new-password-file=/dev/fd/{reader}")
            await self._successful(command, OutputHandler(), pass_fds=(reader,))

    async def remove_key(self, key_id: str) -> None:
        """Remove a key; restic refuses to remove the key in use. Takes an exclusive lock."""
        await self._successful(["key", "remove", key_id], OutputHandler())

    async def locks(self) -> set[str]:
        """Return the names of the lock files; does not use the key."""
        storage = open_storage(self.access)
        try:
            return {file.name for file in await storage.list(FileType.LOCK)}
        finally:
            await storage.aclose()
