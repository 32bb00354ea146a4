"""The prompt exits when its terminal is closed, even if its event loop is blocked."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

_STUBBORN = """
import asyncio
import sys

from cesbr import app
from cesbr.__main__ import main

pre_prompt = app.App.pre_prompt


async def ignore_cancellation():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass


def start(self):
    self.stubborn = asyncio.ensure_future(ignore_cancellation())
    pre_prompt(self)
    print("the loop runs", flush=True)


app.App.pre_prompt = start
app.EXIT_SECONDS = 0.2
sys.argv = ["cesbr"]
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_task_that_never_ends_does_not_keep_the_prompt(number: signal.Signals) -> None:
    """The exit code is 128 plus the signal number."""
    terminal, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", _STUBBORN], stdin=slave, stdout=slave, stderr=slave
    ) as shell:
        os.close(slave)
        seen = b""
        while b"the loop runs" not in seen:
            seen += os.read(terminal, 4096)
        shell.send_signal(number)
        try:
            assert shell.wait(timeout=60) == 128 + number
        finally:
            shell.kill()
            os.close(terminal)
