"""The files in .cesbrfs of a real mount: valid, true, and readable with any tool."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cesbrfs.fuse.metrics import FAMILIES
from tests.mount.test_life import wait_until
from tests.support.metrics import Values, parse_openmetrics, parse_prometheus
from tests.support.metrics import values as parse_values
from tests.support.mounting import Mount, mounting
from tests.support.restic_repo import ResticRepo, create


@pytest.fixture(scope="module")
def repo(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A repository with one backup by restic."""
    directory = tmp_path_factory.mktemp("metrics")
    volume = directory / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    (volume / "note.txt").write_text("hello\n")
    made = create(restic_new, directory / "repo")
    made.backup(volume, tags=["b1"])
    return made


@pytest.fixture(scope="module")
def made(repo: ResticRepo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount of it that tests share."""
    with mounting(tmp_path_factory.mktemp("mounts")) as start:
        yield start(repo.access)


def values(made: Mount) -> Values:
    """Return the metrics of a mount."""
    return parse_values((made.path / ".cesbrfs/metrics").read_text())


def test_all_families_are_declared(made: Mount) -> None:
    """Both parsers accept the text; types and help texts are the declared ones."""
    text = (made.path / ".cesbrfs/metrics").read_text()
    declared = {(f.name, f.kind.value, f.help) for f in FAMILIES}
    families = parse_openmetrics(text)
    found = {(f.name, f.type, f.documentation) for f in families}
    assert found <= declared
    # Only the size of a backup may be unknown.
    assert {name for name, _, _ in declared - found} == {"cesbrfs_last_complete_backup_size_bytes"}
    old = {sample.name for family in parse_prometheus(text) for sample in family.samples}
    assert old == {sample.name for family in families for sample in family.samples}


def test_what_they_count(made: Mount, repo: ResticRepo) -> None:
    """Reads, bytes, requests and listings are counted; backups have their status."""
    before = values(made)
    assert (made.path / "b1/redmine/volumes/files/note.txt").read_text() == "hello\n"
    after = values(made)
    assert after["cesbrfs_backups", "unverified"] == 1
    assert after["cesbrfs_last_complete_backup_timestamp_seconds", ""] == 0
    assert after["cesbrfs_latest_backup_timestamp_seconds", ""] > 1e9
    assert after["cesbrfs_storage_up", ""] == 1
    assert after["cesbrfs_listing_duration_seconds_count", ""] >= 1
    assert after["cesbrfs_resident_memory_bytes", ""] > 1 << 20
    for name in ("cesbrfs_requests_total", "cesbrfs_request_duration_seconds_count"):
        assert after[name, "read"] > before.get((name, "read"), 0)
    total = sum(value for (name, _), value in after.items() if name == "cesbrfs_requests_total")
    assert total == sum(
        value
        for (name, _), value in after.items()
        if name == "cesbrfs_request_duration_seconds_count"
    )
    read = after["cesbrfs_storage_read_bytes_total", "data"]
    assert 0 < read <= sum(f.stat().st_size for f in (repo.directory / "data").rglob("*"))
    assert after["cesbrfs_cache_misses_total", "data"] >= 1


@pytest.mark.parametrize("name", ["status.json", "metrics"])
def test_any_tool_reads_them(made: Mount, name: str, tmp_path: Path) -> None:
    """Tools that trust the size, and tools that read to the end, get the whole file."""
    file = made.path / ".cesbrfs" / name
    first, last = ("{", "}") if name == "status.json" else ("# HELP ", "# EOF")
    texts = [file.read_text(), file.read_bytes().decode()]
    for command in ("cat", "head -c 1000000", "tail -c +1", "grep ''", "tar -c -f -"):
        words = [*shlex.split(command), name]
        done = subprocess.run(words, cwd=file.parent, capture_output=True, check=True)
        texts.append(done.stdout.decode())
    tarred = texts.pop()
    assert last in tarred
    for copy in (["cp"], ["cp", "-a"], ["rsync", "-a"], ["dd", "status=none"]):
        target = tmp_path / "copy"
        target.unlink(missing_ok=True)
        words = [f"if={file}", f"of={target}"] if copy[0] == "dd" else [str(file), str(target)]
        subprocess.run([*copy, *words], check=True)
        texts.append(target.read_text())
    with file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        content = opened.read(size)
        assert opened.read() == b""
        texts.append(content.decode())
    for text in texts:
        assert text.startswith(first)
        assert text.endswith(f"{last}\n")
        if name == "status.json":
            assert json.loads(text)["repository"]["state"] == "ready"
        else:
            assert parse_openmetrics(text)


def test_storage_down_and_up(repo: ResticRepo, mount: Callable[..., Mount], tmp_path: Path) -> None:
    """While the repository is gone, its last figures stay, and failed listings are counted."""
    copy = tmp_path / "repo"
    subprocess.run(["cp", "-a", repo.directory, copy], check=True)
    own = mount(replace(repo, directory=copy).access)
    assert values(own)["cesbrfs_backups", "unverified"] == 1
    copy.rename(tmp_path / "away")
    wait_until(lambda: not _lists(own.path))
    gone = values(own)
    assert gone["cesbrfs_storage_up", ""] == 0
    assert gone["cesbrfs_repository_gone", ""] == 1
    assert gone["cesbrfs_listing_failures_total", ""] >= 1
    assert gone["cesbrfs_errors_total", ""] >= 1
    assert gone["cesbrfs_backups", "unverified"] == 1
    (tmp_path / "away").rename(copy)
    wait_until(lambda: _lists(own.path))
    assert values(own)["cesbrfs_storage_up", ""] == 1


def _lists(path: Path) -> bool:
    try:
        return "b1" in os.listdir(path)
    except OSError:
        return False
