"""Parse restic's extended options for a storage."""

from __future__ import annotations

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access

_MOST = 256


def connections_of(access: Access, name: str, default: int) -> int:
    """Return the number of connections that the option `name` sets; UsageError if invalid."""
    text = access.options.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise UsageError(
            f"Invalid value {text!r} of the option {name}. Use a number from 1 to {_MOST}."
        )
    return int(text)


def option_is_true(access: Access, name: str) -> bool:
    """Return whether the option `name` is true in one of Go's spellings; UsageError if invalid."""
    text = access.options.get(name, "false")
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise UsageError(f"Invalid value {text!r} of the option {name}. Use true or false.")
