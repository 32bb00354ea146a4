r"""Completion at the prompt: paths in the backups, Backup IDs, dogus.

An argument's metavar says how it completes.  Completing reads, never initialises, and is silent
about errors: the command tells them.  What takes longer than a moment completes nothing, but goes
on being read, so that it is there when Tab is pressed again.

A completed name is what was typed and the rest of the name, escaped where the prompt would take a
character for something else: it works whatever is in it.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import cmd2

from cesbrfs.errors import CesbrError
from cesbrfs.paths import show, unshow
from cesbrfs.tasks import gather
from shell import render
from shell.output import Output
from shell.portal import TooSlowError
from shell.session import Context

if TYPE_CHECKING:
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.view import View
    from shell.app import App

T = TypeVar("T")

_SECONDS: Final = 0.9
_FRESH_SECONDS: Final = 10.0
"""Backups are listed again when the last list is older."""
_DESCRIBED: Final = 30
"""Backups that are shown with their status, which their manifests must be read for."""
_SHOWN: Final = 400
"""Names that are offered; nobody reads more, and the terminal would be busy with them."""
_SPECIAL: Final = str.maketrans({'"': r"\x22", "'": r"\x27", "|": r"\x7c", ">": r"\x3e"})


def attach(parser: cmd2.Cmd2ArgumentParser) -> None:
    """Give each argument of `parser` the completion that its metavar asks for."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        if action.metavar == "PATH":
            action.set_completer(_paths)  # type: ignore[attr-defined]  # cmd2 adds it
        elif action.metavar == "ID":
            action.set_choices_provider(_backups)  # type: ignore[attr-defined]  # as above
        elif action.metavar == "DOGU":
            action.set_choices_provider(_dogus)  # type: ignore[attr-defined]  # as above
        elif action.metavar in ("FOLDER", "FILE"):
            action.set_completer(cmd2.Cmd.path_complete)  # type: ignore[attr-defined]  # as above


# Backup IDs and dogus


def _backups(app: App) -> cmd2.Choices:
    """Return the Backup IDs, the newest first, with time, status and size beside."""

    async def find(context: Context) -> list[tuple[str, str]]:
        view = await context.view(may_init=False)
        newest = list((await view.backups(_FRESH_SECONDS)).by_name.values())[::-1]
        told = await gather([partial(_beside, view, backup) for backup in newest[:_DESCRIBED]])
        told += [render.local_time(backup.time_ns) for backup in newest[_DESCRIBED:]]
        return [(backup.id, beside) for backup, beside in zip(newest, told, strict=True)]

    found = _ask(app, find) or []
    if found:
        found.insert(0, ("latest", "the newest complete backup"))
    items = [cmd2.CompletionItem(backup, display_meta=beside) for backup, beside in found]
    return cmd2.Choices(items, is_sorted=True)


async def _beside(view: View, backup: Backup) -> str:
    told = await view.reports.of(backup)
    size = render.size(told.size(backup))
    return f"{render.local_time(backup.time_ns)}  {told.status:<10}  {size:>9}"


def _dogus(app: App) -> cmd2.Choices:
    """Return the dogus that are installed."""

    async def find(context: Context) -> list[str]:
        instance = (await context.session.settings()).instance()
        return [dogu.name for dogu in await instance.dogus()]

    return cmd2.Choices.from_values(_ask(app, find) or [])


# Paths


class Continuation(NamedTuple):
    """A name that what was typed may become: the whole word, the name as a menu shows it."""

    word: str
    shown: str
    is_folder: bool


def _paths(app: App, text: str, line: str, begin: int, _end: int) -> cmd2.Completions:
    """Complete `text`, a path as it has been typed so far, by what its folder holds."""
    folder, slash, start = text.rpartition("/")
    before = folder + slash
    backup = _backup_on(line)
    quoted = line[:begin].endswith(("'", '"'))

    async def find(context: Context) -> list[Continuation]:
        view = await context.view(may_init=False)
        await view.backups(_FRESH_SECONDS)
        place = context.session.place
        path = before or "."
        if backup is not None:
            place = ((await view.find_backup(backup)).name,)
            path = path.lstrip("/") or "."
        children = await view.children((await view.resolve(path, place)).entry)
        folders = {name: stat.S_ISDIR(e.node.mode) for name, e in children.items()}
        return continuations(start, folders, quoted=quoted)

    found = _ask(app, find) or []
    items = []
    for word, shown, _ in found:
        # A name that begins with a dash would be taken for a flag.
        dot = "./" if word.startswith("-") and not before else ""
        items.append(cmd2.CompletionItem(dot + before + word, display=shown))
    return cmd2.Completions(items, allow_finalization=not any(one.is_folder for one in found))


def continuations(
    start: str, children: Mapping[bytes, bool], *, quoted: bool = False
) -> list[Continuation]:
    """Return what `start` may become: the names that begin so, folders with ``/``.

    `children` tells whether a name is a folder, `quoted` whether the word stands in quotes.
    Of very many names some are returned, the first and the last of them, so that what all have in
    common stays the same.
    """
    literal, meant = start.encode("utf-8", "surrogateescape"), unshow(start)
    found = []
    for name in sorted(children):
        if meant is not None and name.startswith(meant):
            found.append((name, start, name[len(meant) :]))
        elif name.startswith(literal) or (
            meant is None and _written(name, quoted=quoted).startswith(start)
        ):
            found.append((name, "", name))
    if len(found) > _SHOWN:
        found = found[: _SHOWN // 2] + found[-_SHOWN // 2 :]
    return [
        Continuation(
            typed + _written(rest, quoted=quoted) + "/" * children[name],
            show(name) + "/" * children[name],
            children[name],
        )
        for name, typed, rest in found
    ]


def _written(name: bytes, *, quoted: bool) -> str:
    """Return `name` as the prompt takes it within a word or within quotes."""
    word = show(name).translate(_SPECIAL)
    # cmd2 could put the word in quotes, but then Tab must be pressed twice.
    return word if quoted else word.replace(" ", r"\x20")


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

    async def run() -> T:
        return await question(context)

    try:
        return app.portal.run(run, patience=_SECONDS)
    except (CesbrError, TooSlowError):
        return None
