"""The command export: archives on standard output and in files."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr, Inside, Site
from tests.shell.terminal import terminal

VOLUME = "redmine/volumes/files"


def _names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return opened.getnames()


def test_names_are_those_of_a_restore(inside: Inside) -> None:
    """Names start below the backup, or below the Backup IDs of several; parents are included."""
    backups = inside("backups", "--json").json
    assert isinstance(backups, list)
    first, second = (backup["id"] for backup in backups)
    said = inside("export", f"/latest/{VOLUME}/hello.txt", f"/latest/{VOLUME}/sub")
    assert said.code == 0
    above = ["redmine", "redmine/volumes", VOLUME]
    assert _names(said.stdout) == [
        *above, f"{VOLUME}/hello.txt", f"{VOLUME}/sub", f"{VOLUME}/sub/binary",
    ]  # fmt: skip
    several = _names(inside("export", f"/*/{VOLUME}/hello.txt").stdout)
    assert several[0] == first
    assert several[-1] == f"{second}/{VOLUME}/hello.txt"
    with tarfile.open(fileobj=io.BytesIO(inside("export", "--backup", "latest").stdout)) as whole:
        member = whole.getmember(f"{VOLUME}/hello.txt")
        file = whole.extractfile(member)
        assert file is not None
        assert file.read() == b"hello again\n"
        assert "backup.json" in whole.getnames()
        assert member.pax_headers["mtime"] == "1700000000.123456789"


def test_a_file_appears_complete(inside: Inside, tmp_path: Path) -> None:
    """`-o` writes a file for its owner only; the suffix selects the format."""
    target = tmp_path / "it.zip"
    said = inside("export", "--json", f"/latest/{VOLUME}/sub", "-o", str(target))
    assert said.code == 0
    assert isinstance(said.json, dict)
    assert (said.json["format"], said.json["entries"], said.json["failed"]) == ("zip", 5, [])
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with zipfile.ZipFile(target) as archive:
        assert len(archive.read(f"{VOLUME}/sub/binary")) == 60_000
    assert inside("export", "/latest/redmine", "-o", str(tmp_path)).code == 1
    assert [path for path in tmp_path.iterdir() if path.is_file()] == [target]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("/",),
        ("/latest", "-o", "x.tar.gz"),
        ("/latest", "-S", "--format", "zip"),
    ],
)
def test_usage_errors(inside: Inside, arguments: tuple[str, ...]) -> None:
    """Nothing is exported without paths, and no format is guessed."""
    said = inside("export", *arguments)
    assert (said.code, said.stdout) == (2, b"")


def test_missing_paths_and_what_a_backup_lacks(own: Cesbr, site: Site) -> None:
    """Everything else is exported, and the exit code is 3."""
    said = own("export", f"/latest/{VOLUME}/hello.txt", f"/latest/{VOLUME}/none")
    assert said.code == 3
    assert f"{VOLUME}/hello.txt" in _names(said.stdout)
    described = json.loads(own("cat", "/latest/backup.json").out)
    lost = next(point["snapshot"] for point in described["points"] if point["kind"] == "registry")
    (site.repository / "snapshots" / lost).unlink()
    said = own("export", "--backup", described["id"])
    assert said.code == 3
    assert f"Its snapshot {lost[:8]} is missing or cannot be read." in said.err
    assert f"{VOLUME}/hello.txt" in _names(said.stdout)


def test_a_remote_repository_is_read_the_same(far: Cesbr, kept: Cesbr) -> None:
    """Search results and archives do not depend on the storage."""
    for command in (("grep", "-c", "."), ("export", f"/*/{VOLUME}")):
        said, expected = far(*command), kept(*command)
        assert (said.code, said.err) == (0, "")
        assert said.stdout == expected.stdout


def test_a_terminal_gets_no_archive(kept: Cesbr, tmp_path: Path) -> None:
    """Without a file, standard output must not be a terminal."""
    with terminal(kept, tmp_path, "export", "/latest") as screen:
        screen.wait_for("An archive would confuse the terminal")


def test_errors_of_the_file_name_it(inside: Inside, tmp_path: Path) -> None:
    """Not the temporary name, and also when the disk is full."""
    missing = tmp_path / "missing/a.tar"
    for file, reason in (
        (missing, "No such file or directory"),
        (Path("/dev/full"), "No space left on device"),
    ):
        said = inside("export", "/latest/redmine", "-o", str(file))
        assert said.code == 1
        assert said.err == f"cesbr: Cannot write {file}: {reason}. Pass another file with -o.\n"
