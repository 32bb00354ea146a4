"""Fixtures for tests of restores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory to restore into."""
    made = tmp_path / "target"
    made.mkdir()
    return made


@pytest.fixture
def opened(directory: Path) -> Iterator[int]:
    """A file descriptor of that directory, as `DirFd` returns it."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)
