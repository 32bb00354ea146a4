"""Completion at the prompt: paths in the backups, Backup IDs.

An argument's metavar says how it completes.  Completing reads, never initialises, gives up after a
moment, and is silent about errors: the command tells them.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import cmd2

from cesbrfs.errors import CesbrError
from cesbrfs.paths import show
from shell.output import Output
from shell.session import Context

if TYPE_CHECKING:
    from shell.app import App

T = TypeVar("T")

_SECONDS: Final = 5.0


def attach(parser: cmd2.Cmd2ArgumentParser) -> None:
    """Give each argument of `parser` the completion that its metavar asks for."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        if action.metavar == "PATH":
            action.set_completer(_paths)  # type: ignore[attr-defined]  # cmd2 adds it
        elif action.metavar == "ID":
            action.set_choices_provider(_backups)  # type: ignore[attr-defined]  # as above
        elif action.metavar in ("FOLDER", "FILE"):
            action.set_completer(cmd2.Cmd.path_complete)  # type: ignore[attr-defined]  # as above


def _backups(app: App) -> cmd2.Choices:
    """Return the Backup IDs, the newest first."""

    async def find(context: Context) -> list[str]:
        by_name = (await (await context.view(may_init=False)).backups()).by_name
        return [backup.id for backup in reversed(by_name.values())]

    found = _ask(app, find) or []
    return cmd2.Choices.from_values(["latest", *found] if found else [], is_sorted=True)


def _paths(app: App, text: str, line: str, _begin: int, _end: int) -> cmd2.Completions:
    """Complete `text`, a path as it has been typed so far, by what its folder holds."""
    folder, slash, start = text.rpartition("/")
    backup = _backup_on(line)

    async def find(context: Context) -> list[tuple[str, bool]]:
        view = await context.view(may_init=False)
        place = context.session.place
        path = folder + slash or "."
        if backup is not None:
            place = ((await view.find_backup(backup)).name,)
            path = path.lstrip("/") or "."
        children = await view.children((await view.resolve(path, place)).entry)
        return [(show(name), stat.S_ISDIR(e.node.mode)) for name, e in children.items()]

    matches = [
        (name + "/" * is_folder, is_folder)
        for name, is_folder in _ask(app, find) or []
        if name.startswith(start)
    ]
    items = [cmd2.CompletionItem(folder + slash + name, display=name) for name, _ in matches]
    return cmd2.Completions(items, allow_finalization=not any(folder for _, folder in matches))


def _backup_on(line: str) -> str | None:
    """Return what ``--backup`` says on the line."""
    words = line.split()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--backup" and following:
            return following
        if word.startswith("--backup="):
            return word.partition("=")[2]
    return None


def _ask(app: App, question: Callable[[Context], Awaitable[T]]) -> T | None:
    """Return the answer, None when it takes too long or cannot be had."""
    context = Context(app.session, Output(quiet=True), no_init=True)

    async def run() -> T | None:
        import trio  # noqa: PLC0415 - the prompt's start does not wait for it

        with trio.move_on_after(_SECONDS):
            return await question(context)
        return None

    try:
        return app.portal.run(run)
    except CesbrError:
        return None
