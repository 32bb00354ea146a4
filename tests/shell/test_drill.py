"""drill: restore to a scratch directory, verify, remove, record."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cesbrfs.restore.drill import PREFIX
from tests.shell.conftest import BINARY, Cesbr, Site

FILES = "redmine/volumes/files"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A directory for the files of drills."""
    made = tmp_path / "scratch"
    made.mkdir()
    return made


def test_drill_is_recorded(own: Cesbr, site: Site, scratch: Path) -> None:
    """All files are restored and removed; list, status, doctor and metrics show it."""
    assert own("drill", "--list").out == "No drill is recorded. Run 'cesbr drill'.\n"
    assert re.search(r"Last drill: +never \(redmine\)", own("status").out)
    assert 'cesbrfs_last_drill_timestamp_seconds{dogu="redmine"} 0' in own("metrics").out
    said = own("drill", "--full", "--scratch", str(scratch), "--json")
    assert said.code == 0, said.err
    results = said.json
    assert isinstance(results, list)
    found = {result["dogu"]: result for result in results}
    assert set(found) == {"redmine", "_instance"}
    assert (found["redmine"]["files"], found["redmine"]["share"]) == (5, 1)
    assert found["redmine"]["bytes"] > len(BINARY)
    assert os.listdir(scratch) == []
    assert re.search(r"redmine +\S+ \S+ ago, all files of ", own("drill", "--list").out)
    assert re.search(r"Last drill: +\S+ \S+ ago \(redmine, the oldest\)", own("status").out)
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    assert [list(one["drills"]) for one in backups if one["drills"]] == [["redmine"]]
    assert "complete, drilled" in own("backups").out
    times = re.search(r'drill_timestamp_seconds\{dogu="redmine"\} (\S+)', own("metrics").out)
    assert times
    assert float(times[1]) > 0
    doctor = own("doctor", "--json").json
    assert isinstance(doctor, list)
    assert [one["state"] for one in doctor if one["check"] == "last drill"] == ["ok"]


def test_a_drill_that_fails(own: Cesbr, site: Site, scratch: Path) -> None:
    """Damaged files are named, the exit code is 1, and an earlier success does not count."""
    assert own("drill", "redmine", "--sample", "1", "--scratch", str(scratch)).code == 0
    packs = [path for path in (site.repository / "data").rglob("*") if path.is_file()]
    largest = max(packs, key=lambda path: path.stat().st_size)
    largest.chmod(0o600)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    said = own("drill", "redmine", "--full", "--scratch", str(scratch))
    assert said.code == 1
    assert re.search("redmine +failed", said.out)
    assert f"failed: {FILES}/sub/binary: " in said.err
    assert os.listdir(scratch) == []
    assert re.search(r"Last drill: +never \(redmine\)", own("status").out)
    assert own("drill", "--scratch", str(scratch / "missing")).code == 1
    assert own("drill", "unknown").code == 2
    assert own("drill", "--sample", "0").code == 2


def test_directories_of_killed_drills_are_removed(own: Cesbr, site: Site, scratch: Path) -> None:
    """Only those that no other drill has locked."""
    stale = scratch / f"{PREFIX}stale"
    (stale / "below").mkdir(parents=True)
    (stale / "below/file").write_text("left")
    (scratch / "other").mkdir()
    assert own("drill", "redmine", "--scratch", str(scratch)).code == 0
    assert os.listdir(scratch) == ["other"]
