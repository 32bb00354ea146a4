"""The manual pages, made from the parsers: ``python -m cesbr.cli.manpages DIRECTORY`` writes them.

What the parsers do not know (files, variables) stands below, and is short: docs/ has the whole.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from cesbr.cli.arguments import global_parser
from cesbr.cli.help import EXIT_CODES
from cesbr.commands import CATEGORIES, Command, commands_of
from cesbrfs import __version__
from cesbrfs.fuse.cli import parser as cesbrfs_parser

_SPECIAL: Final = str.maketrans({
    "\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga",
    '"': r"\(dq",
})  # fmt: skip
_WIDE: Final = 10_000
"""A usage that fits a line this wide is never broken."""

_ENVIRONMENT: Final = (
    ("CESBR_REPOSITORY, RESTIC_REPOSITORY, RESTIC_REPOSITORY_FILE", "The repository's address."),
    (
        "CESBR_PASSWORD_FILE, RESTIC_PASSWORD, RESTIC_PASSWORD_FILE, RESTIC_PASSWORD_COMMAND",
        "The file or command that provides the encryption key, or the key itself.",
    ),
    ("CESBR_REGISTRY, CESBR_ROOT, CESBR_CONFIG, CESBR_PATIENCE", "As the options."),
    ("AWS_*, RESTIC_REST_*", "Passed to the storage, as in restic."),
    ("NO_COLOR, LS_COLORS, PAGER", "Control the output."),
)
_FILES: Final = (
    (
        "~/.config/cesbr/config.toml, /etc/cesbr/config.toml",
        "Settings files; the first one that exists is used.",
    ),
    ("/var/lib/cesbr/registry", "The embedded registry of an instance without etcd."),
    ("~/.cache/cesbrfs, /var/cache/cesbrfs", "The cache; it can be deleted at any time."),
    ("~/.local/state/cesbr", "The prompt's history."),
)
_TREE: Final = (
    ("latest", "A link to the newest complete backup of the whole instance."),
    ("BACKUP-ID/", "A backup; its backup.json contains its status."),
    ("BACKUP-ID/_instance/", "The configuration and the registry of the instance."),
    ("BACKUP-ID/DOGU/", "dogu.json, registry.json, volumes/ and dumps/ of a dogu."),
    ("_snapshots/ID/", "The whole tree of a snapshot that belongs to no backup."),
)
_SIGNALS: Final = (
    ("SIGTERM, SIGINT, SIGQUIT", "End the mount."),
    ("SIGHUP", "Open the log file again, and list the backups now."),
    ("SIGUSR1, SIGUSR2", "Log debug messages; log no debug messages."),
)
_WORDS: Final = {
    "PATH": "in the backups",
    "ID": "a Backup ID, its beginning, latest, or a time such as '2 days ago'",
}


def cesbr_page() -> str:
    """Return cesbr(1): every command with its arguments and its example."""
    commands = [command for module in CATEGORIES for command in commands_of(module)]
    lines = [
        _head("cesbr", "browse and restore the backups of a Cloudogu EcoSystem"),
        ".SH SYNOPSIS",
        r"\fBcesbr\fR [\fIFLAGS\fR] [\fICOMMAND\fR [\fIARGUMENTS\fR]]",
        ".SH DESCRIPTION",
        _text(
            "With a command, cesbr runs it and exits with its code. Without one it opens a prompt"
            " with the same commands, or runs the commands on standard input until one"
            " fails.  Options may precede or follow the command."
        ),
        ".PP",
        _text(
            "Backups are shown as directories: /latest is the newest complete backup, and a backup"
            " has a directory for each dogu, with its dogu.json, registry.json and volumes.  The"
            " first command that needs a repository creates one that does not exist, unless"
            " --no-init is given."
        ),
        ".SH COMMANDS",
        *_list((command.name, command.summary) for command in commands),
    ]
    for command in commands:
        lines += [f".SS {_text(command.name)}", *_command(command)]
    lines += [".SH OPTIONS", *_options(global_parser())]
    lines += _lists({"ARGUMENTS": _WORDS.items(), "EXIT STATUS": _codes()})
    lines += _lists({"ENVIRONMENT": _ENVIRONMENT, "FILES": _FILES})
    lines += [".SH SEE ALSO", r"\fBcesbrfs\fR(1), \fBrestic\fR(1)"]
    return "\n".join(lines) + "\n"


def cesbrfs_page() -> str:
    """Return cesbrfs(1)."""
    parser = cesbrfs_parser()
    lines = [
        _head("cesbrfs", "mount the backups of a Cloudogu EcoSystem"),
        ".SH SYNOPSIS",
        r"\fBcesbrfs\fR [\fIOPTIONS\fR] [\fIREPO\fR] \fIMOUNTPOINT\fR",
        ".SH DESCRIPTION",
        _text(f"{parser.description}  It returns once the mount answers.  {parser.epilog}"),
        ".PP",
        _text(
            "New backups appear and forgotten ones vanish while it is mounted.  The mount never"
            " writes to the repository and takes no lock in it."
        ),
        ".SH OPTIONS",
        *_options(parser),
        ".SH THE TREE",
        *_list(_TREE),
        ".SH EXAMPLES",
        *_example("cesbrfs /backups"),
        _text("In /etc/fstab:"),
        *_example("/mnt/ces /backups fuse.cesbrfs password_file=/root/ces.key,nofail 0 0"),
    ]
    lines += _lists({"SIGNALS": _SIGNALS, "EXIT STATUS": _codes()})
    lines += _lists({"ENVIRONMENT": _ENVIRONMENT, "FILES": _FILES[:3]})
    lines += [".SH SEE ALSO", r"\fBcesbr\fR(1), \fBfusermount3\fR(1), \fBmount\fR(8)"]
    return "\n".join(lines) + "\n"


def _codes() -> Iterator[tuple[str, str]]:
    return ((str(code), f"{meaning[:1].upper()}{meaning[1:]}.") for code, meaning in EXIT_CODES)


def _command(command: Command) -> Iterator[str]:
    """Yield the section of one command; the common options are in OPTIONS."""
    parser = argparse.ArgumentParser(
        prog=f"cesbr {command.name}",
        add_help=False,
        conflict_handler="resolve",
        formatter_class=functools.partial(argparse.HelpFormatter, width=_WIDE),
    )
    command.arguments(parser)
    usage = parser.format_usage().removeprefix("usage: ").strip()
    yield rf"\fB{_text(parser.prog)}\fR {_text(usage.removeprefix(parser.prog))}".rstrip()
    yield ".PP"
    yield _text(command.description)
    yield from _options(parser)
    yield from _example(f"cesbr {command.example}")


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list
        if action.help and action.help is not argparse.SUPPRESS:
            yield ".TP"
            yield _name(action)
            yield _text(action.help % {**vars(action), "prog": parser.prog})


def _name(action: argparse.Action) -> str:
    """Return an option with its value, or an argument's name."""
    value = action.metavar if isinstance(action.metavar, str) else action.dest
    if action.choices and not action.metavar:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return rf"\fI{_text(value)}\fR"
    names = ", ".join(rf"\fB{_text(name)}\fR" for name in action.option_strings)
    return names if action.nargs == 0 else rf"{names} \fI{_text(value)}\fR"


