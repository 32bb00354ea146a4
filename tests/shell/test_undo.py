"""undo: list, plan, put back, remove."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.shell.conftest import Cesbr, Site
from tests.support.compare import differences, records

FILES = "redmine/volumes/files"
_IN_PLACE = ("restore", "--backup", "latest", "redmine", "--in-place", "--yes")


def test_undo_of_a_restore_in_place(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """The plan shows what is kept and where; undo puts it back once."""
    (site.files / "hello.txt").write_text("precious")
    (site.files / "hello.txt").chmod(0o604)
    (site.files / "sub/binary").unlink()
    before = records(str(site.files))
    kept = site.root / "var/lib/cesbr/undo"
    plan = own(*_IN_PLACE, "--dry-run")
    assert re.search(f"Keeps: +1 file, 8 B in {kept}, for 'cesbr undo'", plan.out)
    planned = own(*_IN_PLACE, "--dry-run", "--json").json
    assert isinstance(planned, dict)
    assert planned["kept"] == {"files": 1, "bytes": 8, "directories": [str(kept)]}
    said = own(*_IN_PLACE)
    assert said.code == 0, said.err
    assert "To undo: cesbr undo 2" in said.out
    assert (site.files / "hello.txt").read_text() == "hello again\n"
    listed = own("undo", "--list", "--json").json
    assert isinstance(listed, list)
    assert [(one["files"], one["bytes"], one["state"]) for one in listed] == [(1, 8, "restored")]
    completed = own.having(CESBR_TAB_SECONDS="30")("__complete", "zsh", "undo", "2").out
    kind, line = completed.splitlines()
    assert (kind, line.split("\t")[0]) == ("words", listed[0]["id"])
    dry = own("undo", "--dry-run")
    assert re.search(r"Puts back: +1 file, 8 B\n", dry.out)
    assert re.search(r"Removes: +1 file it created\n", dry.out)
    assert own("undo").code == 2, "nobody can be asked"
    undone = own("undo", listed[0]["id"][:12], "--yes", "--json")
    assert undone.json == {"files": 1, "removed": 1, "failed": [], "warnings": [], "kept": []}
    assert differences(records(str(site.files)), before) == []
    assert own("undo", "--yes").code == 1
    assert own("undo", "--list").out == "There is no restore to undo.\n"


def test_a_resumed_restore_is_one_restore(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """It is undone as a whole; restores to the same paths are undone in reverse order."""
    (site.files / "hello.txt").write_text("precious")
    (site.files / "sub/binary").unlink()
    (site.files / "sub/binary").mkdir()
    before = records(str(site.files))
    directory = own.here / "kept"
    assert own(*_IN_PLACE, "--backup-dir", "kept").code == 3
    (site.files / "sub/binary").rmdir()
    said = own("restore", "--resume", "--yes")
    assert said.code == 0, said.err
    (site.files / "hello.txt").write_text("second")
    assert own(*_IN_PLACE).code == 0
    listed = own("undo", "--list", "--json").json
    assert isinstance(listed, list)
    first, second = (one["id"] for one in listed)
    assert os.listdir(directory) == [first]
    refused = own("undo", first, "--yes")
    assert (refused.code, second in refused.err) == (1, True)
    assert own("undo", "--yes").code == 0
    assert (site.files / "hello.txt").read_text() == "second"
    undone = own("undo", first, "--yes")
    assert undone.code == 0, undone.err
    assert (site.files / "hello.txt").read_text() == "precious"
    (site.files / "sub/binary").mkdir()
    after = records(str(site.files))
    assert after.keys() == before.keys()
    (changed,) = directory.glob("*/changed/**/hello.txt")
    assert changed.read_text() == "second"
    assert own("undo", first, "--yes").code == 1
    assert own("undo", "--remove", first, "--yes").code == 0
    assert not changed.exists()


def test_nothing_is_kept(own: Cesbr, site: Site) -> None:
    """With --no-backup-dir, and by a restore that changes nothing."""
    (site.files / "hello.txt").write_text("broken")
    assert "Keeps" not in own(*_IN_PLACE, "--no-backup-dir", "--dry-run").out
    said = own(*_IN_PLACE, "--no-backup-dir")
    assert (said.code, "undo" in said.out) == (0, False)
    assert (said.code, "undo" in own(*_IN_PLACE).out) == (0, False)
    assert own("undo", "--list", "--json").json == []
    assert own(*_IN_PLACE, "--no-backup-dir", "--backup-dir", "x").code == 2


def test_scripts_and_a_restore_to_a_directory(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """Scripts run around the undo in place; --backup-dir also works with --target."""
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho $CESBR_BACKUP_ID >>{tmp_path}/ran\n")
    script.chmod(0o755)
    site.set("/config/backup/pre_restore_script", str(script))
    site.set("/config/backup/post_restore_script", str(script))
    (site.files / "hello.txt").write_text("precious")
    assert own(*_IN_PLACE).code == 0
    assert own("undo", "--yes", "--maintenance").code == 0
    assert len((tmp_path / "ran").read_text().split()) == 4
    (own.here / "back" / FILES).mkdir(parents=True)
    (own.here / "back" / FILES / "hello.txt").write_text("mine")
    to = ("restore", f"/latest/{FILES}", "--target", "back", "--overwrite", "always", "--yes")
    assert own(*to, "--backup-dir", "kept").code == 0
    assert own("undo", "--yes").code == 0
    assert [path.name for path in (own.here / "back").rglob("*") if path.is_file()] == ["hello.txt"]
    assert (own.here / "back" / FILES / "hello.txt").read_text() == "mine"


def test_mirror(own: Cesbr, site: Site) -> None:
    """--delete shows what it deletes, keeps it for undo, and never deletes excluded names."""
    (site.files / "extra/deep").mkdir(parents=True)
    (site.files / "extra/deep/file").write_text("extra")
    (site.files / "cache").write_text("cache")
    (site.files.parent / "logs").mkdir()
    before = records(str(site.files.parent))
    mirror = (*_IN_PLACE, "--delete", "--exclude", "cache")
    plan = own(*mirror, "--dry-run")
    assert re.search("Deletes: +1 file, 2 directories, 5 B that", plan.out)
    assert "var/lib/ces/redmine/volumes/files/extra/deep/file" in plan.out
    said = own(*mirror, "--json")
    assert said.code == 0, said.err
    report = said.json
    assert isinstance(report, dict)
    assert (report["deleted"], report["deleted_folders"]) == (1, 2)
    assert not (site.files / "extra").exists()
    assert (site.files / "cache").exists()
    assert (site.files.parent / "logs").exists()
    assert own("undo", "--yes").code == 0
    assert differences(records(str(site.files.parent)), before) == []
    assert own(*mirror, "--no-backup-dir").code == 0
    assert own("undo", "--list", "--json").json == []
    assert own(*_IN_PLACE, "--delete", "--suffix").code == 2
    assert own(*_IN_PLACE, "--delete", "--include", "x").code == 2
