"""The command line of ``cesbr``: help, versions, errors, imports."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest
from cesbr.__main__ import main
from cesbr.commands import CATEGORIES, MODULES, commands_of, find_command, reads_backups

from cesbrfs import __version__
from cesbrfs.errors import UsageError
from tests.shell.conftest import Cesbr


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore the signal handlers that `main` sets."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_every_command_is_where_the_table_says() -> None:
    """The table of modules matches the commands that the modules declare."""
    assert MODULES.keys() == CATEGORIES.keys()
    for module, names in MODULES.items():
        assert [command.name for command in commands_of(module)] == list(names)


@pytest.mark.parametrize("name", [name for names in MODULES.values() for name in names])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` shows the arguments and an example that starts with the command."""
    assert main([name, "--help"]) == 0
    assert find_command(name).example.split()[0] == name
    assert f"cesbr {find_command(name).example}" in " ".join(capsys.readouterr().out.split())


def test_who_reads_backups() -> None:
    """Commands for which key derivation starts early, and those for which it does not."""
    assert all(map(reads_backups, ("backups", "ls", "restore", "find", "diff")))
    assert not any(map(reads_backups, ("status", "mount", "init", "schedule", "nonsense")))


def test_help_lists_every_command(cesbr: Cesbr) -> None:
    """`--help` and `help` list all commands with their summaries."""
    said = cesbr("--help")
    assert said.code == 0
    for module in MODULES:
        for command in commands_of(module):
            assert command.summary in said.out
    assert cesbr("help").out == said.out
    assert cesbr("help", "ls").out == cesbr("ls", "--help").out


def test_version(cesbr: Cesbr) -> None:
    """`--version` works at any position."""
    assert cesbr("--version").out == f"cesbr {__version__}\n"
    assert cesbr("ls", "--version").out == f"cesbr {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        ("['--version']", "{'argparse', 'trio', 'cmd2', 'msgspec'}"),
        ("['ls', '--nope']", "{'cmd2'}"),
        ("['status']", "{'cmd2', 'prompt_toolkit'}"),
        ("['browse', '--nope']", "{'cmd2', 'prompt_toolkit', 'trio'}"),
        ("['backups', '--nope']", "{'trio', 'msgspec', 'cesbrfs.repo.repository'}"),
    ],
)
def test_nothing_slow_is_imported_in_vain(cesbr: Cesbr, arguments: str, unwanted: str) -> None:
    """A one-shot command does not import the libraries of the prompt."""
    code = (
        "import sys; from cesbr.__main__ import main; "
        f"main({arguments}); sys.exit(str({unwanted} & sys.modules.keys() or ''))"
    )
    done = subprocess.run(
        [cesbr.command[0], "-c", code],
        env=cesbr.environ,
        cwd=cesbr.here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip().splitlines()[-1:] in ([], [done.stderr.strip()])
    assert "{" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("stauts",), "did you mean 'status'?"),
        (("frobnicate",), "Run 'cesbr --help' for a list."),
        (("ls", "--nope"), "Unrecognized option '--nope'. See 'cesbr ls --help'."),
        (("ls", "--jsno"), "Unrecognized option '--jsno'; did you mean '--json'?"),
        (("backup", "--dryrun=x"), "did you mean '--dry-run'?"),
        (("ls", "-Z"), "Unrecognized option '-Z'. See"),
        (("use", "a", "b c"), "Unexpected arguments: b c. See 'cesbr use --help'."),
        (("cat",), "Missing arguments: PATH (example: cesbr cat /latest/redmine/dogu.json). See"),
        (("diff",), "Missing arguments: ID, ID|live (example: cesbr diff latest live"),
        (("du", "--depth", "deep"), "Invalid value 'deep' for --depth: not a whole number. See"),
        (("tree", "-L"), "--level requires a value: --level N. See 'cesbr tree --help'."),
        (
            ("restore", "--overwrite"),
            "--overwrite requires a value: never, always, if-newer or if-changed. See",
        ),
        (("--repo",), "--repo requires a value: --repo URL. See 'cesbr --help'."),
        (("completion", "tcsh"), "Invalid value 'tcsh' for SHELL: choose bash, zsh or fish"),
        (("ls", "--json=yes"), "--json takes no value: remove 'yes'. See"),
        (("--nope", "ls"), "See 'cesbr --help'"),
        (
            ("check", "--read-data", "--read-data-subset", "1/2"),
            "--read-data-subset and --read-data cannot",
        ),
        (("check", "--read-data-subset", "some"), "1/10, 5% or 500M"),
        (("select",), "--load FILE"),
        (("restore", "x", "--in-place", "--target", "y"), "not both"),
        (("restore", "x", "--overwrite", "nevr"), "or if-changed; did you mean 'never'?"),
    ],
)
def test_mistakes_exit_2_and_say_how(
    arguments: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid command line prints one helpful sentence and has no effect."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("cesbr: ")
    assert said.err.count("\n") == 1
    assert hint in said.err
    assert main(["--json", *arguments]) == 2
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == 2
    assert hint in error["error"]


def test_flags_may_stand_between_arguments() -> None:
    """`ls A -l B` is equivalent to `ls -l A B`."""
    from cesbr.cli.arguments import command_parser

    parser = command_parser(find_command("ls"))
    parsed = parser.parse_intermixed_args(["a", "-l", "b", "--json"])
    assert (parsed.paths, parsed.long, parsed.json) == (["a", "b"], True, True)


def test_unknown_commands_are_usage_errors() -> None:
    """The table raises, so that prompt and one-shot commands print the same error."""
    with pytest.raises(UsageError, match="did you mean 'backups'"):
        find_command("bakups")
