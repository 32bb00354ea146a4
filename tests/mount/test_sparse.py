"""Holes of sparse files in a mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.mounting import Mount
from tests.support.restic_repo import create

_ZEROS = 512 << 10


def test_du_equals_a_sparse_restore(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Blobs of zeros take no space, for one name and several, also with entries from the cache."""
    files = tmp_path / "var/lib/ces/ldap/volumes/db"
    files.mkdir(parents=True)
    head = os.urandom(100_000)
    for name, content, size in (
        ("holes", b"", 32 * _ZEROS),
        ("small", b"text", 4),
        ("zeros", bytes(4096), 4096),
        ("tail", head, 32 * _ZEROS),
    ):
        (files / name).write_bytes(content)
        os.truncate(files / name, size)
    os.link(files / "holes", files / "other name")
    repo = create(restic_new, tmp_path / "repo")
    snapshot = repo.backup(files, tags=["b1"])
    restored = tmp_path / "restored"
    repo.run("restore", snapshot, "--sparse", "--target", restored)
    restored /= files.relative_to("/")
    for _ in range(2):
        shown = mount(repo.access).path / "b1/ldap/volumes/db"
        # The file systems round up differently: to blocks of 512 bytes, and to pages.
        for name in ("holes", "other name", "small"):
            ours, theirs = (shown / name).stat(), (restored / name).stat()
            assert ours.st_size == theirs.st_size
            assert -(-ours.st_blocks // 8) == theirs.st_blocks // 8, name
        # restic also leaves out zeros in smaller blobs, and at the beginning of others.
        assert (shown / "zeros").stat().st_blocks == 8
        used, size = (shown / "tail").stat().st_blocks << 9, (shown / "tail").stat().st_size
        assert (restored / "tail").stat().st_blocks << 9 <= used < size - 30 * _ZEROS
        assert (shown / "tail").read_bytes() == head + bytes(size - len(head))
        listed = subprocess.run(
            ["find", shown, "-name", "*", "-type", "f", "-printf", "%f %b\\n"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert {*listed.stdout.splitlines()} == {
            f"{path.name} {path.stat().st_blocks}" for path in shown.iterdir()
        }
