"""Logging to syslog."""

from __future__ import annotations

import logging
import socket
import tempfile
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest

from cesbrfs.fuse import logging as mount_logging


def test_a_syslog_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines go to the fallback while nothing listens, and errors of other kinds are reported."""
    fallback = BufferingHandler(10)
    with tempfile.TemporaryDirectory() as name:  # a short path, which a socket needs
        path = Path(name, "log")
        monkeypatch.setattr(mount_logging, "_SYSLOG", str(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(path))
            handler = mount_logging._syslog(fallback)
            handler.handle(logging.makeLogRecord({"msg": "first"}))
            assert b"first" in listening.recv(1000)
        path.unlink()
        handler.handle(logging.makeLogRecord({"msg": "second"}))
        assert [record.msg for record in fallback.buffer] == ["second"]
        monkeypatch.setattr(logging, "raiseExceptions", False)
        handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
        handler.close()
    assert len(fallback.buffer) == 1
