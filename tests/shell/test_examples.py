"""Run every example of the help and the documentation as it is written.

All examples run on one sample instance whose backups have the IDs used in the documentation.
Directories such as /mnt and /srv are redirected to a directory of the test, and questions are
answered with yes. Nothing else differs from what a user types.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cesbr.__main__ import main
from cesbr.cli.arguments import command_parser, global_parser
from cesbr.commands import MODULES, Command, commands_of, find_command
from cesbr.ui.output import Output

from cesbrfs import backup as backups
from cesbrfs.errors import CesbrError
from tests.sample.instance import Instance, build
from tests.shell.conftest import Cesbr
from tests.shell.terminal import terminal
from tests.support.project import PROJECT
from tests.support.restic_repo import ResticRepo, cheapen

_PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
_COMMANDS = [command for module in MODULES for command in commands_of(module)]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_OURS = re.compile(r"(?:cesbr|cesbrfs)(?: (?!0\.)|$)")
_MOVED = re.compile(r"(?<![\w./~])/(?=(?:backups|etc|mnt|root|srv|tmp|usr|var)(?:/|\b))")
_SHELL = re.compile(r"[|<>;&]|\$\(")
_ID = re.compile(r"\b\d{8}T\d{6}Z-[0-9a-f]{6}\b")

_KEPT = ("redmine", "postgresql", "nexus")
NOT_RUN = {
    "systemctl": "no systemd here",
    "journalctl": "no systemd here",
    "cesbr": "a prompt; its own tests type there",
}
"""Programs, or whole lines, that are not run, and why."""


def _lines(page: Path) -> list[str]:
    """Return the command lines of a page's code blocks that are about us, without comments."""
    found: list[str] = []
    for block in _BLOCK.findall(page.read_text()):
        typed = [line for line in block.splitlines() if not re.match(r"cesbr(:\S*)?> ", line)]
        if len(typed) < len(block.splitlines()) or not any(map(_OURS.match, typed)):
            continue  # output of a prompt, or another program
        if "<<" in block:
            found.append(block)
            continue
        found += [re.sub(r"(^| +)# .*| +#$", "", line) for line in typed]
    return [line for line in found if line]


_ALL = {page: lines for page in _PAGES if (lines := _lines(page))}
_NAMED = sorted(set(_ID.findall(repr(_ALL))))


@dataclass
class Machine:
    """A machine with the sample instance, on which command lines are run."""

    instance: Instance
    root: Path
    wrappers: Path
    said: list[str] = field(default_factory=list)

    def moved(self, line: str) -> str:
        """Return the line with absolute paths redirected to the directories of the test."""
        return _MOVED.sub(f"{self.root}/", line)

    def type(self, line: str, capture: pytest.CaptureFixture[str]) -> int:
        """Run one line and return its exit code; run it in this process if no shell is needed."""
        moved = self.moved(line)
        words = shlex.split(moved)
        if words[0] == "export":
            for word in words[1:]:
                name, _, value = word.partition("=")
                os.environ[name] = value
            return 0
        if words[:2] == ["cesbr", "browse"]:
            return self._browse(words[1:])
        if words[0] == "cesbr" and not _SHELL.search(re.sub(r"'[^']*'", "", moved)):
            code = main(words[1:])
            self.said.append(capture.readouterr().err)
            return code
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", moved],
            env={**os.environ, "PATH": f"{self.wrappers}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.said.append(done.stderr)
        return done.returncode

    def _browse(self, words: list[str]) -> int:
        """Run the browser in a terminal, and quit once it shows something."""
        directory = self.root / "terminal"
        directory.mkdir()
        with terminal(Cesbr(self.root, os.environ), directory, *words) as browser:
            browser.wait_for(r"q quit")
            browser.keys("q")
            self.said.append(browser.screen())
            code = browser.exit_code()
        shutil.rmtree(directory)
        return code


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory, restic_old: Path) -> Instance:
    """An instance of three dogus with a backup for each ID in the documentation."""
    instance = build(tmp_path_factory.mktemp("examples") / "instance")
    for dogu in instance.dogus:
        if dogu.name not in _KEPT:
            shutil.rmtree(instance.registry / "dogu" / dogu.name)
            shutil.rmtree(instance.registry / "dogu_v2" / dogu.name, ignore_errors=True)
            shutil.rmtree(instance.root / "var/lib/ces" / dogu.name, ignore_errors=True)
    files = instance.volume("redmine", "files")
    for place in (files, files / "2026"):
        (place / "plan.odt").write_text("the plan\n")
    (instance.volume("nexus", "data") / "conf").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CESBR_ROOT", str(instance.root))
        patch.setenv("CESBR_RESTIC", str(restic_old))
        assert main(["init", "--quiet"]) == 0
        cheapen(ResticRepo(restic_old, instance.repository, instance.key))
        for number, name in enumerate(_NAMED):
            patch.setattr(backups.executor, "new_backup_id", lambda _, name=name: name)
            assert main(["backup", "--quiet"]) == 0
            (files / "report.txt").write_text(f"day {number}\n")
    return instance


