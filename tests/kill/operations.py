"""The operations that faults interrupt: how to prepare and repeat each, and what it must leave."""

from __future__ import annotations

import json
import stat
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.damage.reading import read_everything
from tests.kill.child import Ended, Planned, run
from tests.kill.sandbox import KEY, Sandbox, contents, digests
from tests.support.compare import records
from tests.support.restic_repo import cheapen, init

State = Any
"""What an operation changes, in a form that can be compared."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A command that writes, or a function that fills caches.

    `setup` runs before it. `state` returns what it changes. `is_partial` checks the state after a
    fault, given those before the operation and after a complete one; it returns what is wrong. The
    command `again` (by default the same) completes it; `repeated` are the exit codes that it may
    have if the first was completed.
    """

    name: str
    command: Sequence[str]
    state: Callable[[Sandbox], State]
    is_partial: Callable[[State, State, State], str]
    setup: Sequence[Sequence[str]] = ()
    prepare: Callable[[Sandbox], object] = lambda _: None
    adds: bool = False
    """Whether each run adds to the state, even if the last one was complete."""
    is_copied: bool = True
    """Whether it works on a copy of what `setup` made; undo recognises files by their inodes."""
    again: Sequence[str] | None = None
    repeated: frozenset[int] = frozenset({0})
    function: Callable[[Sandbox], int] | None = None

    def run(
        self, sandbox: Sandbox, planned: Planned | None = None, *, again: bool = False
    ) -> Ended:
        """Run it in a child process."""
        if self.function is not None:
            work = partial(self.function, sandbox)
            return run(work, sandbox.work / "child", planned, str(sandbox.top))
        command = self.again if again and self.again is not None else self.command
        return sandbox.cesbr(*command, planned=planned)


# States


def _backups(sandbox: Sandbox) -> State:
    """Return the contents of the complete backups; each may be there several times."""
    return sorted(digests(sandbox.read()).values())


def _all_backups(sandbox: Sandbox) -> State:
    """Return the content of each backup; "" if it is not complete."""
    reading = sandbox.read()
    complete = digests(reading)
    return sorted(complete.get(name.decode(), "") for name in reading.statuses)


def _annotations(sandbox: Sandbox) -> State:
    return [_backups(sandbox), *_rows(sandbox)]


def _rows(sandbox: Sandbox) -> list[tuple[str, ...]]:
    found = json.loads(sandbox.must("backups", "--json").out)
    rows = found["backups"] if isinstance(found, dict) else found
    return sorted((str(row["protected"]), str(row["note"])) for row in rows)


def _copied(sandbox: Sandbox) -> State:
    access = Access(str(sandbox.top / "copy"), Secret(KEY.encode()))
    return sorted(digests(read_everything(access, remote=False, cache=None)).values())


def _restored(top: str) -> Callable[[Sandbox], State]:
    def state(sandbox: Sandbox) -> State:
        place = sandbox.top / top
        found = records(str(place)) if place.exists() else {}
        return {
            path: record
            for path, record in found.items()
            if path and not path.startswith(b".cesbr") and b"/.cesbr" not in path
        }

    return state


def _files(top: str) -> Callable[[Sandbox], State]:
    def state(sandbox: Sandbox) -> State:
        place = sandbox.top / top
        if place.is_file():
            return {"": place.read_bytes()}
        return contents(place)

    return state


def _printed(*command: str) -> Callable[[Sandbox], State]:
    return lambda sandbox: sandbox.must(*command).out


def _nothing(_: Sandbox) -> State:
    return None


def _archived(sandbox: Sandbox) -> State:
    """Return the members of the archive by name, without times of directories; {} without one."""
    file = sandbox.top / "archive.tar"
    if not file.exists():
        return {}
    found: dict[str, tuple[object, ...]] = {}
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                found[member.name] = (
                    member.type, member.mode, member.linkname,
                    0 if member.isdir() else member.mtime,
                    content.read() if content is not None else b"",
                )  # fmt: skip
    except tarfile.TarError as error:
        raise AssertionError(f"the archive is damaged: {error}") from error
    return found


# What a fault may leave


def _subset(state: State, before: State, after: State) -> str:
    """Check that there is nothing new but what the complete operation makes; nothing is lost."""
    lost = [one for one in set(before) & set(after) if one not in state]
    more = set(state) - {*before, *after}
    return f"{lost} lost" if lost else f"{more} appeared" if more else ""


def _each(state: State, before: State, after: State) -> str:
    """Check that each file is as it was before, or as it is after the complete operation."""
    for path, value in state.items():
        if value not in {before.get(path), after.get(path)} and not _is_directory(value):
            return f"{path!r} is neither old nor new: {value!r}"
    lost = [path for path in before.keys() & after.keys() if path not in state]
    return f"{lost} lost" if lost else ""


