"""Protecting backups from removal, and describing them with a note."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.safeguards import backups_blocked
from cesbrfs.errors import UsageError
from cesbrfs.util.escape import printable, show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup


def _ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backups", metavar="ID", nargs="+", help="these backups")


async def _protect(context: Context, arguments: argparse.Namespace) -> int:
    return await _change(context, arguments.backups, protected=True)


async def _unprotect(context: Context, arguments: argparse.Namespace) -> int:
    return await _change(context, arguments.backups, protected=False)


async def _change(context: Context, wanted: Sequence[str], *, protected: bool) -> int:
    """Protect backups or remove their protection, and print what changed."""
    from cesbrfs.annotate import protect, unprotect

    chosen = await _find(context, wanted)
    view = await context.view()
    restic = await context.session.restic()
    act = protect if protected else unprotect
    root = (await context.session.settings()).root
    with backups_blocked(root, "A change of protected backups"), context.out.progress("Tagging"):
        changed = await act(chosen, restic=restic, repository=view.repository)
    await view.backups(max_age=0)
    names = {backup.id for backup in changed}
    new, old = ("now", "already") if protected else ("no longer", "not")
    await context.out.result(
        [{"id": b.id, "protected": protected, "changed": b.id in names} for b in chosen],
        "".join(
            f"Backup {_shown(backup)} is {new if backup.id in names else old} protected.\n"
            for backup in chosen
        ),
    )
    return 0


def _note_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", metavar="ID", help="the backup")
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="the new note (default: print the current one)"
    )
    parser.add_argument("--remove", action="store_true", help="remove the note")


async def _note(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.annotate import set_note
    from cesbrfs.catalog.annotations import note_tag

    text: str | None = arguments.text
    if text is not None and arguments.remove:
        raise UsageError("Pass a text or --remove, not both.")
    if text is not None:
        note_tag(text)  # raises UsageError before the repository is opened
    (backup,) = await _find(context, [arguments.backup])
    if text is None and not arguments.remove:
        shown = printable(backup.note) + "\n" if backup.note else ""
        await context.out.result({"id": backup.id, "note": backup.note}, shown)
        return 0
    view = await context.view()
    restic = await context.session.restic()
    root = (await context.session.settings()).root
    with backups_blocked(root, "A change of a note"), context.out.progress("Tagging"):
        changed = await set_note(backup, text, restic=restic, repository=view.repository)
    note = (await view.backups(max_age=0)).find(backup.id).note
    done = "has a new note" if text is not None else "has no note any more"
    if not changed:
        done = "already has this note" if text is not None else "has no note"
    await context.out.result(
        {"id": backup.id, "note": note, "changed": changed}, f"Backup {_shown(backup)} {done}.\n"
    )
    return 0


async def _find(context: Context, wanted: Sequence[str]) -> list[Backup]:
    """Return the backups named, each once, from a new list."""
    view = await context.view()
    await view.backups(max_age=0)
    found = [await view.find_backup(name) for name in wanted]
    return list({backup.id: backup for backup in found}.values())


def _shown(backup: Backup) -> str:
    return show(os.fsencode(backup.id))


COMMANDS: Final = (
    Command(
        "protect",
        "Protect backups: neither 'forget' nor a policy removes them.",
        "protect latest",
        _ids,
        _protect,
        "The protection is a tag in the repository, so it also applies to other users of it.",
        all_backups=True,
    ),
    Command(
        "unprotect",
        "Remove the protection of backups.",
        "unprotect latest",
        _ids,
        _unprotect,
        all_backups=True,
    ),
    Command(
        "note",
        "Set, print or remove the note on a backup.",
        "note latest 'before the upgrade'",
        _note_arguments,
        _note,
        "A note is one line of at most 200 characters.  'backups' and 'use' show it.",
        all_backups=True,
    ),
)
