"""The manual pages are complete and pass groff without warnings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cesbr.cli.arguments import global_parser
from cesbr.cli.manpages import cesbr_page, cesbrfs_page
from cesbr.commands import MODULES, commands_of

from cesbrfs.fuse.cli import parser as cesbrfs_parser

PAGES = {"cesbr": cesbr_page, "cesbrfs": cesbrfs_page}


def _shown(page: str, *arguments: str) -> str:
    """Return the output of groff for a page; fail on warnings."""
    if shutil.which("groff") is None:
        reason = "no groff on PATH; `.ci/apt-packages servers` installs it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", "-P-cbou", "-rLL=100n", *arguments],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_well_formed(name: str) -> None:
    """No warnings, no overlong lines, and a NAME section in the form that man indexes."""
    shown = _shown(PAGES[name]())
    assert max(map(len, shown.splitlines())) <= 100
    assert f"\n       {name} - " in shown


def test_cesbr_page_has_every_command_and_flag() -> None:
    """Each command with summary and example, each option with its help text."""
    shown = " ".join(_shown(cesbr_page()).split())
    for module in MODULES:
        for command in commands_of(module):
            assert f" cesbr {command.example} " in shown
            assert " ".join(command.description.split()) in shown
    for action in global_parser()._actions:
        if action.option_strings:
            assert f" {', '.join(action.option_strings)} " in shown
            assert str(action.help) in shown


def test_cesbrfs_page_has_every_flag() -> None:
    """Each option with its help text."""
    shown = " ".join(_shown(cesbrfs_page()).split())
    for action in cesbrfs_parser()._actions:
        assert " ".join(str(action.help).split()) in shown


def test_words_are_no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that looks like troff requests is printed literally."""
    said = "a\\fBc 'x' \"y\" -z ~ ^ ` … ."
    monkeypatch.setattr("cesbr.cli.manpages._TREE", ((".so /etc/passwd", said), ("'", said)))
    shown = _shown(cesbrfs_page())
    assert shown.count(said) == 2
    assert ".so /etc/passwd" in shown


def test_pages_are_written(tmp_path: Path) -> None:
    """`python -m cesbr.cli.manpages DIR` creates DIR and prints the files it wrote."""
    directory = tmp_path / "man/man1"
    done = subprocess.run(
        [sys.executable, "-m", "cesbr.cli.manpages", directory],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(directory / "cesbr.1"), str(directory / "cesbrfs.1")]
    assert (directory / "cesbr.1").read_text(encoding="ascii") == cesbr_page()
