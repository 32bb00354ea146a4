"""``cesbr __complete``: what Tab in bash, zsh and fish makes of a one-shot command line.

The files ``cesbr.bash``, ``cesbr.zsh`` and ``cesbr.fish`` call it.  The first line of the answer
is the kind of what follows: ``words``
or ``paths``, a candidate a line, with what is known of it after a tab; ``files`` or
``directories``, which the shell completes itself; or ``note``, a line with the reason why there is
no answer. Candidates are whole words, not quoted, and printable.

It reads and never initialises, runs no command that might ask for a key, and has ended within a
second (or ``CESBR_TAB_SECONDS``), whatever it waits for: then a note says so.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from cesbr.cli.arguments import command_parser, global_parser
from cesbr.commands import MODULES, Command, find_command
from cesbr.completion.parse import CompletionRequest, asked, split
from cesbrfs.errors import CesbrError
from cesbrfs.util.escape import printable, show, unshow

if TYPE_CHECKING:
    import argparse
    from types import FrameType

    from cesbr.session import Context
    from cesbrfs.config.settings import Flags

_SECONDS: Final = 0.9
_MOST_SECONDS: Final = 60.0
_FILES: Final = {
    "FILE": "files", "DIR": "folders", "URL": "folders",
    "PATH-or-URL": "folders",
}  # fmt: skip
_EXPANDED: Final = str.maketrans({"$": r"\x24", "`": r"\x60"})
_PLAIN: Final = re.compile(r"[\w./=+,-]*").fullmatch
_LIVE: Final = ("PATH", "ID", "DOGU", "RESTORE")
_WITHOUT_KEY: Final = ("DOGU", "RESTORE")
"""What completes without the repository."""


class CompletionAnswer(NamedTuple):
    """What the last word may become: candidates, each with what is known of it."""

    kind: str = "words"
    candidates: Sequence[tuple[str, str]] = ()


def complete(given: Sequence[str]) -> NoReturn:
    """Answer ``bash LINE WORD``, or ``SHELL WORD…`` of another shell, on stdout."""
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, _seconds())
    shell, *rest = given or [""]
    if shell == "bash":
        line, unread = rest
        answer = in_bash(line, unread)
    else:
        answer = answer_to(rest)
    _write(answer)
    os._exit(0)


def _seconds() -> float:
    """Return how long an answer may take: on a slow machine the key alone needs a second."""
    try:
        given = float(os.environ.get("CESBR_TAB_SECONDS", ""))
    except ValueError:
        return _SECONDS
    return given if 0 < given <= _MOST_SECONDS else _SECONDS


def _write(answer: CompletionAnswer) -> None:
    lines = [f"{word}\t{beside}".rstrip("\t") for word, beside in answer.candidates]
    with suppress(OSError):  # the shell did not wait for it
        sys.stdout.write("".join(f"{line}\n" for line in (answer.kind, *lines)))
        sys.stdout.flush()


_at_least: Final[list[CompletionAnswer]] = []
"""The answer if the time is over."""


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    late = f"no response within {_seconds():g} s. Press Tab again, or set CESBR_TAB_SECONDS."
    for answer in _at_least or [_note(late)]:
        _write(answer)
    os._exit(0)  # threads and servers are waited for by nobody


def _note(text: str) -> CompletionAnswer:
    return CompletionAnswer("note", [(printable(text), "")])


def in_bash(line: str, unread: str) -> CompletionAnswer:
    """Answer for the end of `line`, of which bash replaces only `unread`.

    bash breaks words at signs like ``=`` and ``:``, too; what it takes for separate words must not
    be in the candidates.  It quotes paths, all but two signs, which it would expand.
    """
    words = split(line)
    if words[-1][:1] in ("<", ">"):
        return CompletionAnswer("files")
    kept = split(line.removesuffix(unread))[-1] if line.endswith(unread) else ""
    words = [word for word in words[1:] if word[:1] not in ("<", ">")]
    answer = answer_to(words, summaries=False)
    if answer.kind == "note":
        return answer
    completed = [word.removeprefix(kept) for word, _ in answer.candidates if word.startswith(kept)]
    if answer.kind == "paths":
        # A word with a stray backslash is read as it stands, so that nothing in it can be escaped.
        completed = [
            word.translate(_EXPANDED) for word in completed if _PLAIN(word) or unshow(word)
        ]
    elif not all(map(_PLAIN, completed)):
        return CompletionAnswer(
            "paths", [(word, "") for word in completed if not set(word) & {"$", "`"}]
        )
    return CompletionAnswer(answer.kind, [(word, "") for word in completed])


def answer_to(words: Sequence[str], *, summaries: bool = True) -> CompletionAnswer:
    """Return what the last of `words`, those after ``cesbr``, may become."""
    place = next((n for n in range(len(words) - 1) if _is_command(words, n)), None)
    if place is not None and words[place] == "help":
        return _commands(words[-1], summaries=summaries)
    if place is not None:
        try:
            command = find_command(words[place])
        except CesbrError:
            return CompletionAnswer()
        parser = command_parser(command)
        here = asked(parser, words[place + 1 :])
        given = asked(global_parser(), [*words[:place], ""]).given | here.given
        return _answer(here, command, given, parser)
    here = asked(global_parser(), words)
    is_flag = here.typed.startswith("-") or here.before
    if here.action is not None and here.action.dest == "command" and not is_flag:
        return _commands(here.typed, summaries=summaries)
    return _answer(here, None, here.given, global_parser())


def _is_command(words: Sequence[str], place: int) -> bool:
    """Return whether the command is at `place`."""
    action = asked(global_parser(), words[: place + 1]).action
    return action is not None and action.dest == "command" and not words[place].startswith("-")


def _commands(typed: str, *, summaries: bool) -> CompletionAnswer:
    """Return the commands that begin so; importing all of them for their summaries takes long."""
    help_line = ("help", "List the commands, or show the help of one.")
    matches = [name for names in MODULES.values() for name in names if name.startswith(typed)]
    bare = _matching(typed, [*((name, "") for name in matches), help_line])
    if not summaries:
        return bare
    _at_least.append(bare)
    return _matching(typed, [*((name, find_command(name).summary) for name in matches), help_line])


def _flags(parser: argparse.ArgumentParser, typed: str) -> CompletionAnswer:
    flags = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        names = [name for name in action.option_strings if name.startswith("--")]
        flags += [(name, action.help or "") for name in names or action.option_strings]
    return _matching(typed, flags)


def _matching(
    typed: str, candidates: Sequence[tuple[str, str]], before: str = ""
) -> CompletionAnswer:
    return CompletionAnswer(
        "words",
        [(before + word, summary) for word, summary in candidates if word.startswith(typed)],
    )


def _answer(
    here: CompletionRequest,
    command: Command | None,
    given: dict[str, str],
    parser: argparse.ArgumentParser,
) -> CompletionAnswer:
    """Return what a value may become, or an option where one is being typed."""
    action, typed, before, _ = here
    is_argument = action is None or not action.option_strings
    if is_argument and typed.startswith("-") and not before:
        return _flags(parser, typed)
    if action is None:
        return CompletionAnswer()
    if action.choices:
        return _matching(typed, [(str(choice), "") for choice in action.choices], before)
    kind = str(action.metavar).partition("|")[0]
    if kind in _FILES:
        return CompletionAnswer(_FILES[kind])
    if kind not in _LIVE:
        return CompletionAnswer()
    return _live(kind, here, command, given)


def _live(
    kind: str, here: CompletionRequest, command: Command | None, given: dict[str, str]
) -> CompletionAnswer:
    """Ask the repository or the instance; nothing where it cannot answer."""
    from cesbr.session import Context, Session

    session = Session(_settings(given))
    if kind not in _WITHOUT_KEY:
        session.look_ahead()  # it takes as long as the imports that follow
    import trio

    from cesbr.completion import candidates
    from cesbr.ui.output import Output

    context = Context(session, Output(quiet=True), no_init=True)

    async def ask() -> CompletionAnswer:
        if kind == "DOGU":
            words = [(printable(name), "") for name in await candidates.dogus(context)]
            return _matching(here.typed, words, here.before)
        if kind == "RESTORE":
            return _matching(here.typed, candidates.restores(context), here.before)
        if not await _key_needs_no_input(context):
            return _note("completion cannot read a key from a command or a pipe.")
        if kind == "ID":
            live = here.action is not None and here.action.metavar == "ID|live"
            words = await candidates.backups(context, show, live=live)
            return _matching(here.typed, words, here.before)
        looks_back = command is not None and command.looks_back
        ways = await candidates.paths(
            context, here.typed, show, backup=given.get("backup"), looks_back=looks_back
        )
        directory, slash, _ = here.typed.rpartition("/")
        before = directory + slash
        # A name that begins with a dash would be taken for a flag.
        dots = ["./" if way.word.startswith("-") and not before else "" for way in ways]
        return CompletionAnswer(
            "paths",
            [(dot + before + way.word, "") for dot, way in zip(dots, ways, strict=True)],
        )

    async def run() -> CompletionAnswer:
        try:
            return await ask()
        finally:
            await context.session.aclose()

    try:
        return trio.run(run)
    except CesbrError as error:
        return _note(error.message)


async def _key_needs_no_input(context: Context) -> bool:
    """Return whether the key needs no pipe and no command, which might ask for input."""
    return (await context.session.settings()).access_nowait() is not None


def _settings(given: dict[str, str]) -> Flags:
    """Return the settings on the line, in which the shell has not expanded ``~`` yet."""
    from cesbr.cli.arguments import settings_flags

    return settings_flags({name: os.path.expanduser(value) for name, value in given.items()})
