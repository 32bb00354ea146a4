"""Check for pyfuse3, the optional dependency that only the mount needs."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from cesbrfs.errors import MountError


def require_pyfuse3() -> None:
    """Raise MountError if pyfuse3 is not installed. Does not import it."""
    if find_spec("pyfuse3") is None:
        raise MountError(
            "Cannot mount: the Python package pyfuse3 is not installed. Install fuse3, gcc,"
            " pkg-config, libfuse3-dev and python3-dev, then run"
            f" '{sys.executable} -m pip install pyfuse3'."
        )
