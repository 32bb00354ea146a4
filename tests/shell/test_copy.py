"""copy, as an administrator runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.shell.conftest import KEY, Cesbr, Inside, Site
from tests.support.restic_repo import ResticRepo, cheapen


def listed(cesbr: Inside) -> list[Any]:
    found = cesbr("backups", "--json").json
    assert isinstance(found, list)
    return found


def test_backups_are_copied(
    site: Site, restic_old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has its own key, and shows the same backups; no key is on a command line."""
    other, key_file = tmp_path / "other", tmp_path / "key"
    key_file.write_text("another key\n")
    calls, program = tmp_path / "calls", tmp_path / "restic"
    program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexec {restic_old} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("CESBR_RESTIC", str(program))
    own = Inside(site.root)
    to = ("--to", str(other), "--to-password-file", str(key_file))
    assert own("note", "latest", "the second").code == 0

    said = own("copy", "latest", *to)
    assert said.code == 10
    assert "Correct --to, or pass --init" in said.err
    assert not other.exists()

    said = own("copy", "latest", *to, "--init")
    assert said.code == 0, said.err
    assert re.search(rf"complete +complete +\d\n1 backup of 1 in {other}\.\n\Z", said.out)
    cheapen(ResticRepo(restic_old, other, "another key"))
    monkeypatch.setenv("CESBR_REPOSITORY", str(other))
    monkeypatch.setenv("CESBR_PASSWORD_FILE", str(key_file))
    copy = Inside(site.root)
    assert listed(copy) == listed(own)[1:]

    told = own("copy", "--all", *to, "--dry-run", "--json").json
    assert isinstance(told, dict)
    assert told["repository"] == str(other)
    first, second = told["backups"]
    assert first["id"] == listed(own)[0]["id"]
    assert (first["status"], first["copy"]) == ("complete", None)
    assert first["snapshots"] > 2
    assert second["snapshots"] == 0
    assert own("copy", "--all", *to).code == 0
    copy.close()
    copy = Inside(site.root)  # the other session lists again after a second
    assert listed(copy) == listed(own)
    restored = copy("cat", "--backup", "latest", "redmine/volumes/files/hello.txt")
    assert restored.out == "hello again\n"
    assert KEY.strip() not in calls.read_text()
    assert "another key" not in calls.read_text()
    own.close()
    copy.close()


def test_what_cannot_be_copied(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """The wrong key, the repository itself, and unclear requests change nothing."""
    key_file = tmp_path / "key"
    key_file.write_text("another key\n")
    same = ("--to", str(site.repository))
    said = own("copy", "--all", *same)
    assert said.code == 2
    assert "is the repository that contains the backups" in said.err
    assert own("copy", "--all", *same, "--to-password-file", str(key_file)).code == 12
    said = own("copy", "--all", "latest", *same)
    assert said.code == 2
    assert "pass --all" in said.err
