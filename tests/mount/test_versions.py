"""Get old versions of files from a mount with ls, cp and find."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from cesbrfs.fuse.inodes import EPHEMERAL_MAX
from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.mount.test_life import wait_until
from tests.support.compare import differences, records
from tests.support.memory_repo import PASSWORD, MemoryRepo
from tests.support.mounting import Mount
from tests.support.restic_repo import ResticRepo, create


def output(*command: str | Path) -> list[str]:
    """Run a command and return the lines it prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def build(binary: Path, directory: Path) -> tuple[ResticRepo, Path, list[str]]:
    """Back up a volume three times; return the repository, the volume and the snapshots."""
    repo = create(binary, directory / "repo")
    volume = directory / "var/lib/ces/redmine/volumes/files"
    (volume / "2026").mkdir(parents=True)
    snapshots = []
    for number, text in enumerate(("first", "first", "second")):
        plan = volume / "2026/plan.odt"
        plan.write_text(text)
        plan.chmod(0o640 + number)
        (volume / f"only{number}").write_text(f"{number}")
        snapshots.append(
            repo.backup(volume, tags=[f"b{number}"], time=f"2026-11-2{number} 21:30:00")
        )
        (volume / f"only{number}").unlink()
    return repo, volume, snapshots


def test_ls_and_cp_find_old_versions(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """The versions of a file have the bytes and metadata that restic restores."""
    repo, volume, snapshots = build(restic_new, tmp_path)
    made = mount(repo.access)
    assert output("ls", made.path) == ["_dogus", "b0", "b1", "b2", "latest"]
    files = made.path / "_versions/redmine/volumes/files"
    assert output("ls", files) == ["2026", "only0", "only1", "only2"]
    plan = files / "2026/plan.odt"
    versions = ["2026-11-20T21-30-00--b0.odt", "2026-11-22T21-30-00--b2.odt"]
    assert output("ls", plan) == versions
    for name, snapshot in zip(versions, (snapshots[0], snapshots[2]), strict=True):
        copy, restored = tmp_path / name, tmp_path / snapshot
        output("cp", "-a", plan / name, copy)
        repo.run("restore", snapshot, "--target", restored)
        expected = restored / (volume / "2026/plan.odt").relative_to("/")
        assert not differences(records(str(copy)), records(str(expected)))
        assert copy.read_bytes() == expected.read_bytes()
    found = output("find", made.path / "_versions", "-type", "f", "-printf", "%P\n")
    prefix = "redmine/volumes/files"
    assert sorted(found) == sorted(
        [f"{prefix}/2026/plan.odt/{name}" for name in versions]
        + [f"{prefix}/only{n}/2026-11-2{n}T21-30-00--b{n}" for n in range(3)]
    )
    assert not any("_versions" in path for path in output("find", made.path))
    latest = made.path / "_dogus/redmine/latest"
    assert os.readlink(latest) == "../../b2/redmine"
    assert (latest / "volumes/files/2026/plan.odt").read_text() == "second"


def test_a_walk_leaves_few_objects(mount: Callable[..., Mount], tmp_path: Path) -> None:
    """The kernel drops the oldest names of a large walk, so that memory is bounded."""
    repo = MemoryRepo()
    files = [repo.file(f"f{number}", b"f") for number in range(EPHEMERAL_MAX // 2 + 1000)]
    volume = "/var/lib/ces/redmine/volumes/files"
    tree = repo.tree(repo.path(volume, repo.directory("files", *files)))
    repo.snapshot(tree, [volume], tags=["b0"])
    repo.write_to(tmp_path / "repo")
    made = mount(Access(str(tmp_path / "repo"), Secret(PASSWORD)))
    found = output("find", made.path / "_versions/redmine/volumes/files")
    assert len(found) == 1 + 2 * len(files)

    def inodes() -> int:
        return int(json.loads((made.path / ".cesbrfs/status.json").read_bytes())["inodes"])

    wait_until(lambda: inodes() < EPHEMERAL_MAX + 100)


def test_noversions(restic_new: Path, mount: Callable[..., Mount], tmp_path: Path) -> None:
    """``-o noversions`` turns both directories off."""
    repo, _, _ = build(restic_new, tmp_path)
    made = mount(repo.access, "-o", "noversions")
    assert output("ls", made.path) == ["b0", "b1", "b2", "latest"]
    assert not (made.path / "_versions").exists()
    assert not (made.path / "_dogus").exists()
