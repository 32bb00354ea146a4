"""Which values of the registry are secrets, so that nobody's screen shows them.  Pure.

Told by the key and by the value itself; rather one too many than one too few.
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
    r'|\A\s*\{.*"encryption".*\}\s*\Z'  # CES's long form
    r"|\A\s*[A-Za-z0-9+/]{300,}={0,2}\s*\Z",  # its short one: the base64 of an RSA block
    re.DOTALL,
)
_ACCOUNT: Final = "sa-"
_SHOWN: Final = 60


def is_secret(key: str, value: str) -> bool:
    """Tell whether `value`, of `key`, is to stay hidden."""
    parts = key.strip("/").split("/")
    if any(part.startswith(_ACCOUNT) or _SECRET_KEY.search(part) for part in parts):
        return True
    return _SECRET_VALUE.search(value) is not None


def masked(key: str, value: str | None) -> str | None:
    """Return `value` as programs may be given it: a secret hidden, an address's password too."""
    if value is None:
        return None
    return MASK if is_secret(key, value) else redact(value)


def masked_line(key: str, value: str) -> str:
    """Return `value` as one line of a screen, cut where it is long."""
    text = show((masked(key, value) or "").encode("utf-8", "surrogateescape"))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
