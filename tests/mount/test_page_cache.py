"""Put the content of small files into the page cache when they are opened."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

from cesbrfs.repo.location import Access
from tests.support.mounting import Mount
from tests.support.restic_repo import create

_SIZES = (1, 4095, 4096, 4097, 65_536, 131_071, 131_072, 131_073, 300_000)
_READERS = 6
_ROUNDS = 40


def _backup(restic: Path, tmp_path: Path) -> tuple[dict[str, bytes], Access]:
    """Back up a file of each size; return their content and the repository."""
    volume = tmp_path / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    content = {f"f{size}": random.Random(size).randbytes(size) for size in _SIZES}
    for name, data in content.items():
        (volume / name).write_bytes(data)
    repo = create(restic, tmp_path / "repo")
    repo.backup(volume, tags=["b1"])
    return content, repo.access


def _reads(mount: Mount) -> int:
    status = json.loads((mount.path / ".cesbrfs/status.json").read_bytes())
    reads: int = status["requests"].get("read", 0)
    return reads


def test_small_files_need_no_read_request(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Files of up to 128 KiB are read without a request; every file has its exact content."""
    content, access = _backup(restic_new, tmp_path)
    made = mount(access)
    files = made.path / "b1/redmine/volumes/files"
    own = -_reads(made) + _reads(made)  # the requests for status.json itself
    for name, data in content.items():
        before = _reads(made)
        assert (files / name).read_bytes() == data
        assert (_reads(made) - before == own) is (len(data) <= 131_072), name


def test_many_readers_of_the_same_small_files(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Readers that open the same files at once neither wait for each other nor get wrong bytes."""
    content, access = _backup(restic_new, tmp_path)
    files = mount(access).path / "b1/redmine/volumes/files"
    wrong: list[str] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(_ROUNDS):
            name = chance.choice(list(content))
            with (files / name).open("rb") as file:
                if chance.random() < 0.5:  # so that pages are read again
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if file.read() != content[name]:
                    wrong.append(name)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(_READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong
