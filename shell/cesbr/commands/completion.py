"""Completion of the one-shot commands in bash, zsh and fish."""

from __future__ import annotations

import argparse
from importlib import resources
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command

if TYPE_CHECKING:
    from cesbr.session import Context

_SHELLS: Final = ("bash", "zsh", "fish")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=_SHELLS, help="bash, zsh or fish")


async def _completion(context: Context, arguments: argparse.Namespace) -> int:
    file = resources.files("cesbr") / "completion" / f"cesbr.{arguments.shell}"
    text = file.read_text()
    await context.out.result({"shell": arguments.shell, "script": text}, text)
    return 0


COMMANDS: Final = (
    Command(
        "completion",
        "Print the completion script for bash, zsh or fish.",
        "completion bash > /etc/bash_completion.d/cesbr",
        _arguments,
        _completion,
        "Tab then completes commands, flags, Backup IDs, dogus, and paths in the backups.  It"
        " never initialises a repository or asks for a key, and stops within a second.",
    ),
)