def _is_directory(value: object) -> bool:
    return stat.S_ISDIR(getattr(value, "mode", 0))


def _either(state: State, before: State, after: State) -> str:
    return "" if state in (before, after) else f"neither old nor new: {state!r}"


def _anything(_state: State, _before: State, _after: State) -> str:
    return ""


# Functions that fill caches


def _read_remote(sandbox: Sandbox) -> int:
    """Read everything as from a server, so that blobs are cached, too."""
    reading = sandbox.read(cache=sandbox.cache, remote=True)
    print(sorted(reading.statuses.items()))
    return 1 if reading.faults or reading.failed or reading.errors else 0


def _create_copy(sandbox: Sandbox) -> None:
    """Create the repository that gets copies, which must have another ID."""
    cheapen(init(sandbox.restic, sandbox.top / "copy", password=KEY))


def _create_units(sandbox: Sandbox) -> None:
    (sandbox.top / "units").mkdir()


def _change_registry(sandbox: Sandbox) -> None:
    (sandbox.registry / "config/redmine/title").write_text("changed")
    (sandbox.registry / "config/redmine/more").write_text("more")


def _change_files(sandbox: Sandbox) -> None:
    (sandbox.files / "text").write_text("changed after the backup\n")
    (sandbox.files / "sub/new").unlink()


_RESTORE: Final = ("restore", "--backup", "{newest}", "redmine/volumes", "--yes")
_IN_PLACE: Final = (*_RESTORE, "--in-place", "--no-safety-backup")
_VOLUME: Final = "site/var/lib/ces/redmine/volumes/files"

OPERATIONS: Final = (
    Operation("backup", ("backup",), _backups, _subset, adds=True),
    Operation(
        "forget", ("forget", "--keep-last", "1", "--yes"), _all_backups, _anything,
        setup=[["backup"]],
    ),
    Operation(
        "forget and prune", ("forget", "--keep-last", "1", "--prune", "--yes"), _all_backups,
        _anything, setup=[["backup"]],
    ),
    Operation("protect", ("protect", "{newest}"), _annotations, _either),
    Operation("unprotect", ("unprotect", "{newest}"), _annotations, _either,
              setup=[["protect", "{newest}"]]),
    Operation("note", ("note", "{newest}", "a text"), _annotations, _either,
              setup=[["note", "{newest}", "old"]]),
    Operation("copy", ("copy", "--all", "--to", "{top}/copy"), _copied, _subset,
              prepare=_create_copy),
    Operation("restore", (*_RESTORE, "-t", "{top}/target"), _restored("target"), _each,
              again=(*_RESTORE, "-t", "{top}/target")),
    Operation("resume", (*_RESTORE, "-t", "{top}/target"), _restored("target"), _each,
              again=("restore", "--resume", "-t", "{top}/target", "--yes")),
    Operation("restore in place", _IN_PLACE, _restored(_VOLUME), _each, prepare=_change_files),
    Operation("undo", ("undo", "--yes"), _restored(_VOLUME), _each, prepare=_change_files,
              setup=[_IN_PLACE], is_copied=False, repeated=frozenset({0, 1})),
    Operation("restore-registry", ("restore-registry", "--yes", "--delete", "redmine"),
              _files("site/var/lib/cesbr/registry"), _each, prepare=_change_registry),
    Operation("select", ("select", "--backup", "{newest}", "redmine/volumes"), _printed("selected"),
              _either),
    Operation("export", ("export", "--backup", "{newest}", "-o", "{top}/archive.tar", "redmine"),
              _archived, _each, repeated=frozenset({0, 2})),
    Operation("config init", ("config", "init", "--output", "{top}/config.toml"),
              _files("config.toml"), _each, repeated=frozenset({0, 1, 2})),
    Operation("schedule", ("schedule", "--install", "--at", "02:30", "--unit-dir", "{top}/units"),
              _files("units"), _each, prepare=_create_units),
    Operation("find", ("find", "-name", "text"), _nothing, _anything),
    Operation(
        "versions", ("versions", "/{newest}/redmine/volumes/files/text"), _nothing, _anything
    ),
    Operation("grep", ("grep", "--all", "longer"), _nothing, _anything),
    Operation("read remotely", (), _nothing, _anything, function=_read_remote),
)  # fmt: skip
"""All operations. ``{top}`` is the directory of the sandbox, ``{newest}`` a Backup ID."""
BY_NAME: Final = {operation.name: operation for operation in OPERATIONS}
