"""``cesbr --help``: what there is, by category."""

from __future__ import annotations

import textwrap
from typing import Final

from cesbr.cli.arguments import global_parser
from cesbr.commands import help_groups
from cesbr.ui.table import pairs

_HEAD: Final = """\
usage: cesbr [FLAGS] [COMMAND [ARGUMENTS]]

Browse and restore the backups of a Cloudogu EcoSystem.
Without a command, cesbr opens a prompt, or runs the commands on standard input.
"""
EXIT_CODES: Final = (
    (0, "done"), (1, "error"), (2, "usage"), (3, "partial"), (10, "no repository"),
    (11, "locked"), (12, "wrong key"), (130, "interrupted"),
)  # fmt: skip
_TAIL: Final = (
    "Run 'cesbr COMMAND --help' for details of a command.  Exit codes: "
    + ", ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES)
    + "."
)
_CELLS: Final = 98


def overview(available: int | None = None) -> str:
    """Return the help of ``cesbr`` itself, for a terminal of `available` cells if it is one."""
    blocks = [_HEAD]
    for title, commands in help_groups().items():
        rows = [(f"  {command.name}", command.summary) for command in commands]
        blocks.append(f"{title}\n{pairs(rows, available)}")
    flags = [
        (f"  {', '.join(action.option_strings)}{_metavar(action.metavar)}", action.help)
        for action in global_parser()._actions  # noqa: SLF001 - argparse has no other list
        if action.option_strings and action.help
    ]
    blocks.append(
        "Flags, before or after the command\n"
        + pairs([(flag, text or "") for flag, text in flags], available)
    )
    blocks.append(f"{textwrap.fill(_TAIL, min(available or _CELLS, _CELLS))}\n")
    return "\n".join(blocks)


def _metavar(metavar: str | tuple[str, ...] | None) -> str:
    return f" {metavar}" if isinstance(metavar, str) else ""
