"""The basket: what is selected for a restore, from any backup, until it is restored."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.commands.navigate import add_backup_flag, choose_backup, locate_all
from cesbr.paths import walk
from cesbr.state.basket import Parts, parse, shown
from cesbr.state.state_dir import write_private
from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.catalog import directory_names
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import CesbrError, NotFoundError, UsageError
from cesbrfs.util.escape import for_json, show
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.glob import fits
from cesbrfs.vfs.measure import TreeSize, measure

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.vfs.tree import BackupTree


# select


def _select_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="files and directories, with wildcards"
    )
    add_backup_flag(parser)
    parser.add_argument(
        "--load", metavar="FILE", help="select the paths that 'selected --save' saved"
    )


async def _select(context: Context, arguments: argparse.Namespace) -> int:
    if not arguments.paths and not arguments.load:
        raise UsageError("Nothing to select. Pass paths or --load FILE.")
    view = await context.view()
    places: list[Parts] = []
    if arguments.load:
        places += await _loaded(view, arguments.load)
    backup = await choose_backup(context, arguments.backup, arguments.paths)
    for path in arguments.paths:
        located_paths = await locate_all(context, path, backup)
        places += [located.parts for _, located in located_paths]
    if () in places:
        raise UsageError(
            "Only a backup or a path in it can be selected, not all backups at once. Pass a backup"
            " or a path in one."
        )
    basket = context.session.basket(view)
    new = basket.add(places)
    total = len(basket.paths)
    more = "" if new == total else f" ({humanize.count(total, 'path')} in total)"
    await context.out.result(
        {"added": new, "selected": total}, f"Selected {humanize.count(new, 'path')}{more}.\n"
    )
    return 0


async def _loaded(view: BackupTree, file: str) -> tuple[Parts, ...]:
    """Return the paths that a file names; NotFoundError when a backup has one no more."""
    paths = _read(Path(absolute_path(file)))
    await gather([partial(view.at, parts) for parts in paths])
    return paths


def _read(file: Path) -> tuple[Parts, ...]:
    try:
        return parse(file.read_text("utf-8", "surrogateescape"))
    except OSError as error:
        raise UsageError(f"Cannot read {file}: {error.strerror}.") from None
    except UsageError as error:
        raise UsageError(f"Cannot load {file}: {error.message}") from None


# deselect


def _deselect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="deselect these paths and everything below them, with wildcards",
    )
    add_backup_flag(parser)
    parser.add_argument("--all", action="store_true", help="everything")


async def _deselect(context: Context, arguments: argparse.Namespace) -> int:
    if bool(arguments.paths) == arguments.all:
        raise UsageError("Nothing to deselect. Pass paths or --all.")
    view = await context.view()
    basket = context.session.basket(view)
    before = basket.paths
    gone = set(before) if arguments.all else set()
    start = context.session.place
    if arguments.backup:
        start = (await _directory_of(view, arguments.backup, before),)
    for path in arguments.paths:
        absolute = path.startswith("/") and not arguments.backup
        wanted = walk(() if absolute else start, path)
        first = os.fsdecode(wanted[0]) if wanted else ""
        if directory_names.steps_back(first) is not None:
            wanted = ((await view.find_backup(first)).name, *wanted[1:])
        gone |= _matching(before, wanted, path)
    basket.remove(gone)
    left = len(before) - len(gone)
    await context.out.result(
        {"removed": len(gone), "selected": left},
        f"Deselected {humanize.count(len(gone), 'path')} ({left:,} left).\n",
    )
    return 0


async def _directory_of(view: BackupTree, backup: str, selected: Sequence[Parts]) -> bytes:
    """Return the directory of a backup, though it may be gone by now."""
    name = os.fsencode(backup)
    if any(parts[0] == name for parts in selected):
        return name
    return (await view.find_backup(backup)).name


def _matching(selected: Sequence[Parts], wanted: Parts, path: str) -> set[Parts]:
    """Return what is selected at or below a path; NotFoundError when nothing is."""
    matching = {parts for parts in selected if fits(wanted, parts)}
    if matching:
        return matching
    for parts in selected:
        if len(parts) < len(wanted) and fits(wanted[: len(parts)], parts):
            raise NotFoundError(
                f"{path!r} is selected as part of {shown(parts)}. Deselect that, and select the"
                " paths that you want."
            )
    raise NotFoundError(f"{path!r} is not selected. Run 'cesbr selected' for a list.")


# selected


def _selected_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save", metavar="FILE", help="save the selection to a file for 'select --load'"
    )


async def _selected(context: Context, arguments: argparse.Namespace) -> int:
    view = await context.view()
    basket = context.session.basket(view)
    paths = basket.paths
    if arguments.save:
        try:
            write_private(
                Path(absolute_path(arguments.save)),
                basket.dump().encode("utf-8", "surrogateescape"),
            )
        except OSError as error:
            raise UsageError(f"Cannot write {arguments.save}: {error.strerror}.") from None
    with context.out.progress("Measuring", results=True):
        amounts = await gather([partial(_amount, view, parts) for parts in paths])
    backups = (await view.backups()).by_name
    rows = []
    rows_json: list[dict[str, object]] = []
    for parts, amount in zip(paths, amounts, strict=True):
        backup = backups[parts[0]].id if parts[0] in backups else show(parts[0])
        files, size = (None, None) if isinstance(amount, CesbrError) else amount
        inside = b"/".join(parts[1:])
        unknown = "gone" if isinstance(amount, NotFoundError) else "?"
        rows.append(
            (
                show(os.fsencode(backup)),
                unknown if files is None else f"{files:,}",
                humanize.size(size),
                "/".join(map(show, parts[1:])) or "/",
            )
        )
        rows_json.append(
            {"backup": backup, **for_json(inside, "path"), "files": files, "bytes": size}
        )
    if rows:
        known = [amount for amount in amounts if isinstance(amount, TreeSize)]
        files, size = sum(a.files for a in known), sum(a.bytes for a in known)
        rows.append(("", f"{files:,}", humanize.size(size), "in total"))
    await context.out.result(
        rows_json,
        lambda: fitted(
            rows,
            ("Backup", "Files", "Size", "Path"),
            context.out.room,
            right=("Files", "Size"),
            spare=("Files",),
        ),
    )
    if not paths and not context.out.as_json:
        context.out.note("Nothing is selected. Run 'cesbr select PATH' to select.")
    return 0


async def _amount(view: BackupTree, parts: Parts) -> TreeSize | CesbrError:
    """Return the size of a selected path, or the error."""
    try:
        return await measure(view, await view.at(parts))
    except CesbrError as error:
        return error


COMMANDS: Final = (
    Command(
        "select",
        "Select files and directories of any backups, to be restored together.",
        "select --backup latest redmine/volumes/files",
        _select_arguments,
        _select,
        "The selection is saved until it is restored, also for the next session.  It refers to"
        " backups by their IDs, so later backups do not change it.",
    ),
    Command(
        "deselect",
        "Remove paths from the selection.",
        "deselect --all",
        _deselect_arguments,
        _deselect,
    ),
    Command(
        "selected",
        "List the selected paths, with their files and bytes.",
        "selected",
        _selected_arguments,
        _selected,
        "Paths whose backup was removed are marked; deselect them.",
    ),
)
