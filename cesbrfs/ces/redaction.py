"""Detect and mask secrets among registry values. Pure.

Both the key and the value are examined. False positives are preferred to leaked secrets.
"""

from __future__ import annotations

import re
from typing import Final

from cesbrfs.util.escape import show
from cesbrfs.util.secret import redact

MASK: Final = "***"
_SECRET_KEY: Final = re.compile(
    r"secret|passw|passphrase|token|credential|private|access_?key|api_?key|encryption_?key"
    r"|(^|[._-])key$",
    re.IGNORECASE,
)
_SECRET_VALUE: Final = re.compile(
    r"PRIVATE KEY-----"
    r'|\A\s*\{.*"encryption".*\}\s*\Z'  # encrypted by CES, long form
    r"|\A\s*[A-Za-z0-9+/]{300,}={0,2}\s*\Z",  # short form: base64 of an RSA block
    re.DOTALL,
)
_SERVICE_ACCOUNT_PREFIX: Final = "sa-"
_MAX_LINE_CHARACTERS: Final = 60


def is_secret(key: str, value: str) -> bool:
    """Return whether the `value` of `key` is a secret."""
    parts = key.strip("/").split("/")
    if any(part.startswith(_SERVICE_ACCOUNT_PREFIX) or _SECRET_KEY.search(part) for part in parts):
        return True
    return _SECRET_VALUE.search(value) is not None


def masked(key: str, value: str | None) -> str | None:
    """Mask `value` for JSON output if it is a secret; redact passwords in URLs."""
    if value is None:
        return None
    return MASK if is_secret(key, value) else redact(value)


def masked_line(key: str, value: str) -> str:
    """Mask and escape `value` for display on one line of at most 60 characters."""
    text = show((masked(key, value) or "").encode("utf-8", "surrogateescape"))
    return text if len(text) <= _MAX_LINE_CHARACTERS else f"{text[: _MAX_LINE_CHARACTERS - 1]}…"
