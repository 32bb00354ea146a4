"""The -o options of a mount."""

from __future__ import annotations

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.fuse.options import parse_options


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600)])
def test_idle(given: str, seconds: float) -> None:
    """A number and a unit."""
    assert parse_options([f"allow_other,idle={given}"]).idle_seconds == seconds


@pytest.mark.parametrize("given", ["", "10", "0s", "-1m", "1.5h", "10 m", "1d"])
def test_invalid_idle_times(given: str) -> None:
    """The error names valid times."""
    with pytest.raises(UsageError, match="90s, 10m or 1h"):
        parse_options([f"idle={given}"])


def test_text_for_the_log_has_no_password() -> None:
    """The password in an address is replaced."""
    text = parse_options(["noexec,idle=10m", "registry=http://u:secret@host:4001"]).text
    assert text == "noexec,idle=10m,registry=http://u:***@host:4001"


@pytest.mark.parametrize(
    ("given", "fmask", "dmask"),
    [
        ("umask=027", 0o027, 0o027),
        ("umask=27,fmask=0133", 0o133, 0o027),
        ("dmask=7,umask=077", 0o077, 0o007),
        ("fmask=111", 0o111, 0),
        ("ro", 0, 0),
    ],
)
def test_masks(given: str, fmask: int, dmask: int) -> None:
    """Octal; fmask and dmask take precedence over umask wherever they are given."""
    made = parse_options([given])
    assert (made.fmask, made.dmask) == (fmask, dmask)


@pytest.mark.parametrize("given", ["umask=", "umask=8", "fmask=0o22", "dmask=1777", "umask=-1"])
def test_invalid_masks(given: str) -> None:
    """The error has an example."""
    with pytest.raises(UsageError, match=rf"^-o {given}: .* such as 027\.$"):
        parse_options([given])
