"""One minute of the stress test `make soak`, with a REST server that is restarted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import run


@pytest.mark.timeout(300)
def test_a_minute_of_use_while_the_server_is_restarted(
    restic_old: Path, rclone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Readers get the right bytes and no error during backups, prunes, reloads and restarts."""
    code = run.run(60, restic_old, rest=rclone)

    output = capfd.readouterr().out
    assert code == 0, output
    *_, last = output.splitlines()
    assert "; 0 problems." in last
    restarts = int(last.split(", ")[2].split()[0])
    assert restarts > 0
