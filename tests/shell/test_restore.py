"""restore: plan, confirmation, result and report."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.shell.conftest import BINARY, ODD, Cesbr, Site
from tests.shell.terminal import terminal

FILES = "redmine/volumes/files"


def test_restores_below_the_target(kept: Cesbr) -> None:
    """Selected paths are restored below the target with the same relative paths, nothing else."""
    said = kept("restore", "--backup", "latest", FILES, "--target", "back", "--yes", "--json")
    assert said.code == 0, said.err
    report = said.json
    assert isinstance(report, dict)
    assert report["target"] == str(kept.here / "back")
    assert (report["files"], report["skipped"], report["failed"]) == (5, 0, [])
    restored = kept.here / "back" / FILES
    assert (restored / "sub/binary").read_bytes() == BINARY
    assert (restored / "hello.txt").read_text() == "hello again\n"
    assert (restored / "hello.txt").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert os.readlink(restored / "link") == "hello.txt"
    assert ODD in os.listdir(os.fsencode(restored))
    assert [path.name for path in kept.here.iterdir()] == ["back"]


def test_default_target_is_named_by_the_backup(kept: Cesbr) -> None:
    """The default target is restored-<backup ID>, and existing files are kept."""
    path = f"/latest/{FILES}/hello.txt"
    assert kept("restore", path, "--yes").code == 0
    (target,) = kept.here.iterdir()
    assert target.name.startswith("restored-2")
    restored = target / FILES / "hello.txt"
    restored.write_text("mine")
    again = kept("restore", path, "--yes", "--json").json
    assert isinstance(again, dict)
    assert (again["files"], again["skipped"]) == (0, 1)
    assert restored.read_text() == "mine"
    assert kept("restore", path, "--yes", "--overwrite", "always").code == 0
    assert restored.read_text() == "hello again\n"


def test_nobody_to_ask_is_a_usage_error(kept: Cesbr) -> None:
    """Without a terminal it prints the plan, asks for --yes, and writes nothing."""
    said = kept("restore", f"/latest/{FILES}")
    assert said.code == 2
    assert "--yes" in said.err
    assert "5 files" in said.err
    assert list(kept.here.iterdir()) == []


def test_dry_run_writes_nothing(kept: Cesbr) -> None:
    """The plan shows the target and the size."""
    said = kept("restore", f"/latest/{FILES}", "--dry-run", "--json")
    assert said.code == 0
    plan = said.json
    assert isinstance(plan, dict)
    assert plan["files"] == 5
    assert plan["target"].startswith(f"{kept.here}/restored-")
    assert list(kept.here.iterdir()) == []


def test_in_place_puts_volumes_back(own: Cesbr, site: Site) -> None:
    """In place the files of a volume replace those at the original location."""
    (site.files / "hello.txt").write_text("broken")
    (site.files / "new.txt").write_text("new")
    (site.files / "sub/binary").unlink()
    said = own("restore", "--backup", "latest", "redmine", "--in-place", "--yes", "--verify")
    assert said.code == 0, said.err
    assert (site.files / "hello.txt").read_text() == "hello again\n"
    assert (site.files / "sub/binary").read_bytes() == BINARY
    assert (site.files / "new.txt").read_text() == "new"
    assert "dogu.json" in said.out


def test_partial_restore_is_error_3(own: Cesbr, site: Site) -> None:
    """Files that cannot be written are reported, and the rest is restored."""
    (own.here / "back" / FILES / "hello.txt").mkdir(parents=True)
    said = own("restore", "--backup", "latest", FILES, "--target", "back", "--yes", "--verify")
    assert said.code == 3
    assert f"failed: {FILES}/hello.txt: A directory exists in its place" in said.err
    assert "Failed: 1 path in total.\n" in said.err
    assert "hello.txt" not in said.out
    quiet = own("--quiet", "restore", "--backup", "latest", FILES, "--target", "back", "--yes")
    assert (quiet.code, "hello.txt" in quiet.err) == (3, True)
    plan = own("plan", "--backup", "latest", FILES, "--target", "back")
    assert (plan.code, "hello.txt" in plan.out) == (3, True)
    assert (own.here / "back" / FILES / "sub/binary").read_bytes() == BINARY
    assert site.files.exists()


def test_safety_backup(own: Cesbr, site: Site) -> None:
    """It saves the current files first; if it fails, nothing is restored."""
    (site.files / "hello.txt").write_text("precious")
    arguments = ("--backup", "latest", f"{FILES}/hello.txt", "--in-place", "--yes")
    said = own("restore", *arguments, "--safety-backup", "--json")
    assert said.code == 0, said.err
    assert isinstance(said.json, dict)
    notes = [json.loads(line) for line in said.err.splitlines()]
    assert any(n.get("text", "").startswith("Safety backup: Backup 2") for n in notes)
    assert (site.files / "hello.txt").read_text() == "hello again\n"
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    assert [backup["safety"] for backup in backups] == [False, False, True]
    assert own("cat", f"/{backups[2]['id']}/{FILES}/hello.txt").out == "precious"
    assert "complete, safety" in own("backups").out
    for latest in (f"/latest/{FILES}/hello.txt", "--backup=latest", f"--backup={backups[1]['id']}"):
        shown = own("cat", *([latest] if "/" in latest else [latest, f"{FILES}/hello.txt"]))
        assert shown.out == "hello again\n"
    site.set("/config/backup/pre_backup_script", "/no/such/script")
    said = own("restore", *arguments, "--safety-backup")
    assert said.code == 1
    assert (site.files / "hello.txt").read_text() == "hello again\n"
    assert own("restore", "x", "--safety-backup", "--target", "y").code == 2


def test_a_safety_backup_of_a_dogu_that_is_not_installed(own: Cesbr, site: Site) -> None:
    """Its files cannot be backed up as those of a dogu, so they are not replaced."""
    (site.root / "var/lib/cesbr/registry/dogu/redmine/current").unlink()
    (site.files / "hello.txt").write_text("precious")
    restore = ("restore", "--backup", "latest", f"{FILES}/hello.txt", "--in-place", "--yes")
    said = own(*restore, "--safety-backup")
    assert (said.code, "data of redmine cannot be backed up" in said.err) == (1, True), said.err
    assert (site.files / "hello.txt").read_text() == "precious"
    assert own(*restore).code == 0


def test_the_same_restore_again_restores_the_same(own: Cesbr, site: Site) -> None:
    """A second restore does not treat the safety backup of the first as the latest."""
    restore = ("restore", "--backup", "latest", f"{FILES}/hello.txt", "--in-place", "--yes")
    assert own("backup", "redmine").code == 0
    (site.files / "hello.txt").write_text("broken")
    for _ in range(2):
        said = own(*restore, "--overwrite", "always", "--safety-backup")
        assert said.code == 0, said.err
        assert (site.files / "hello.txt").read_text() == "hello again\n"


def test_a_backup_of_another_host_needs_a_flag(own: Cesbr, site: Site) -> None:
    """In place and into the registry; the plan always shows the host."""
    site.set("/config/_global/fqdn", "ces.example.org")
    assert own("backup").code == 0
    site.set("/config/_global/fqdn", "other.example.org")
    (site.files / "hello.txt").write_text("mine")
    in_place = ("--backup", "latest", "redmine", "--in-place")
    for command in (("restore", *in_place, "--yes"), ("restore-registry", "redmine", "--yes")):
        said = own(*command)
        assert said.code == 2
        assert "this instance is other.example.org. Pass --other-host" in said.err
    assert (site.files / "hello.txt").read_text() == "mine"
    plan = own("plan", *in_place)
    assert plan.code == 0
    assert ", host ces.example.org, complete." in plan.out
    assert "Denied: Backup" in plan.out
    assert "Denied" not in own("plan", *in_place, "--other-host").out
    assert own("restore", *in_place, "--other-host", "--yes").code == 0
    assert (site.files / "hello.txt").read_text() == "hello again\n"
    assert own("restore-registry", "redmine", "--other-host", "--yes").code == 0


def test_in_place_offers_a_safety_backup(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """A restore that replaces files asks first on a terminal, and continues either way."""
    (site.files / "hello.txt").write_text("precious")
    path = f"/latest/{FILES}/hello.txt"
    with terminal(own, tmp_path, "restore", path, "--in-place") as screen:
        screen.wait_for(r"^Back up the current state of redmine first\? \[Y/n\]")
        screen.line("n")
        screen.wait_for(r"^Restore this\? \[y/N\]")
        screen.line("y")
        assert screen.exit_code() == 0
    assert (site.files / "hello.txt").read_text() == "hello again\n"
    assert len(list(own("backups", "--json").json)) == 2  # type: ignore[call-overload]  # an array


def test_the_safety_backup_is_the_default(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """Enter makes it before the restore; if the restore is declined, it is not made."""
    path = f"/latest/{FILES}/hello.txt"
    for answer, backups, content in (("n", 2, "precious"), ("y", 3, "hello again\n")):
        (site.files / "hello.txt").write_text("precious")
        with terminal(own, tmp_path, "restore", path, "--in-place") as screen:
            screen.wait_for(r"^Back up the current state of redmine first\? \[Y/n\]")
            screen.line("")
            screen.wait_for(r"^Restore this\? \[y/N\]")
            screen.line(answer)
            assert screen.exit_code() == 0
        assert (site.files / "hello.txt").read_text() == content
        assert len(list(own("backups", "--json").json)) == backups  # type: ignore[call-overload]  # an array
        (tmp_path / "exit code").unlink()
        (tmp_path / "tmux").unlink(missing_ok=True)


def test_in_place_replaces_what_differs(own: Cesbr, site: Site) -> None:
    """By default only changed files are replaced; --overwrite always replaces all."""
    in_place = ("--backup", "latest", FILES, "--in-place")
    (site.files / "hello.txt").write_text("broken")
    inode = (site.files / "sub/binary").stat().st_ino
    plan = own("plan", *in_place)
    assert plan.code == 0
    listed = [line for line in plan.out.splitlines() if line.startswith("replaced")]
    assert len(listed) == 1
    assert listed[0].endswith("/hello.txt")
    assert "1 existing file" in plan.out
    assert "Unchanged:" in plan.out
    said = own("restore", *in_place, "--yes", "--json").json
    assert isinstance(said, dict)
    assert (said["files"], said["unchanged"], said["skipped"]) == (1, 4, 0)
    assert (site.files / "sub/binary").stat().st_ino == inode
    said = own("restore", *in_place, "--yes", "--json", "--overwrite", "always").json
    assert isinstance(said, dict)
    assert (said["files"], said["unchanged"]) == (5, 0)


def test_many_failures_are_grouped(own: Cesbr, site: Site) -> None:
    """The first failures of each reason are listed below it; --json lists all."""
    for number in range(30):
        (site.files / f"many{number:02}").write_text("x")
        (own.here / "back" / FILES / f"many{number:02}").mkdir(parents=True)
    assert own("backup").code == 0
    arguments = ("restore", "--backup", "latest", FILES, "--target", "back", "--yes")
    said = own(*arguments)
    assert said.code == 3, said.err
    assert "failed: 30 paths: A directory exists in its place" in said.err
    assert f"  {FILES}/many19\n" in said.err
    assert "many20" not in said.err
    assert "  and 10 more (--json lists all of them)\n" in said.err
    assert said.err.index("Failed: 30 paths in total.\n")
    said = own(*arguments, "--json")
    assert isinstance(said.json, dict)
    assert len(said.json["failed"]) == 30
    for line in said.err.splitlines():
        json.loads(line)
