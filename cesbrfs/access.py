"""How a repository is reached: its address, its key, and the options its storage needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that the reader and the restic binary need to reach one repository.

    `url` is in restic's own forms.  `key` is the encryption key (restic's password), byte for byte;
    `options` are restic's extended options (``s3.region``), `environment` what the storage takes
    from the environment (``AWS_ACCESS_KEY_ID``); its values may be secrets.  `patience` is how many
    seconds our reader waits for a server that is away.
    """

    url: str
    key: Secret
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience: float = 60.0

    @property
    def shown(self) -> str:
        """The address as it may be shown to people."""
        return redact(self.url)
