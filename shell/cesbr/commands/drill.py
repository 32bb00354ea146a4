"""The command `drill`: prove that backups can be restored."""

from __future__ import annotations

import argparse
import math
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cesbr.commands import Command
from cesbr.state.drills import Drill, read_drills, record_drill
from cesbr.state.state_dir import state_directory
from cesbr.ui import humanize
from cesbr.ui.drill_sheet import drills_text, result_text, share_text
from cesbrfs.catalog import directory_names
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.escape import for_json, show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.restore import Progress
    from cesbrfs.restore.drill import Sample
    from cesbrfs.restore.report import RestoreReport
    from cesbrfs.vfs.tree import BackupTree

_SAMPLE: Final = "5%"
_DEFAULT_SCRATCH: Final = "/var/tmp"  # noqa: S108 - a private directory is created in it
_SEED_BITS: Final = 32
_NS: Final = 1_000_000_000
_SHOWN_FAILURES: Final = 20


class _Result(NamedTuple):
    """The drill of one dogu; `error` is set if it could not begin."""

    dogu: str
    drill: Drill
    report: RestoreReport | None
    error: str = ""

    @property
    def passed(self) -> bool:
        return not self.error and self.report is not None and not self.report.failed


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dogus", metavar="DOGU", nargs="*", help="dogus to restore (default: everything)"
    )
    parser.add_argument(
        "--backup", metavar="ID", default="latest", help="backup to restore (default: latest)"
    )
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--sample",
        metavar="PERCENT",
        default=_SAMPLE,
        help=f"share of the files of each dogu, chosen at random (default: {_SAMPLE}%)",
    )
    how_many.add_argument("--full", action="store_true", help="restore all files")
    parser.add_argument(
        "--scratch",
        metavar="DIR",
        help=f"directory to restore to (default: TMPDIR, else {_DEFAULT_SCRATCH})",
    )
    parser.add_argument("--list", action="store_true", help="show the last drills, restore nothing")


async def _drill(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.restore.drill import Sample

    share = 1.0 if arguments.full else _share(arguments.sample)
    view = await context.view(may_init=False)
    if arguments.list:
        return await _list(context, view, arguments)
    backup = await view.find_backup(arguments.backup, arguments.dogus)
    names = await _names(view, backup, arguments.dogus)
    environ = context.session.environ
    parent = Path(absolute_path(arguments.scratch or environ.get("TMPDIR") or _DEFAULT_SCRATCH))
    sample = Sample(share, secrets.randbits(_SEED_BITS))
    results = []
    for name in names:
        result = await _drill_one(context, backup, name, parent, sample)
        results.append(result)
        _record(context, view.repository.id, result)
    await context.out.result(
        [_json(result) for result in results],
        lambda: result_text(
            [(r.dogu, r.passed, r.drill.files, r.drill.bytes) for r in results],
            backup.id,
            share,
            context.out.room,
        ),
    )
    if not context.out.as_json:
        context.out.note("\n".join(map(_failures, results)).strip(), always=True, lines=True)
    return 0 if all(result.passed for result in results) else 1


def _record(context: Context, repository: str, result: _Result) -> None:
    """Record a result; without a state directory the drill still counts for its exit code."""
    directory = state_directory(context.session.environ)
    try:
        record_drill(directory, repository, result.dogu, result.drill, passed=result.passed)
    except CesbrError as error:
        context.out.note(error.message, always=True)


async def _drill_one(
    context: Context, backup: Backup, name: str, parent: Path, sample: Sample
) -> _Result:
    from cesbrfs.restore.drill import drill, scratch_directory

    began, report, error = time.time(), None, ""
    workers = (await context.session.settings()).workers
    view = await context.view()
    place = await view.resolve(f"/{show(backup.name)}/{name}")
    with context.out.progress(f"Restoring {name}", results=True) as progress:

        def tell(done: Progress) -> None:
            progress.update(**done._asdict())

        async with scratch_directory(parent) as scratch:
            try:
                report = await drill(view, place, scratch, sample, tell, workers=workers)
            except CesbrError as raised:
                error = raised.message
    files, size = (report.files, report.bytes) if report else (0, 0)
    return _Result(name, Drill(began, backup.id, sample.share, files, size), report, error)


async def _names(view: BackupTree, backup: Backup, wanted: Sequence[str]) -> list[str]:
    """Return the names of the chosen dogus in the backup, of all and the instance by default."""
    dogus = await view.dogus(backup)
    instance = show(directory_names.INSTANCE)
    if await view.child(await view.at((backup.name,)), directory_names.INSTANCE) is not None:
        dogus.append(instance)
    for name in wanted:
        if name not in dogus:
            raise UsageError(
                f"Backup {show(os.fsencode(backup.id))} contains no dogu"
                f" '{show(os.fsencode(name))}'. It contains {', '.join(dogus)}."
            )
    return list(dict.fromkeys(wanted)) or dogus


async def _list(context: Context, view: BackupTree, arguments: argparse.Namespace) -> int:
    history = read_drills(state_directory(context.session.environ), view.repository.id)
    dogus = sorted({*history.passed, *history.failed})
    dogus = [dogu for dogu in dogus if not arguments.dogus or dogu in arguments.dogus]
    result = [
        {
            "dogu": dogu,
            "passed": _drill_json(history.passed.get(dogu)),
            "failed": _drill_json(history.failed.get(dogu)),
        }
        for dogu in dogus
    ]
    await context.out.result(result, lambda: drills_text(history, dogus, context.out.room))
    return 0


def _share(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:  # noqa: PLR2004 - percent
        raise UsageError(f"Invalid --sample '{text}': pass a percentage such as 5%.")
    return percent / 100


def _json(result: _Result) -> dict[str, object]:
    failed = result.report.failed if result.report else []
    return {
        "dogu": result.dogu,
        "passed": result.passed,
        **(_drill_json(result.drill) or {}),
        "error": result.error or None,
        "failed": [{**for_json(f.path, "path"), "error": f.error} for f in failed],
    }


def _drill_json(drill: Drill | None) -> dict[str, object] | None:
    if drill is None:
        return None
    return {
        "time": format_time(int(drill.time) * _NS),
        "backup": drill.backup,
        "share": drill.share,
        "files": drill.files,
        "bytes": drill.bytes,
    }


def _failures(result: _Result) -> str:
    if result.error:
        return f"failed: {result.dogu}: {result.error}"
    failed = result.report.failed if result.report else []
    lines = [f"failed: {show(one.path)}: {one.error}" for one in failed[:_SHOWN_FAILURES]]
    if len(failed) > _SHOWN_FAILURES:
        more = humanize.count(len(failed) - _SHOWN_FAILURES, "file")
        lines.append(f"failed: {more} more in {result.dogu}; --json lists all")
    return "\n".join(lines)


COMMANDS: Final = (
    Command(
        "drill",
        "Prove that a backup can be restored: restore files, verify them, remove them.",
        "drill redmine --sample 100%",
        _arguments,
        _drill,
        f"Restores {share_text(0.05)} of each dogu to a scratch directory, reads them back from"
        " the disk, compares them with the backup, and removes them.  Records when each dogu was"
        " last restored without errors.  Exit code 1: something could not be restored.",
    ),
)
