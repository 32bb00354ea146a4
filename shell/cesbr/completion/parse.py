"""The words of a shell's command line that is still being typed.  Pure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_PIECE: Final = re.compile(
    r"""(?P<space>[ \t\n]+) | '(?P<single>[^']*)'? | "(?P<double>(?:\\.|[^"\\])*\\?)"?
    | \\(?P<escaped>.?) | (?P<redirect>[<>]) | (?P<plain>[^ \t\n'"\\<>]+)""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPED_IN_QUOTES: Final = re.compile(r'\\(["\\$`])')


def split(line: str) -> list[str]:
    """Return the words of `line` as bash reads them, the last one as far as it was typed.

    Quotes may still be open; variables and substitutions stay as they were written.  ``<`` or ``>``
    begins a word that continues with the file name, whatever is between them.
    """
    words, begun = [""], False
    for piece in _PIECE.finditer(line):
        kind = str(piece.lastgroup)
        text = piece[kind]
        if kind == "double":
            text = _ESCAPED_IN_QUOTES.sub(r"\1", text)
        if begun and kind in ("space", "redirect"):
            words.append("")
        if kind != "space":
            words[-1] += text
        begun = kind not in ("space", "redirect")
    return words


class CompletionRequest(NamedTuple):
    """What the last word of a command line is about.

    `action` is the option or argument whose value it is, None where there is none; `typed` the
    value as far as it was typed, `before` the text before it in the same word
    (``--backup=``).  `given` are the values of the options before it.
    """

    action: argparse.Action | None
    typed: str
    before: str
    given: dict[str, str]


def asked(parser: argparse.ArgumentParser, words: Sequence[str]) -> CompletionRequest:
    """Return what the last of `words` is about; the others are arguments of `parser`."""
    *done, typed = words
    options = parser._option_string_actions  # noqa: SLF001 - argparse has no other list
    given: dict[str, str] = {}
    pending: argparse.Action | None = None
    count, flags_end = 0, False
    for word in done:
        if pending is not None:
            given[pending.dest] = word
            pending = None
        elif flags_end or word == "-" or not word.startswith("-"):
            count += 1
        elif word == "--":
            flags_end = True
        else:
            action, value = _option(options, word)
            if action is not None and value is not None:
                given[action.dest] = value
            else:
                pending = action
    if pending is not None:
        return CompletionRequest(pending, typed, "", given)
    name, equals, value = typed.partition("=")
    if equals and name.startswith("--") and not flags_end:
        return CompletionRequest(options.get(name), value, f"{name}=", given)
    return CompletionRequest(_argument(parser, count), typed, "", given)


def _option(
    options: dict[str, argparse.Action], word: str
) -> tuple[argparse.Action | None, str | None]:
    """Return the option of a word that takes a value, with the value if the word holds it."""
    name, equals, value = word.partition("=")
    action = options.get(name)
    if action is not None:
        return (action, value if equals else None) if action.nargs != 0 else (None, None)
    if word.startswith("--"):
        return None, None
    for place in range(1, len(word)):  # -laL2
        action = options.get(f"-{word[place]}")
        if action is None:
            break
        if action.nargs != 0:
            return action, word[place + 1 :] or None
    return None, None


def _argument(parser: argparse.ArgumentParser, place: int) -> argparse.Action | None:
    """Return the argument at `place`, of which the last may repeat without end."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        if action.option_strings:
            continue
        if place == 0 or action.nargs in ("*", "+", argparse.REMAINDER):
            return action
        place -= 1
    return None
