"""Global options of the command line, before or after a command, and its parser."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from cesbrfs import __version__
from cesbrfs.util.argparser import Parser

if TYPE_CHECKING:
    from cesbr.commands import Command
    from cesbrfs.config.settings import Flags

_SHORT: Final = {
    "--repo": "-r", "--password-file": "-p", "--quiet": "-q", "--verbose": "-v",
}  # fmt: skip
"""restic's short options; a command's own options of that letter win."""
_SETTINGS: Final = (
    ("--repo", "repository", "URL", "repository address in restic's format"),
    ("--password-file", "password_file", "FILE", "file with the encryption key"),
    (
        "--registry",
        "registry",
        "PATH-or-URL",
        "CES registry: a directory, or the address of an etcd",
    ),
    ("--root", "root", "DIR", "root directory of the instance (default /)"),
    ("--config", "config", "FILE", "settings file"),
    ("--patience", "patience", "SECONDS", "how long to wait for an offline server"),
)
_SWITCHES: Final = (
    ("--no-init", "no_init", "do not create a missing repository (exit code 10)"),
    ("--json", "json", "print results and errors as JSON"),
    ("--quiet", "quiet", "print only results and errors"),
    ("--verbose", "verbose", "log what cesbr reads and runs"),
    ("--debug", "debug", "like --verbose, with the traceback of an error"),
)


def add_switches(parser: argparse.ArgumentParser) -> None:
    """Add the flags that make sense on every command, at the prompt too."""
    group = parser.add_argument_group("for every command")
    for flag, name, text in _SWITCHES:
        group.add_argument(
            *_names(parser, flag),
            dest=name,
            action="store_true",
            default=argparse.SUPPRESS,
            help=text,
        )


def _names(parser: argparse.ArgumentParser, flag: str) -> tuple[str, ...]:
    """Return a flag with its short form, where `parser` has no other use for that."""
    short = _SHORT.get(flag)
    taken = parser._option_string_actions  # noqa: SLF001 - argparse has no other list
    return (flag,) if short is None or short in taken else (short, flag)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options for the repository and the instance."""
    group = parser.add_argument_group("settings")
    for flag, name, metavar, text in _SETTINGS:
        group.add_argument(
            *_names(parser, flag),
            dest=name,
            metavar=metavar,
            default=argparse.SUPPRESS,
            help=text,
        )
    group.add_argument(
        "--version", action="version", version=f"cesbr {__version__}", help="print the version"
    )


def global_parser() -> argparse.ArgumentParser:
    """Return the parser of ``cesbr [FLAGS] [COMMAND [ARGUMENTS]]``."""
    parser = Parser(prog="cesbr", add_help=False, allow_abbrev=False)
    parser.add_argument(
        "-h",
        "--help",
        dest="help",
        action="store_true",
        help="list the commands, or show the help of one",
    )
    add_switches(parser)
    add_settings(parser)
    parser.add_argument("command", nargs="?")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def command_parser(command: Command) -> argparse.ArgumentParser:
    """Return the parser of one command as ``cesbr COMMAND`` has it."""
    parser = Parser(
        prog=f"cesbr {command.name}",
        description=command.description,
        epilog=f"example: cesbr {command.example}",
        allow_abbrev=False,
        conflict_handler="resolve",  # `ls -h` is for people, not for help
    )
    command.arguments(parser)
    own = parser.format_usage().partition(parser.prog)[2].rstrip()
    add_switches(parser)
    add_settings(parser)
    # The flags that every command has are listed below it, and would be most of it.
    parser.usage = f"{parser.prog}{own.replace('%', '%%')}"
    return parser


def settings_flags(arguments: Mapping[str, Any]) -> Flags:
    """Return the settings on a command line, from its parsed arguments by name."""
    from cesbrfs.config.settings import Flags

    return Flags(
        **{name: arguments[name] for _, name, _, _ in _SETTINGS if name in arguments},
        auto_init=False if arguments.get("no_init") else None,
    )
