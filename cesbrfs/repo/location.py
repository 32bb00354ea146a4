"""The address, encryption key and storage options of a repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.util.secret import Secret, redact

KINDS: Final = ("sftp", "s3", "rest", "b2", "azure", "gs", "swift", "rclone")
"""Prefixes of restic's addresses for repositories that are not in a local directory."""


def kind_of(url: str) -> str:
    """Return the kind of an address: one of `KINDS`, or "local" for a directory."""
    kind, colon, _ = url.partition(":")
    return kind if colon and kind in KINDS else "local"


def local_directory(url: str) -> str | None:
    """Return the directory of a local repository; None for any other kind of address."""
    return url.removeprefix("local:") if kind_of(url) == "local" else None


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that the reader and the restic binary need to access one repository.

    `url` is an address as restic writes it. `key` is the encryption key (restic's password), byte
    for byte. `options` are restic's extended options (``s3.region``). `environment` contains the
    storage's environment variables (``AWS_ACCESS_KEY_ID``), whose values may be secrets.
    `patience` is the maximum number of seconds that our reader waits for an offline server.
    """

    url: str
    key: Secret
    options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience: float = 60.0

    @property
    def key_hint(self) -> str:
        """Prefix of the name of the key file to try first; "" for none."""
        return self.environment.get("RESTIC_KEY_HINT", "")

    @property
    def display_url(self) -> str:
        """The address without passwords, for messages."""
        return redact(self.url)
