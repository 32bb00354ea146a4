"""Mistakes on the command line of the mount program."""

from __future__ import annotations

import pytest

from cesbrfs.fuse.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "'cesbrfs' needs [REPO] MOUNTPOINT; see 'cesbrfs --help'."),
        (("--nope", "/mnt"), "There is no --nope; see 'cesbrfs --help'."),
        (("--registri=x", "/mnt"), "There is no --registri; did you mean '--registry'?"),
        (("/mnt", "--log"), "--log needs a value: --log FILE; see 'cesbrfs --help'."),
        (("--foreground=1", "/mnt"), "--foreground takes no value, so leave out '1'; see"),
        (("a", "b", "c"), "Too many arguments: pass a repository and a mount point."),
    ],
)
def test_they_are_told_in_a_sentence(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """That says what to do, and the exit code is 2."""
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"cesbrfs: {said}")
    assert err.count("\n") == 1
