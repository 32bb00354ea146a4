"""Only the process of a mount is signalled."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cesbrfs.errors import MountError
from cesbrfs.fuse import control
from cesbrfs.util.mountinfo import Mounted

_FUSE_USER = "import os, sys; os.open('/dev/fuse', os.O_RDWR); print(flush=True); sys.stdin.read()"


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
def test_the_process_must_serve_fuse_for_the_user_who_mounted() -> None:
    """A file system that claims another PID cannot have that process signalled."""
    user = os.geteuid()
    with subprocess.Popen(
        [sys.executable, "-c", _FUSE_USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with control._process(process.pid, Mounted("/m", "fuse.cesbrfs", "r", 1, user)):
            pass
        for pid, owner in (
            (process.pid, user + 1),
            (os.getpid(), user),
            (0, user),
            (1 << 40, user),
        ):
            with (
                pytest.raises(MountError, match="was not found"),
                control._process(pid, Mounted("/m", "fuse.cesbrfs", "r", 1, owner)),
            ):
                pass
        process.communicate()