@pytest.fixture
def machine(
    sample: Instance,
    cesbr: Cesbr,
    restic_old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Machine]:
    """A separate machine with everything that the documentation assumes."""
    root = tmp_path / "machine"
    root.mkdir()
    subprocess.run(["cp", "-a", sample.root, root / "instance"], check=True)
    instance = Instance(root / "instance", root / "mnt/backup/ces", sample.key)
    instance.repository.parent.mkdir(parents=True)
    (root / "instance/srv/backup").rename(instance.repository)
    instance.set("/config/backup/local_config/path", str(instance.repository))
    for directory in (
        "root", "srv", "tmp", "mnt/backups", "etc/bash_completion.d",
        "usr/local/share/zsh/site-functions", "var/lib/prometheus/node-exporter",
    ):  # fmt: skip
        (root / directory).mkdir(parents=True)
    (root / "root/ces.key").write_text(instance.key)
    (Path(os.environ["HOME"]) / ".config/fish/completions").mkdir(parents=True)
    wrappers = tmp_path / "bin"
    wrappers.mkdir()
    for name, program in (("cesbr", "cesbr"), ("cesbrfs", "cesbrfs")):
        command = shlex.join([cesbr.command[0], "-m", program])
        (wrappers / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (wrappers / name).chmod(0o755)
    (wrappers / "ssh").write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')  # to this machine
    (wrappers / "ssh").chmod(0o755)

    async def yes(_self: Output, _question: str, **_: object) -> bool:
        return True

    monkeypatch.setattr(Output, "ask", yes)
    monkeypatch.setattr("cesbr.units.UNIT_DIR", root / "etc")
    monkeypatch.setattr("cesbr.units.SYSTEMD", root / "none")
    for name in ("RESTIC_REPOSITORY", "RESTIC_PASSWORD_FILE"):
        monkeypatch.setenv(name, "")  # restored if a line exports it
        monkeypatch.delenv(name)
    monkeypatch.setenv("CESBR_ROOT", str(instance.root))
    monkeypatch.setenv("CESBR_RESTIC", str(restic_old))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.chdir(cesbr.here)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield Machine(instance, root, wrappers)
    for number, handler in before.items():
        signal.signal(number, handler)
    for mountpoint in (root / "backups", root / "mnt/backups", root / "srv/backups"):
        if mountpoint.is_mount():
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)


def _prepare(machine: Machine, line: str, capture: pytest.CaptureFixture[str]) -> None:
    """Set up what a line assumes and no earlier line does."""
    if line == "cesbrfs /backups":
        (machine.root / "backups").mkdir(exist_ok=True)
    if line in ("cesbr restore", "cesbr plan"):
        assert machine.type("cesbr select --backup latest redmine/dogu.json", capture) == 0
    if line.startswith(("cesbr umount", "cesbr refresh")):
        mountpoint = line.rsplit(maxsplit=1)[-1]
        if not Path(machine.moved(mountpoint)).is_mount():
            assert machine.type(f"cesbr mount {mountpoint}", capture) == 0
    if line.startswith("cesbr diff latest live"):
        report = machine.instance.volume("redmine", "files") / "report.txt"
        report.write_text("not backed up yet\n")


@pytest.mark.parametrize("page", _ALL, ids=lambda page: page.name)
def test_lines_of_the_documentation(
    page: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """All lines of the code blocks of a page, run in order, exit with 0."""
    failed = []
    for line in _ALL[page]:
        if line in NOT_RUN or line.split()[0] in NOT_RUN.keys() - {"cesbr"}:
            continue
        _prepare(machine, line, capsys)
        code = machine.type(line, capsys)
        if code:
            failed.append(f"{line}: {code}, {machine.said[-1]}")
    assert failed == []


def test_examples_of_the_help(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of each command exits with 0."""
    failed = []
    for command in _COMMANDS:
        line = f"cesbr {command.example}"
        _prepare(machine, line, capsys)
        code = machine.type(line, capsys)
        if code:
            failed.append(f"{line}: {code}, {machine.said[-1]}")
    assert failed == []


def test_what_is_not_run_is_there() -> None:
    """Every entry in the list of excluded lines occurs in a page."""
    lines = [line for page in _ALL.values() for line in page]
    for name in NOT_RUN:
        assert any(line == name or line.startswith(f"{name} ") for line in lines), name
    assert len(lines) > 40
    assert sum(line in NOT_RUN for line in lines) <= 2


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_parse(page: Path) -> None:
    """`cesbr …` in running text names an existing command with existing options."""
    prose = _BLOCK.sub("", page.read_text())
    for line in re.findall(r"`(cesbr [^`\n]+)`", prose):
        if "…" in line or "COMMAND" in line or line.endswith(" --version"):
            continue
        before = global_parser().parse_args(shlex.split(line)[1:])
        if before.command:
            _parse(find_command(before.command), before.arguments, line)


def _parse(command: Command, arguments: list[str], line: str) -> None:
    try:
        command_parser(command).parse_intermixed_args(arguments)
    except CesbrError as error:
        if "Missing arguments" not in error.message:  # a sentence may leave out what is clear
            raise AssertionError(line) from error
