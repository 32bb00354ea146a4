"""Helpers for test servers: free ports, starting processes, plain HTTP requests."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_HOST: Final = "127.0.0.1"
_LOOK_SECONDS: Final = 0.05
opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opener without a proxy."""


def free_ports(number: int) -> list[int]:
    """Return free ports on loopback, below those that the kernel gives to outgoing connections."""
    ports: list[int] = []
    with contextlib.ExitStack() as bound:
        while len(ports) < number:
            port = random.randrange(10_000, 32_000)
            with contextlib.suppress(OSError):
                bound.enter_context(socket.create_server((_HOST, port)))
                ports.append(port)
    return ports


def listens(port: int) -> bool:
    """Return whether a port accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port)):
        return True
    return False


def start(
    command: Sequence[str | Path],
    log: Path,
    ready: Callable[[], bool],
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float = 30.0,
) -> subprocess.Popen[bytes]:
    """Start a server and wait until `ready`; RuntimeError contains its output on failure."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=log.parent,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **(environment or {})},
        )
    until = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            process.wait()
            raise RuntimeError(f"{command[0]} does not start: {log.read_text(errors='replace')}")
        time.sleep(_LOOK_SECONDS)
    return process
