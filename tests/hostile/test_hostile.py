"""Read hostile repositories with the commands and a mount; `make hostile` does more."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.hostile.__main__ import read, write
from tests.hostile.cases import CASES, GOOD, KEY, build
from tests.support.mounting import fuse_missing, mounting

_ENDED_BY_TIMEOUT = 124


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where that is possible: restores wait for the disk."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="cesbrfs-", dir=place))
    yield made
    subprocess.run(["rm", "-rf", made], check=True)  # shutil.rmtree cannot remove 1,000 levels


@pytest.mark.timeout(600)
def test_all_commands_read_hostile_repositories(in_memory: Path, restic_old: Path) -> None:
    """Only what is hostile fails; memory and time are bounded; nothing is written elsewhere."""
    readings = list(
        read([case.name for case in CASES], in_memory, "--quick", "--restic", str(restic_old))
    )
    assert {reading["case"] for reading in readings} == {case.name for case in CASES}
    assert not [reading for reading in readings if reading["faults"]]


@pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))
def test_programs_read_hostile_repositories_in_a_mount(tmp_path: Path) -> None:
    """ls, find and du end, and see neither devices, privileges, nor names that lead elsewhere."""
    names = ["special", "name-slash", "cycle", "doubling"]
    with mounting(tmp_path) as mount:
        for name in names:
            (case,) = (case for case in CASES if case.name == name)
            build(case).write_to(tmp_path / name)
            mounted = mount(Access(str(tmp_path / name), Secret(KEY)))
            files = mounted.path / "one/dogu/volumes/files"
            assert (files / "good").read_bytes() == GOOD
            assert set(os.listdir(files)) >= {"good", "day 1"}
            for program in (["ls", "-lR"], ["find", "-ls"], ["du", "-s"]):
                ended = subprocess.run(
                    ["timeout", "0.5" if case.endless else "60", *program, files],
                    capture_output=True,
                    check=False,
                )
                assert ended.returncode in ((0, 1, _ENDED_BY_TIMEOUT) if case.endless else (0, 1))
            if name == "special":
                with pytest.raises(PermissionError):
                    (files / "null").read_bytes()
                assert os.statvfs(files).f_flag & os.ST_NOSUID
            assert mounted.stop() == 0


def test_the_corpus_describes_itself(tmp_path: Path) -> None:
    """`make hostile` writes a repository for each case, which restic can open, and the outcomes."""
    write(CASES[:2], tmp_path / "corpus")
    assert sorted(os.listdir(tmp_path / "corpus")) == [
        "cases.json", *sorted(case.name for case in CASES[:2]),
    ]  # fmt: skip
    assert "hostile" in (tmp_path / "corpus/cases.json").read_text()
    restic = shutil.which("restic")
    assert restic
    listed = subprocess.run(
        [restic, "ls", "latest", "--no-lock"],
        env={
            **os.environ,
            "RESTIC_REPOSITORY": str(tmp_path / "corpus" / CASES[0].name),
            "RESTIC_PASSWORD": KEY.decode(),
        },
        capture_output=True,
        check=True,
    )
    assert b"/good" in listed.stdout
