"""Secrets that never appear in output, and addresses without their passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_URL_PASSWORD = re.compile(r"(//[^/@:]*):.*@")
"""Greedy: a password may hold ``@`` and ``/``, and too much hidden harms nobody."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Bytes that never show themselves in a repr, a log line or a traceback."""

    value: bytes = field(repr=False)

    def __str__(self) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self.value)


def redact(url: str) -> str:
    """Return `url` with the password of its user-info part, if there is one, as ``***``."""
    return _URL_PASSWORD.sub(r"\1:***@", url)
