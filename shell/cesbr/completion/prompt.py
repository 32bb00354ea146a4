r"""Completion at the prompt: paths in the backups, Backup IDs, dogus.

An argument's metavar says how it completes.  Completing reads, never initialises, and is silent
about errors: the command tells them.  What takes longer than a moment completes nothing, but goes
on being read, so that it is there when Tab is pressed again.

A completed name is what was typed and the rest of the name, escaped where the prompt would take a
character for something else: it works whatever is in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import cmd2

from cesbr.completion import candidates
from cesbr.completion.name_index import Continuation
from cesbr.portal import TooSlowError
from cesbr.session import Context
from cesbr.ui.output import Output
from cesbrfs.errors import CesbrError
from cesbrfs.util.escape import printable, show
from cesbrfs.vfs.tree import as_listed_last

if TYPE_CHECKING:
    from cesbr.app import App
    from cesbr.commands import Command

T = TypeVar("T")

_SECONDS: Final = 0.9
_GLANCE_SECONDS: Final = 0.02
_FRESH_SECONDS: Final = 10.0
_SPECIAL: Final = str.maketrans({'"': r"\x22", "'": r"\x27", "|": r"\x7c", ">": r"\x3e"})


def attach(parser: cmd2.Cmd2ArgumentParser, command: Command) -> None:
    """Give each argument of `parser` the completion that its metavar asks for."""
    paths = partial(_paths, looks_back=command.looks_back)
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        if action.metavar == "PATH":
            action.set_completer(paths)  # type: ignore[attr-defined]  # cmd2 adds it
        elif action.metavar in ("ID", "ID|live"):
            live = action.metavar != "ID"
            action.set_choices_provider(partial(_backups, live=live))  # type: ignore[attr-defined]  # as above
        elif action.metavar in ("DOGU", "DOGU|KEY"):
            action.set_choices_provider(_dogus)  # type: ignore[attr-defined]  # as above
        elif action.metavar == "RESTORE":
            action.set_choices_provider(_restores)  # type: ignore[attr-defined]  # as above
        elif action.metavar in ("DIR", "FILE"):
            action.set_completer(cmd2.Cmd.path_complete)  # type: ignore[attr-defined]  # as above


def _backups(app: App, *, live: bool) -> cmd2.Choices:
    """Return the Backup IDs, the newest first, with time, status and size beside."""
    write = partial(written, quoted=False)
    described = _ask(app, partial(candidates.backups, write=write, live=live)) or []
    items = [cmd2.CompletionItem(backup, display_meta=beside) for backup, beside in described]
    return cmd2.Choices(items, is_sorted=True)


def _restores(app: App) -> cmd2.Choices:
    """Return the IDs of restores that can be undone, the newest first, with time and target."""
    described: list[tuple[str, str]] = []
    with suppress(CesbrError):
        described = candidates.restores(Context(app.session, Output(quiet=True), no_init=True))
    items = [cmd2.CompletionItem(restore, display_meta=beside) for restore, beside in described]
    return cmd2.Choices(items, is_sorted=True)


def _dogus(app: App) -> cmd2.Choices:
    """Return the dogus that are installed."""
    return cmd2.Choices.from_values(map(printable, _ask(app, candidates.dogus) or []))


def _paths(
    app: App, text: str, line: str, begin: int, _end: int, *, looks_back: bool
) -> cmd2.Completions:
    """Complete `text`, a path as it has been typed so far, by what its directory holds."""
    directory, slash, _ = text.rpartition("/")
    before = directory + slash
    backup = _backup_on(line)
    write = partial(written, quoted=line[:begin].endswith(("'", '"')))

    async def find(context: Context) -> list[Continuation]:
        return await candidates.paths(context, text, write, backup=backup, looks_back=looks_back)

    continuations = _ask(app, find) or []
    items = []
    for word, shown, _, beside in continuations:
        # A name that begins with a dash would be taken for a flag.
        dot = "./" if word.startswith("-") and not before else ""
        items.append(cmd2.CompletionItem(dot + before + word, display=shown, display_meta=beside))
    return cmd2.Completions(
        items, allow_finalization=not any(one.is_directory for one in continuations)
    )


def written(name: bytes, *, quoted: bool) -> str:
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
    """Return the answer, None when it takes too long or cannot be had.

    It is about the backups as they are known: a new list of them is waited for only a moment, so a
    slow server's is there for the next Tab.
    """
    context = Context(app.session, Output(quiet=True), no_init=True)

    async def run() -> T:
        with as_listed_last():
            return await question(context)

    view = app.session.view
    if view is not None and not view.listing.is_under_way:
        listing = partial(view.backups, _FRESH_SECONDS)
        with suppress(CesbrError, TooSlowError):
            app.portal.run(listing, patience=_GLANCE_SECONDS)
    try:
        return app.portal.run(run, patience=_SECONDS)
    except (CesbrError, TooSlowError):
        return None
