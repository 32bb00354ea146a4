"""How files and directories are listed: order, colours, columns.  Pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cesbr.ui import humanize
from cesbr.ui.table import Column, plain, spared
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbrfs.repo.format.model import Node
    from cesbrfs.vfs.entries import Entry

_DEFAULT_COLOURS: Final[Mapping[str, str]] = {
    "di": "01;34", "ln": "01;36", "pi": "33", "so": "01;35", "bd": "01;33", "cd": "01;33",
    "ex": "01;32",
}  # fmt: skip
"""As ``ls`` has them without LS_COLORS."""
_KINDS: Final[Mapping[str, str]] = {
    "dir": "di", "symlink": "ln", "fifo": "pi", "socket": "so", "dev": "bd", "chardev": "cd",
}  # fmt: skip
_ANY_X: Final = 0o111
_NAME_CELLS: Final = 20
"""Cells that a long listing leaves for names on a narrow terminal."""


@dataclass(frozen=True, slots=True)
class Colours:
    """Which colour a name gets; none at all where `on` is false."""

    on: bool = False
    by_kind: Mapping[str, str] = field(default_factory=lambda: _DEFAULT_COLOURS)
    by_ending: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, environ: Mapping[str, str], *, terminal: bool) -> Colours:
        """Return what the environment asks for: NO_COLOR, TERM, LS_COLORS."""
        if not terminal or environ.get("NO_COLOR") or environ.get("TERM", "dumb") == "dumb":
            return cls()
        pairs = [part.partition("=") for part in environ.get("LS_COLORS", "").split(":")]
        codes = {key: code for key, _, code in pairs if code.replace(";", "").isdigit()}
        endings = {key[1:]: code for key, code in codes.items() if key.startswith("*")}
        return cls(on=True, by_kind={**_DEFAULT_COLOURS, **codes}, by_ending=endings)

    def paint(self, text: str, node: Node) -> str:
        """Return `text`, a name as it is shown, in the colour of what it names."""
        if not self.on or not text:
            return text
        kind = _KINDS.get(node.type, "fi")
        if node.type == "file" and node.mode & _ANY_X:
            kind = "ex"
        code = self.by_kind.get(kind, "")
        if kind == "fi" and self.by_ending:
            endings = (text[at:] for at, letter in enumerate(text) if letter == ".")
            code = next((self.by_ending[end] for end in endings if end in self.by_ending), code)
        return f"\x1b[{code}m{text}\x1b[0m" if code.strip("0;") else text


@dataclass(frozen=True, slots=True)
class Style:
    """How a listing looks; `key` and `backwards` say in which order."""

    long: bool = False
    numeric: bool = False
    human: bool = False
    one: bool = False
    hidden: bool = False
    key: Callable[[Node], int] | None = None
    backwards: bool = False
    colours: Colours = field(default_factory=Colours)
    columns: int | None = None
    """The width of the terminal; None: nobody looks."""

    def order(self, entries: Iterable[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
        """Return shown names and their entries in order; they come in the order of names."""
        listed = list(entries)
        if self.key is not None:
            key = self.key
            listed.sort(key=lambda named: key(named[1].node))
        return listed[::-1] if self.backwards else listed

    def text(self, entries: Sequence[tuple[str, Entry]]) -> str:
        """Return the lines that show `entries`, which are in order."""
        if self.long:
            return self._long(entries)
        painted = [self.colours.paint(name, entry.node) for name, entry in entries]
        if self.columns is None:
            return "".join(f"{name}\n" for name in painted)
        marks = ["/" * stat.S_ISDIR(entry.node.mode) for _, entry in entries]
        painted = [name + mark for name, mark in zip(painted, marks, strict=True)]
        if self.one:
            return "".join(f"{name}\n" for name in painted)
        names = [name + mark for (name, _), mark in zip(entries, marks, strict=True)]
        return humanize.columns(names, self.columns, painted)

    def _long(self, entries: Sequence[tuple[str, Entry]]) -> str:
        nodes = [entry.node for _, entry in entries]
        owners = [humanize.owner(node, numeric=self.numeric) for node in nodes]
        columns = [
            Column("", [stat.filemode(node.mode) for node in nodes], spare=1),
            Column("", [user for user, _ in owners], spare=2),
            Column("", [group for _, group in owners], spare=3),
            Column("", [self._size(node) for node in nodes], right=True),
            Column("", [humanize.local_time(node.mtime_ns) for node in nodes]),
        ]
        if self.columns is not None:
            longest = max((humanize.width(name) for name, _ in entries), default=0)
            columns = spared(columns, self.columns - len("  ") - min(longest, _NAME_CELLS))
        lines = plain(columns).splitlines()
        return "".join(
            f"{line}  {self.colours.paint(name, entry.node)}{_target(entry.node)}\n"
            for line, (name, entry) in zip(lines, entries, strict=True)
        )

    def _size(self, node: Node) -> str:
        if node.type in ("dev", "chardev"):
            return f"{os.major(node.rdev)}, {os.minor(node.rdev)}"
        return humanize.size(node.size) if self.human else str(node.size)


def newest_first(node: Node) -> int:
    """Sort by time."""
    return -node.mtime_ns


def largest_first(node: Node) -> int:
    """Sort by size."""
    return -node.size


def _target(node: Node) -> str:
    return f" -> {show(node.target)}" if node.type == "symlink" else ""
