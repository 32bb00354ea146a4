"""Error messages for invalid command lines of the mount program."""

from __future__ import annotations

import pytest

from cesbrfs.fuse.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing arguments: [REPO] MOUNTPOINT. See 'cesbrfs --help'."),
        (("--nope", "/mnt"), "Unrecognized option '--nope'. See 'cesbrfs --help'."),
        (("--registri=x", "/mnt"), "Unrecognized option '--registri'; did you mean '--registry'?"),
        (("/mnt", "--log"), "--log requires a value: --log FILE. See 'cesbrfs --help'."),
        (("--foreground=1", "/mnt"), "--foreground takes no value: remove '1'. See"),
        (("a", "b", "c"), "Too many arguments: pass a repository and a mount point."),
    ],
)
def test_usage_errors(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message is one line with a remedy; the exit code is 2."""
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"cesbrfs: {message}")
    assert err.count("\n") == 1
