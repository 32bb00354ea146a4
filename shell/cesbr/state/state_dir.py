"""What outlives a session: a private directory for it, and files that are whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from cesbrfs.errors import CesbrError
from cesbrfs.util.atomicfile import write_atomic


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the state directory, created with mode 0700; None without one that can be used."""
    with contextlib.suppress(StateError):
        return required_state_directory(environ)
    return None


def required_state_directory(environ: Mapping[str, str]) -> Path | None:
    """Like `state_directory`, but None only without a home directory; else raises StateError."""
    state, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if not state.startswith("/"):
        if not home:
            return None
        state = f"{home}/.local/state"
    return private_directory(Path(state, "cesbr"))


class StateError(CesbrError):
    """The state directory, or a directory in it, cannot be used."""


def private_directory(directory: Path) -> Path:
    """Create a directory with mode 0700, and return it; raises StateError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise StateError(
            f"Cannot create {directory}: {error.strerror}. Set XDG_STATE_HOME to a directory that"
            " you can write to."
        ) from error
    return directory


def write_private(file: Path, data: bytes) -> None:
    """Write `data` to a file (0600) atomically, replacing it; raises OSError."""
    write_atomic(file, data, prefix=f".{file.name}.")
