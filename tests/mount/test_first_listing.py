"""A real mount is ready, and lists the backups, while a server holds back the index."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType
from cesbrfs.util.secret import Secret
from tests.support.http_server import serving
from tests.support.memory_repo import PASSWORD, MemoryRepo
from tests.support.mounting import fuse_missing, mounting

pytestmark = pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))

_SECONDS = 30
_VOLUME = "/var/lib/ces/redmine/volumes/files"
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class HeldRest(BaseHTTPRequestHandler):
    """restic's REST protocol over `repo`; reads of index files wait for `released`."""

    repo: MemoryRepo
    released: threading.Event

    def do_GET(self) -> None:  # http.server's name
        """Send a listing or a file, or a range of it."""
        directory, _, name = self.path.strip("/").partition("/")
        kind = FileType(directory)
        if kind is FileType.INDEX and name:
            self.released.wait(_SECONDS)
        if name or kind is FileType.CONFIG:
            self._send(self.repo.storage.files[kind, name])
            return
        files = self.repo.storage.files.items()
        listed = [{"name": n, "size": len(raw)} for (k, n), raw in files if k is kind]
        self._send(json.dumps(listed).encode(), "application/vnd.x.restic.rest.v2")

    def _send(self, body: bytes, content_type: str = "application/octet-stream") -> None:
        wanted = _RANGE.fullmatch(self.headers.get("range", ""))
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
            self.send_header("content-range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[tuple[Access, threading.Event]]:
    """A server with the backups A and B, and the event that releases the index.

    No index has the tree of B: it is incomplete, which its snapshot does not show.
    """
    repo, released = MemoryRepo(), threading.Event()
    tree = repo.tree(repo.file("note.txt", b"hello\n"))
    repo.snapshot(tree, [_VOLUME], tags=["A"])
    repo.snapshot("bb" * 32, [_VOLUME], tags=["B"], time="2026-11-23T21:30:00Z")
    handler = type("Handler", (HeldRest,), {"repo": repo, "released": released})
    with serving(handler) as port:
        yield Access(f"rest:http://127.0.0.1:{port}/", Secret(PASSWORD)), released
        released.set()


def _waits(pid: int) -> bool:
    """Return whether a process waits for a reply of a mount."""
    process = Path(f"/proc/{pid}")
    return "State:\tD" in (process / "status").read_text() or (
        "request_wait" in (process / "wchan").read_text()
    )


def test_listed_before_the_index_is_loaded(
    server: tuple[Access, threading.Event], tmp_path: Path
) -> None:
    """`latest` is a link whose target is awaited, and is not the one that snapshots suggest."""
    access, released = server
    with mounting(tmp_path) as mount:
        made = mount(access)  # has reported that it is ready
        with os.scandir(made.path) as entries:
            listed = {entry.name: entry.is_symlink() for entry in entries}
        assert listed == {"A": False, "B": False, "latest": True, "_dogus": False}
        assert (made.path / "B").is_dir()
        with subprocess.Popen(["readlink", made.path / "latest"], stdout=subprocess.PIPE) as reader:
            deadline = time.monotonic() + _SECONDS
            while not _waits(reader.pid):
                assert reader.poll() is None, "the link was read without the index"
                assert time.monotonic() < deadline
                time.sleep(0.01)  # another process, which sends no notification
            assert sorted(os.listdir(made.path)) == sorted(listed)
            released.set()
            assert reader.communicate(timeout=_SECONDS)[0] == b"A\n"
        assert os.readlink(made.path / "latest") == "A"
        assert (made.path / "latest/redmine/volumes/files/note.txt").read_text() == "hello\n"
