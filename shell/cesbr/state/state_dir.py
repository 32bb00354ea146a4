"""What outlives a session: a private directory for it, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the state directory, created with mode 0700; None if there is no home directory."""
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if not state.startswith("/"):
        if not home:
            return None
        state = f"{home}/.local/state"
    return private_directory(Path(state, "cesbr"))


def private_directory(directory: Path) -> Path | None:
    """Make a directory for its owner alone; None where that fails."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError:
        return None
    return directory


def write_private(file: Path, data: bytes) -> None:
    """Write `data` to a file (0600) atomically, replacing it; raises OSError."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(data)
        beside.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