def _head(name: str, purpose: str) -> str:
    return (
        f'.TH {name.upper()} 1 "" "cesbrfs {__version__}" "Backups of a Cloudogu EcoSystem"\n'
        ".nh\n.ad l\n"  # nothing here reads better when words are cut or stretched
        rf".SH NAME{chr(10)}{name} \- {_text(purpose)}"
    )


def _lists(sections: Mapping[str, Iterable[tuple[str, str]]]) -> Iterator[str]:
    for title, items in sections.items():
        yield f".SH {title}"
        yield from _list(items)


def _list(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, meaning in items:
        yield ".TP"
        yield rf"\fB{_text(name)}\fR"
        yield _text(meaning)


def _example(line: str) -> tuple[str, ...]:
    return (".PP", ".RS 4", ".nf", rf"\fB{_text(line)}\fR", ".fi", ".RE", ".PP")


def _text(text: str) -> str:
    r"""Return `text` as troff takes it: nothing in it is an instruction, every byte ASCII."""
    one_line = " ".join(text.split()).translate(_SPECIAL)
    plain = "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in one_line)
    return rf"\&{plain}" if plain.startswith(".") else plain


def main() -> None:
    """Write the pages to the directory that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m cesbr.cli.manpages", description=__doc__)
    parser.add_argument("directory", type=Path, help="output directory, such as build/man/man1")
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for name, page in (("cesbr.1", cesbr_page()), ("cesbrfs.1", cesbrfs_page())):
        (directory / name).write_text(page, encoding="ascii")
        sys.stdout.write(f"{directory / name}\n")


if __name__ == "__main__":
    main()
