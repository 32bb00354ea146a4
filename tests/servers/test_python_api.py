"""The public API: the documented example runs, and the names are typed and imported lazily."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cesbrfs
from cesbrfs.errors import RepositoryMissingError, WrongKeyError
from tests.support.project import PROJECT
from tests.support.restic_repo import PASSWORD, ResticRepo, create

_EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def repo(restic_old: Path, tmp_path: Path) -> ResticRepo:
    """A repository with one backup of a dogu."""
    made = create(restic_old, tmp_path / "repo")
    dogu = tmp_path / "ces/redmine"
    files = dogu / "volumes/files"
    files.mkdir(parents=True)
    (dogu / "dogu.json").write_text('{"Name": "official/redmine"}')
    (files / "plan.txt").write_text("the plan")
    made.backup(dogu, tags=["A"])
    return made


def test_the_documented_example_runs(repo: ResticRepo) -> None:
    """The example of docs/python.md prints the backup, its files and the content."""
    (example,) = _EXAMPLE.findall((PROJECT / "docs/python.md").read_text())
    script = example.replace("/mnt/backup/ces", str(repo.directory)).replace(
        "the password", PASSWORD
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "A"
    assert "/A/redmine/volumes/files/plan.txt 8" in lines
    assert lines[-1] == str(b'{"Name": "official/redmine"}')


async def test_every_file_is_walked_once_and_parents_come_first(repo: ResticRepo) -> None:
    """`walk` yields each path below its start, each directory before its content."""
    async with cesbrfs.open_backups(str(repo.directory), PASSWORD.encode()) as tree:
        paths = [path async for path, _entry in tree.walk("/A")]
    assert paths[0] == "/A"
    assert len(paths) == len(set(paths))
    for path in paths[1:]:
        assert path.rpartition("/")[0] in paths[: paths.index(path)]
    assert "/A/redmine/volumes/files/plan.txt" in paths


async def test_opening_raises_the_documented_errors(repo: ResticRepo, tmp_path: Path) -> None:
    """A wrong password and a missing repository raise their own errors."""
    with pytest.raises(WrongKeyError):
        async with cesbrfs.open_backups(str(repo.directory), "wrong"):
            pass
    with pytest.raises(RepositoryMissingError):
        async with cesbrfs.open_backups(str(tmp_path / "nowhere"), PASSWORD):
            pass


def test_public_names_are_complete_and_lazy() -> None:
    """Each name of `__all__` exists, and importing the package imports nothing heavy."""
    for name in cesbrfs.__all__:
        assert getattr(cesbrfs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = cesbrfs.nope
    code = "import sys, cesbrfs; print({'trio', 'msgspec', 'cryptography'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
