"""What a restore was asked for, so that it can be taken up again when it was cut short."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cesbr.state.basket import shown
from cesbr.state.state_dir import state_folder
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import UsageError
from cesbrfs.restore.journal import last_request
from cesbrfs.restore.journal import read as read_journal
from cesbrfs.util.escape import show, unshow

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.restore import RestorePlan, Selection
    from cesbrfs.vfs.tree import BackupTree


def journals(context: Context) -> Path | None:
    """Return where the journals of restores are."""
    state = state_folder(context.session.environ)
    return state / "restores" if state else None


def request_of(
    view: BackupTree, arguments: argparse.Namespace, selection: Selection, planned: RestorePlan
) -> dict[str, object]:
    """Return what --resume needs to ask for the same again."""
    return {
        "repository": view.repository.id,
        "paths": [shown((item.backup, *item.parts)) for item in selection.items],
        "basket": from_basket(arguments),
        "in_place": arguments.in_place,
        "target": show(os.fsencode(planned.target)),
        "overwrite": str(planned.overwrite),
        "suffix": None if arguments.suffix is None else show(os.fsencode(arguments.suffix)),
        "verify": arguments.verify,
        "other_host": arguments.other_host,
    }


async def resume(context: Context, view: BackupTree, arguments: argparse.Namespace) -> None:
    """Make the arguments those of the restore that was cut short: into this target, or the last."""
    folder = journals(context)
    request = None
    if folder and (arguments.target or arguments.in_place):
        target = absolute(arguments.target or (await context.session.settings()).root)
        request = (await trio.to_thread.run_sync(read_journal, folder, target)).request
    elif folder:
        request = await trio.to_thread.run_sync(last_request, folder, view.repository.id)
    if request is None or request["repository"] != view.repository.id:
        raise UsageError("No restore from this repository was cut short; name what to restore.")
    arguments.backup = None
    arguments.paths = request["paths"]
    arguments.basket = request["basket"]
    arguments.in_place = request["in_place"]
    arguments.target = None if arguments.in_place else _meant(request["target"])
    arguments.overwrite = request["overwrite"]
    arguments.verify = arguments.verify or request.get("verify", False)
    arguments.other_host = arguments.other_host or request.get("other_host", False)
    arguments.suffix = None if request["suffix"] is None else _meant(request["suffix"])


def _meant(text: str) -> str:
    return os.fsdecode(unshow(text) or b"")


def from_basket(arguments: argparse.Namespace) -> bool:
    """Return whether the selection is restored, perhaps by resuming."""
    return getattr(arguments, "basket", not arguments.paths and not arguments.backup)


def absolute(path: str | Path) -> Path:
    """Return a path from the root on."""
    return Path(absolute_path(str(path)))
