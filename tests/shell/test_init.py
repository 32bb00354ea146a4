"""Which commands create a missing repository."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr, Site

_READERS = (
    ("backups",),
    ("ls",),
    ("find", "x"),
    ("check",),
    ("unlock",),
    ("forget", "--keep-last", "1", "--yes"),
    ("restore", "--backup", "latest", "--target", "back", "--yes"),
    ("mount", "back"),
)


@pytest.mark.parametrize("command", _READERS, ids=lambda words: words[0])
def test_an_address_from_the_command_line_is_only_looked_at(
    own: Cesbr, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """It may be mistyped: exit code 10 with a hint, and nothing is created."""
    said = own("--repo", str(tmp_path / "mistyped"), *command)
    assert said.code == 10
    assert "There is no repository at" in said.err
    assert "cesbr init" in said.err
    assert not (tmp_path / "mistyped").exists()


def test_init_and_backup_create_it(own: Cesbr, tmp_path: Path) -> None:
    """`init` and backup create it, because the user asked to write there."""
    for command in (("init",), ("backup", "redmine")):
        place = str(tmp_path / command[0])
        said = own("--repo", place, *command)
        assert said.code == 0, said.err
        assert own("--repo", place, "backups").code == 0


def test_a_repository_whose_disk_is_away(own: Cesbr, site: Site) -> None:
    """If the disk is not mounted, no command creates an empty repository, even if configured."""
    assert own("backups").code == 0
    away = site.repository.with_name("away")
    site.repository.rename(away)
    for command in (("backups",), ("backup", "redmine"), ("init",), ("check",)):
        said = own(*command)
        assert said.code == 10
        assert "existed when this user last opened it" in said.err
        assert not site.repository.exists()
    for command in (("status",), ("doctor",), ("--no-init", "backups")):
        said = own(*command)
        text = " ".join((said.out + said.err).split())
        assert "but this user has opened one there before. Mount its disk" in text
        assert "Create it with" not in text
    away.rename(site.repository)
    assert own("backups").code == 0
    shutil.rmtree(site.repository)
    assert own("init", "--force").code == 0
    assert os.listdir(site.repository / "snapshots") == []
