"""Keep secrets out of output: a Secret type, and URLs with redacted passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_URL_PASSWORD = re.compile(r"(//[^/@:]*):.*@")
"""Greedy, as a password may contain ``@`` and ``/``; hiding too much is harmless."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Secret bytes that are hidden in repr, str, logs and tracebacks."""

    value: bytes = field(repr=False)

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self.value)


def redact(url: str) -> str:
    """Replace the password in the user-info part of `url` by ``***``."""
    return _URL_PASSWORD.sub(r"\1:***@", url)
