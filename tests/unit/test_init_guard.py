"""No repository is created where it is not known whether one exists."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cesbrfs.errors import RepositoryMissingError
from cesbrfs.init_guard import require_creatable
from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret


@pytest.mark.parametrize("file", ["known", "fstab"])
async def test_records_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The addresses of this user, and /etc/fstab: a failing disk does not make them empty."""
    monkeypatch.setenv("LIBMOUNT_FSTAB", str(tmp_path / "fstab"))
    access = Access(str(tmp_path / "repository"), Secret(b"key"))
    await require_creatable(access, tmp_path / "cache")
    real_stat, real_open = os.stat, open

    def check(path: object) -> None:
        if f"/{file}" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def fail_stat(path: str, **options: object) -> os.stat_result:
        check(path)
        return real_stat(path, **options)  # type: ignore[arg-type]  # passed on

    def fail_open(path: str, **options: object) -> object:
        check(path)
        return real_open(path, **options)  # type: ignore[call-overload]  # passed on

    monkeypatch.setattr(os, "stat", fail_stat)
    monkeypatch.setattr("builtins.open", fail_open)
    with pytest.raises(RepositoryMissingError, match=f"/{file}.* cannot be read: Input/output"):
        await require_creatable(access, tmp_path / "cache")
