"""The commands, each declared once: what it takes, what it does.

A command works on a `Context` and knows neither argv nor cmd2; `cesbr.__main__` runs one of them,
`cesbr.app` offers all of them at the prompt.  A module is imported when one of its commands is
needed, so the table below says which has which.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cesbrfs.errors import UsageError
from cesbrfs.util.suggest import closest_match, did_you_mean

if TYPE_CHECKING:
    from cesbr.session import Context

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "navigate": ("backups", "use", "cd", "pwd"),
    "files": ("ls", "tree", "stat", "cat", "less"),
    "browse": ("browse",),
    "history": ("find", "versions", "log"),
    "grep": ("grep",),
    "diff": ("diff", "du"),
    "select": ("select", "deselect", "selected"),
    "restore": ("plan", "restore"),
    "undo": ("undo",),
    "drill": ("drill",),
    "export": ("export",),
    "restore_registry": ("restore-registry",),
    "backup": ("backup",),
    "repository": ("init", "check", "unlock", "status"),
    "forget": ("forget", "policies"),
    "annotate": ("protect", "unprotect", "note"),
    "copy": ("copy",),
    "key": ("key",),
    "schedule": ("schedule",),
    "metrics": ("metrics",),
    "mount": ("mount", "umount", "refresh"),
    "doctor": ("doctor",),
    "config": ("config",),
    "completion": ("completion",),
}
"""Which module has which commands."""

_REMOVING: Final = ("forget", "unlock", "unprotect")
"""Commands that are never proposed for a name that was mistyped."""
_ELSEWHERE: Final[Mapping[str, str]] = {
    "snapshots": "backups", "list": "backups", "dump": "cat", "get": "restore", "stats": "du",
    "unmount": "umount", "history": "log", "search": "find", "dir": "ls",
    "tar": "export", "zip": "export", "tag": "note", "keys": "key", "passwd": "key",
}  # fmt: skip
"""What commands of other programs are called here."""
_HINTS: Final[Mapping[str, str]] = {
    "prune": "'cesbr forget --prune' removes backups and frees their space; 'restic prune' only"
    " frees space",
    "repair": "'cesbr check' names what is damaged; repair it with 'restic repair'",
    "rewrite": "run 'restic rewrite'; cesbr shows the new snapshots in place of the old ones",
}
"""What to do instead of commands of restic that have no counterpart here."""

_READING: Final = (
    "navigate", "files", "browse", "history", "grep", "diff", "restore", "drill", "export",
    "metrics",
)  # fmt: skip
"""The modules whose commands read backups, which begins with deriving the key."""

CATEGORIES: Final[Mapping[str, str]] = {
    "navigate": "Browse",
    "files": "Browse",
    "browse": "Browse",
    "mount": "Browse",
    "history": "Search",
    "grep": "Search",
    "diff": "Compare",
    "select": "Restore",
    "restore": "Restore",
    "undo": "Restore",
    "drill": "Restore",
    "restore_registry": "Restore",
    "export": "Restore",
    "backup": "Back up",
    "schedule": "Back up",
    "copy": "Back up",
    "repository": "Maintain",
    "doctor": "Maintain",
    "forget": "Maintain",
    "annotate": "Maintain",
    "key": "Maintain",
    "metrics": "Maintain",
    "config": "Maintain",
    "completion": "Maintain",
}
"""The heading of a module's commands in the help."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    `arguments` declares its arguments; their metavars (PATH, ID, DOGU, DIRECTORY) also say how they
    complete.  `run` returns the exit code.  `example` is what follows ``cesbr``.  The paths of a
    command that `looks_back` may, at the root, start inside the backups.  The result of one with
    `all_backups` is partial as soon as a snapshot of the repository cannot be read, because it may
    belong to a backup concerned. So is that of any command for which ``latest`` or a time chose the
    backup.
    """

    name: str
    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Context, argparse.Namespace], Awaitable[int]]
    details: str = ""
    looks_back: bool = False
    all_backups: bool = False

    @property
    def description(self) -> str:
        """All that its help says."""
        return f"{self.summary}  {self.details}" if self.details else self.summary


def find_command(name: str, overview: str = "cesbr --help") -> Command:
    """Return the command of this name.

    UsageError suggests one that is spelt alike, or to look at the `overview` of all of them.
    """
    for module, commands in MODULES.items():
        if name in commands:
            return _load(module)[name]
    meant = _ELSEWHERE.get(name)
    if meant is not None:
        raise UsageError(f"Unknown command {name!r}; did you mean {meant!r}?")
    if name in _HINTS:
        raise UsageError(f"Unknown command {name!r}: {_HINTS[name]}.")
    known = [command for commands in MODULES.values() for command in commands]
    if closest_match(name, known) in _REMOVING:
        known = []
    hint = did_you_mean(name, known, f". Run '{overview}' for a list.")
    raise UsageError(f"Unknown command {name!r}{hint}")


def reads_backups(name: str) -> bool:
    """Return whether the command of this name reads backups."""
    return any(name in MODULES[module] for module in _READING)


def help_groups() -> Mapping[str, list[Command]]:
    """Return the commands by their heading in the help."""
    groups: dict[str, list[Command]] = {}
    for module, title in CATEGORIES.items():
        groups.setdefault(title, []).extend(commands_of(module))
    return groups


def commands_of(module: str) -> Iterator[Command]:
    """Yield a module's commands in the order in which they are shown."""
    loaded = _load(module)
    for name in MODULES[module]:
        yield loaded[name]


def _load(module: str) -> dict[str, Command]:
    declared: tuple[Command, ...] = importlib.import_module(f"cesbr.commands.{module}").COMMANDS
    return {command.name: command for command in declared}
