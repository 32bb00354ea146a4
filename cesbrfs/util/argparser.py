"""An argparse parser that raises UsageError with readable messages. Pure."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Final, NoReturn

from cesbrfs.errors import UsageError
from cesbrfs.util.suggest import closest_match, did_you_mean

_EXAMPLE_PREFIX: Final = "example: "
_OTHER_NAMES: Final = {
    "--repository": "--repo", "--snapshot": "--backup", "--dir": "--target", "--output": "--target",
    "--password": "--password-file",
}  # fmt: skip
"""Options of other programs, and their names here."""
_DESTRUCTIVE: Final = ("--prune", "--remove-all", "--remove", "--delete", "--force", "--yes")
"""Options that are never suggested for a mistyped one."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with a message that refers to ``--help``."""
        raise UsageError(usage_message(self, message))


def usage_message(parser: argparse.ArgumentParser, message: str) -> str:
    """Reword an error `message` of argparse, and refer to the ``--help`` of `parser`."""
    kind, _, rest = message.partition(": ")
    if kind == "unrecognized arguments":
        sentence = _unrecognized(parser, rest.split())
    elif kind == "the following arguments are required":
        sentence = _missing(parser, rest)
    elif kind.startswith("argument "):
        sentence = _invalid(parser, kind.removeprefix("argument "), rest)
    else:
        sentence = f"{message[:1].upper()}{message[1:]}"
    if sentence.endswith("?"):
        return sentence
    return f"{sentence}. See '{parser.prog} --help'."


def _unrecognized(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
    if option is None:
        return f"Unexpected arguments: {' '.join(words)}{quote_hint(words)}"
    options = parser._option_string_actions  # noqa: SLF001 - argparse has no other list
    if (other := _OTHER_NAMES.get(option)) in options:
        return f"Unrecognized option '{option}'; did you mean {other!r}?"
    known = options if option.startswith("--") else ()
    if closest_match(option, known) in _DESTRUCTIVE:
        known = ()
    return f"Unrecognized option '{option}'{did_you_mean(option, known)}"


def quote_hint(words: Sequence[str]) -> str:
    """Return a hint where `words` are names here, as a wildcard without quotes makes them."""
    here = [word for word in words if "/" not in word and os.path.lexists(word)]
    if not here:
        return ""
    return ". They are names in the current directory: quote wildcards, as in '*.txt'"


def _missing(parser: argparse.ArgumentParser, names: str) -> str:
    sentence = f"Missing arguments: {names}"
    epilog = parser.epilog  # cmd2's built-in commands have an object here, not text
    if isinstance(epilog, str) and epilog.startswith(_EXAMPLE_PREFIX):
        sentence += f" (example: {epilog.removeprefix(_EXAMPLE_PREFIX)})"
    return sentence


def _invalid(parser: argparse.ArgumentParser, name: str, what: str) -> str:
    """Reword the error `what` about the argument `name`, such as ``-L/--level`` or ``SHELL``."""
    option = name.rpartition("/")[2]
    action = next(
        (a for a in parser._actions if option in (*a.option_strings, a.metavar, a.dest)),  # noqa: SLF001 - argparse has no other list
        None,
    )
    problem, _, value = what.partition(": ")
    if what.startswith("expected "):
        metavar = action.metavar if action and isinstance(action.metavar, str) else "VALUE"
        return f"{option} requires a value: {_choices(action) or f'{option} {metavar}'}"
    if problem == "invalid int value":
        return f"Invalid value {value} for {option}: not a whole number"
    if problem == "invalid choice" and action and action.choices:
        value = value.partition(" (choose from")[0]
        hint = did_you_mean(value.strip("'"), map(str, action.choices))
        return f"Invalid value {value} for {option}: choose {_choices(action)}{hint}"
    if what.startswith("not allowed with argument "):
        other = what.rpartition(" ")[2].rpartition("/")[2]
        return f"{option} and {other} cannot be combined"
    if what.startswith("ignored explicit argument "):
        return f"{option} takes no value: remove {what.rpartition(' ')[2]}"
    return f"{option}: {what}"


def _choices(action: argparse.Action | None) -> str:
    if action is None or not action.choices:
        return ""
    *most, last = map(str, action.choices)
    return f"{', '.join(most)} or {last}"
