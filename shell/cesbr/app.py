"""The prompt: the commands as cmd2 offers them, and scripts of them."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import cmd2
from cmd2.exceptions import Cmd2ShlexError
from cmd2.history import HistoryItem

from cesbr.cli.arguments import add_switches
from cesbr.commands import (
    CATEGORIES,
    MODULES,
    Command,
    commands_of,
    find_command,
    help_groups,
)
from cesbr.completion import prompt as completion
from cesbr.completion.quoting import around_words
from cesbr.portal import Portal
from cesbr.runner import close, run_command
from cesbr.session import Session
from cesbr.state.state_dir import state_directory
from cesbr.ui import humanize
from cesbr.ui.banner import greeting
from cesbr.ui.errors import BROKEN_PIPE, show_error
from cesbr.ui.output import Output
from cesbr.ui.table import fold, pairs
from cesbrfs import __version__
from cesbrfs.errors import UsageError
from cesbrfs.util.argparser import usage_message

if TYPE_CHECKING:
    from types import FrameType

_INTRO: Final = (
    f"cesbr {__version__}: the backups of a Cloudogu EcoSystem.",
    "'help' lists the commands, 'help COMMAND' explains one; ^C stops a command, ^D exits.",
)
_PROMPT_CATEGORY: Final = "The prompt"
_REMOVED: Final = (
    "edit", "ipy", "macro", "py", "run_pyscript", "set", "shell", "shortcuts",
)  # fmt: skip
"""cmd2's own commands that have nothing to do with backups."""
EXIT_SECONDS = 5.0
"""How long the prompt may take to end after SIGHUP or SIGTERM."""
_PLACE_SHARE: Final = 0.6
"""How much of a line the prompt may take before it is shortened."""
_SWITCHES: Final = ("json", "quiet", "verbose", "debug", "no_init")


class PromptParser(cmd2.Cmd2ArgumentParser):
    """A parser that raises UsageError where cmd2 would print an error and continue."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, and how to learn more."""
        raise UsageError(usage_message(self, message))


