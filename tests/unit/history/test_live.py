"""Reading the live instance for a comparison."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from cesbrfs.errors import NotFoundError
from cesbrfs.history.live import LiveError, _has_blobs, _listing, live_row
from tests.support.rights import open_directory, without_rights


def test_files_that_are_not_what_was_stored() -> None:
    """Missing, of another type or size, or with other bytes."""
    content = b"content"
    blob = hashlib.sha256(content).digest()
    with open_directory() as directory:
        top = os.fsencode(directory)
        for name, data in (("same", content), ("longer", content * 2), ("other", b"CONTENT")):
            (directory / name).write_bytes(data)
        os.mkfifo(directory / "fifo")
        (directory / "link").symlink_to("same")
        names = (b"same", b"longer", b"other", b"fifo", b"link", b"missing", b"same/below")
        same = [name for name in names if _has_blobs(top + b"/" + name, [blob], [7])]
        assert same == [b"same"]


def test_what_cannot_be_read() -> None:
    """It is an error with the path, unlike what does not exist."""
    with open_directory() as directory:
        top = os.fsencode(directory)
        (directory / "closed").mkdir()
        (directory / "closed/file").touch()
        (directory / "secret").touch()
        (directory / "secret").chmod(0)
        (directory / "closed").chmod(0)
        with without_rights():
            for path in (b"closed/file", b"secret"):
                with pytest.raises(LiveError, match=f"{path.decode()}.*Permission denied"):
                    _has_blobs(top + b"/" + path, [bytes(32)], [0])
            with pytest.raises(LiveError, match="Permission denied"):
                live_row(top + b"/closed/file")
            with pytest.raises(LiveError, match="Permission denied"):
                _listing(top + b"/closed")
        (directory / "closed").chmod(0o700)
        assert live_row(top + b"/missing") is None
        assert live_row(top + b"/secret/below") is None
        with pytest.raises(NotFoundError, match="No such file"):
            _listing(top + b"/missing")


def test_attributes_that_a_failing_disk_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not none: that would be a difference from the backup."""
    path = os.fsencode(tmp_path)

    def fail(number: int) -> None:
        def listxattr(_path: bytes, *, follow_symlinks: bool) -> list[str]:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "listxattr", listxattr)

    fail(errno.ENOTSUP)
    assert live_row(path)
    fail(errno.EIO)
    with pytest.raises(LiveError, match="Input/output error"):
        live_row(path)
