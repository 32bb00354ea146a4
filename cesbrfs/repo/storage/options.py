"""restic's extended options, as a storage reads them."""

from __future__ import annotations

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access

_MOST = 256


def connections_of(access: Access, name: str, default: int) -> int:
    """Return how many connections the option `name` allows."""
    text = access.options.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise UsageError(f"The option {name} is {text!r}; use a number from 1 to {_MOST}.")
    return int(text)


def option_is_true(access: Access, name: str) -> bool:
    """Return whether the option `name` is set to one of Go's words for true."""
    text = access.options.get(name, "false")
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise UsageError(f"The option {name} is {text!r}; use true or false.")