class CommandParser(PromptParser):
    """The parser of one of our commands: flags may stand between its arguments."""

    def parse_args(  # type: ignore[override]  # the overloads only tell the namespace's type
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> argparse.Namespace:
        """Parse as the one-shot call does."""
        return self.parse_intermixed_args(args, namespace)


class App(cmd2.Cmd):
    """The prompt of one session; `defaults` are the flags that every command shall have.

    `status` is the exit code of the last command: cmd2 itself knows no such thing.
    """

    def __init__(
        self, session: Session, portal: Portal, defaults: Mapping[str, object], *, history: str = ""
    ) -> None:
        cmd2.set_default_argument_parser(PromptParser)
        cmd2.Cmd.DEFAULT_CATEGORY = _PROMPT_CATEGORY
        super().__init__(
            allow_cli_args=False,
            allow_clipboard=False,
            command_sets=[_command_set(module) for module in MODULES],
            persistent_history_file=history,
            shortcuts={"?": "help"},
            terminators=(),
        )
        for name in _REMOVED:
            setattr(self, f"do_{name}", None)
        self.session: Final = session
        self.portal: Final = portal
        self.status = 0
        self.last_status = 0
        """That of the command before, for ``echo $?``."""
        self._defaults = defaults
        self._line_as_json = False
        self._show_place()

    def execute(self, command: Command, arguments: argparse.Namespace) -> None:
        """Run one command."""
        for name in _SWITCHES:
            if name in self._defaults and not hasattr(arguments, name):
                setattr(arguments, name, self._defaults[name])
        values = vars(arguments)
        out = Output(
            self.stdout, as_json=values.get("json", False), quiet=values.get("quiet", False)
        )
        code = run_command(command, arguments, self.session, self.portal, out)
        # `cat … | head`: that head has had enough is no failure.
        self.status = 0 if code == BROKEN_PIPE else code
        self._show_place()

    def _show_place(self) -> None:
        place = self.session.shown_place
        fits = shutil.get_terminal_size().columns * _PLACE_SHARE
        _, backup, *directories = place.split("/") if place else ("", "")
        for shorter in (f"/{backup}/…/", "…/") if directories else ():
            if humanize.width(place) > fits:
                place = shorter + directories[-1]
        self.prompt = f"cesbr:{place}> " if place else "cesbr> "

    # What cmd2 does with lines, commands and errors

    def onecmd_plus_hooks(self, line: str, **kwargs: Any) -> bool:  # noqa: ANN401 - cmd2's own
        """Run one line; sets `status` to its exit code."""
        self.last_status, self.status = self.status, 0
        # As in other shells, what begins with a blank is nobody's business.
        kwargs["add_to_history"] = kwargs.get("add_to_history", True) and not line.startswith(" ")
        self._line_as_json = "--json" in line.split()
        line = around_words(line)
        try:
            self.statement_parser.tokenize(line)
        except Cmd2ShlexError as error:  # otherwise cmd2 prints it and continues
            self.pexcept(UsageError(f"{error}. Quote it, or write \\x22 and \\x27 for quotes."))
            return False
        return super().onecmd_plus_hooks(line, **kwargs)

    def runcmds_plus_hooks(
        self,
        cmds: Iterable[HistoryItem] | Iterable[str],
        *,
        add_to_history: bool = True,
        stop_on_keyboard_interrupt: bool = False,
    ) -> bool:
        """Run the lines of a script until one fails; what it failed with stays in `status`."""
        for number, item in enumerate(cmds, 1):
            line = item.raw if isinstance(item, HistoryItem) else str(item)
            stop = self.onecmd_plus_hooks(
                line,
                add_to_history=add_to_history,
                raise_keyboard_interrupt=stop_on_keyboard_interrupt,
            )
            if stop:
                return True
            if self.status:
                self._say_where(number, line)
                break
        return False

    def _say_where(self, number: int, line: str) -> None:
        if not self._defaults.get("json"):
            sys.stderr.write(f"cesbr: Stopped at line {number}: {line.strip()}\n")

    def default(self, statement: cmd2.Statement) -> None:
        """Refuse what is no command, with a suggestion."""
        find_command(statement.command, overview="help")

    def pexcept(self, exception: BaseException, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - cmd2's own
        """Report an error outside of a command, mostly of its arguments."""
        self.status = show_error(
            exception,
            as_json=self._line_as_json or bool(self._defaults.get("json")),
            debug=bool(self._defaults.get("debug")),
        )

    def perror(self, *objects: Any, **kwargs: Any) -> None:  # noqa: ANN401 - cmd2's own
        """Report an error that cmd2 itself finds; it is a failure, too."""
        self.status = self.status or 1
        super().perror(*objects, **kwargs)

    def termination_signal_handler(self, signum: int, frame: FrameType | None) -> None:
        """Exit on the first signal; a closed terminal sends several.

        At the prompt, asyncio waits for its tasks without a timeout, and without a terminal one of
        them may never end.
        """
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if not self.portal.is_busy:
            timer = threading.Timer(EXIT_SECONDS, os._exit, [128 + signum])
            timer.daemon = True
            timer.start()
        super().termination_signal_handler(signum, frame)

    # The prompt's own commands

    @staticmethod
    def _help_parser() -> cmd2.Cmd2ArgumentParser:
        parser = PromptParser(description="List the commands, or show the help of one.")
        parser.add_argument(
            "command",
            nargs="?",
            metavar="COMMAND",
            help="a command",
            choices_provider=lambda app: cmd2.Choices.from_values(app.get_visible_commands()),
        )
        return parser

    @cmd2.with_argparser(_help_parser)
    def do_help(self, arguments: argparse.Namespace) -> None:
        """List the commands, or explain one."""
        if arguments.command:
            function = self.get_command_func(arguments.command)
            parser = self.command_parsers.get(function) if function else None
            if parser is None:
                find_command(arguments.command, overview="help")
                return
            parser.print_help(self.stdout)
            return
        available = shutil.get_terminal_size().columns if self.stdout.isatty() else None
        blocks = []
        for title, commands in help_groups().items():
            rows = [(f"  {command.name}", command.summary) for command in commands]
            blocks.append(f"{title}\n{pairs(rows, available)}")
        own = [
            ("  alias", "Create, list and delete aliases of commands."),
            ("  echo", "Print words; $? is the exit code of the last command."),
            ("  help", "List the commands, or show the help of one."),
            ("  history", "Show, run or save earlier commands."),
            ("  run_script", "Run the commands in a file until one fails."),
            ("  quit", "Exit the shell, like 'exit' and ^D."),
        ]
        blocks.append(f"{_PROMPT_CATEGORY}\n{pairs(own, available)}")
        self.stdout.write("\n".join(blocks))

    @staticmethod
    def _echo_parser() -> cmd2.Cmd2ArgumentParser:
        parser = PromptParser(description="Print words; $? is the exit code of the last command.")
        parser.add_argument("words", metavar="WORD", nargs="*", help="words to print")
        return parser

    @cmd2.with_argparser(_echo_parser)
    def do_echo(self, arguments: argparse.Namespace) -> None:
        """Write words; $? is the exit code of the command before."""
        words = " ".join(arguments.words)
        self.stdout.write(words.replace("$?", str(self.last_status)) + "\n")

    @staticmethod
    def _exit_parser() -> cmd2.Cmd2ArgumentParser:
        return PromptParser(description="Exit the shell.")

    @cmd2.with_argparser(_exit_parser)
    def do_exit(self, _: argparse.Namespace) -> bool:
        """End the shell."""
        return True


def _command_set(module: str) -> cmd2.CommandSet[App]:
    """Make the CommandSet of a module's commands."""
    body: dict[str, object] = {"DEFAULT_CATEGORY": CATEGORIES[module]}
    for command in commands_of(module):
        body[f"do_{command.name}"] = _method(command)
    made: cmd2.CommandSet[App] = type(f"{module.title()}Commands", (cmd2.CommandSet,), body)()
    return made


def _method(command: Command) -> Callable[..., bool | None]:
    def run(self: cmd2.CommandSet[App], arguments: argparse.Namespace) -> None:
        self._cmd.execute(command, arguments)

    run.__name__ = f"do_{command.name}"
    run.__qualname__ = f"{_method.__qualname__}.{run.__name__}"  # cmd2 keeps parsers by it
    run.__doc__ = command.summary
    return cmd2.with_argparser(partial(_parser, command))(run)


def _parser(command: Command) -> cmd2.Cmd2ArgumentParser:
    parser = CommandParser(
        prog=command.name,
        description=command.description,
        epilog=f"example: {command.example}",
        allow_abbrev=False,
        conflict_handler="resolve",  # as the one-shot call has it
    )
    command.arguments(parser)
    add_switches(parser)
    completion.attach(parser, command)
    return parser


def run_app(session: Session, defaults: argparse.Namespace) -> int:
    """Run the prompt on a terminal, else the script that stands on stdin; return its exit code."""
    portal = Portal()
    switches = {name: value for name, value in vars(defaults).items() if name in _SWITCHES}
    try:
        if sys.stdin.isatty():
            history = _history_file()
            first = not (history and Path(history).stat().st_size)
            welcome = greeting(session, portal, first=first)
            app = App(session, portal, switches, history=history)
            gc.freeze()  # else looking through all the modules for garbage is felt at some Tabs
            columns = shutil.get_terminal_size().columns
            intro = [line for text in _INTRO for line in fold(text, columns)]
            return app.cmdloop("\n".join([*intro, welcome]))
        return _run_stdin(App(session, portal, switches))
    finally:
        close(session, portal)


def _run_stdin(app: App) -> int:
    """Run the lines on stdin until one fails."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, app.termination_signal_handler)
    app.runcmds_plus_hooks((line.rstrip("\n") for line in sys.stdin), add_to_history=False)
    return app.status or app.exit_code  # a signal's, where there is one


def _history_file() -> str:
    """Return where the history is kept, in a directory for its owner alone; empty: nowhere."""
    directory = state_directory(os.environ)
    if directory is None:
        return ""
    history = directory / "history"
    try:
        os.close(os.open(history, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        history.chmod(0o600)  # cmd2 rewrites the file and keeps its mode
    except OSError:
        return ""
    return str(history)
