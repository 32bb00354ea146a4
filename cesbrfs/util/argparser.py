"""What argparse finds wrong with a command line, in a sentence that says what to do."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Final, NoReturn

from cesbrfs.errors import UsageError
from cesbrfs.util.suggest import did_you_mean, nearest

_EXAMPLE: Final = "example: "
_ELSEWHERE: Final = {
    "--repository": "--repo", "--snapshot": "--backup", "--dir": "--target", "--output": "--target",
    "--password": "--password-file",
}  # fmt: skip
"""What options of other programs are called here."""
_REMOVING: Final = ("--prune", "--remove-all", "--remove", "--delete", "--force", "--yes")
"""Options that are never proposed for one that was mistyped."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and how to learn more."""
        raise UsageError(usage_message(self, message))


def usage_message(parser: argparse.ArgumentParser, message: str) -> str:
    """Return the sentence for a command line that cannot be used; `message` is argparse's."""
    kind, _, rest = message.partition(": ")
    if kind == "unrecognized arguments":
        sentence = _unknown(parser, rest.split())
    elif kind == "the following arguments are required":
        sentence = _missing(parser, rest)
    elif kind.startswith("argument "):
        sentence = _wrong(parser, kind.removeprefix("argument "), rest)
    else:
        sentence = f"{message[:1].upper()}{message[1:]}"
    if sentence.endswith("?"):
        return sentence
    return f"{sentence}; see '{parser.prog} --help'."


def _unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if flag is None:
        sentence = f"{' '.join(words)!r} is more than '{parser.prog}' takes"
        return sentence + quote_hint(words)
    options = parser._option_string_actions  # noqa: SLF001 - argparse has no other list
    if (meant := _ELSEWHERE.get(flag)) in options:
        return f"There is no {flag}; did you mean {meant!r}?"
    known = options if flag.startswith("--") else ()
    if nearest(flag, known) in _REMOVING:
        known = ()
    return f"There is no {flag}{did_you_mean(flag, known)}"


def quote_hint(words: Sequence[str]) -> str:
    """Return a hint where `words` are names here, as a wildcard without quotes makes them."""
    here = [word for word in words if "/" not in word and os.path.lexists(word)]
    if not here:
        return ""
    return ". They are names in the current folder: quote wildcards, as in '*.txt'"


def _missing(parser: argparse.ArgumentParser, names: str) -> str:
    sentence = f"'{parser.prog}' needs {names.replace(', ', ' and ')}"
    epilog = parser.epilog  # cmd2's own commands have something else than text there
    if isinstance(epilog, str) and epilog.startswith(_EXAMPLE):
        sentence += f", as in '{epilog.removeprefix(_EXAMPLE)}'"
    return sentence


def _wrong(parser: argparse.ArgumentParser, name: str, what: str) -> str:
    """Return what is wrong with the argument that argparse calls ``-L/--level`` or ``SHELL``."""
    flag = name.rpartition("/")[2]
    action = next(
        (a for a in parser._actions if flag in (*a.option_strings, a.metavar, a.dest)),  # noqa: SLF001 - argparse has no other list
        None,
    )
    problem, _, value = what.partition(": ")
    if what.startswith("expected "):
        metavar = action.metavar if action and isinstance(action.metavar, str) else "VALUE"
        return f"{flag} needs a value: {_choices(action) or f'{flag} {metavar}'}"
    if problem == "invalid int value":
        return f"{flag} takes a whole number, not {value}"
    if problem == "invalid choice" and action and action.choices:
        value = value.partition(" (choose from")[0]
        hint = did_you_mean(value.strip("'"), map(str, action.choices))
        return f"{flag} takes {_choices(action)}, not {value}{hint}"
    if what.startswith("not allowed with argument "):
        other = what.rpartition(" ")[2].rpartition("/")[2]
        return f"{flag} and {other} exclude each other, so leave out one of them"
    if what.startswith("ignored explicit argument "):
        return f"{flag} takes no value, so leave out {what.rpartition(' ')[2]}"
    return f"{flag}: {what}"


def _choices(action: argparse.Action | None) -> str:
    if action is None or not action.choices:
        return ""
    *most, last = map(str, action.choices)
    return f"{', '.join(most)} or {last}"
