"""Running a mount in the background."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from cesbrfs.fuse.daemon import Starter
from tests.support.rights import children


def is_killed() -> int:
    """End without a report, as after an out-of-memory kill."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fails() -> int:
    """Raise an exception that nothing handles."""
    raise RuntimeError


@pytest.mark.parametrize(
    ("work", "code"),
    [(lambda: 3, 3), (fails, 1), (is_killed, -signal.SIGKILL), (lambda: os._exit(0), 1)],
)
def test_the_exit_code_of_work_that_is_never_ready(work: Callable[[], int], code: int) -> None:
    """It is that of the child; the mount does not answer, so it is never 0."""
    before = children()
    assert Starter().in_background(work) == code
    for child in {*children()} - {*before}:
        os.waitpid(child, 0)
