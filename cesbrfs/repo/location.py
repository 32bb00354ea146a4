"""How a repository is reached: its address, its key, and the options its storage needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.util.secret import Secret, redact

KINDS: Final = ("sftp", "s3", "rest", "b2", "azure", "gs", "swift", "rclone")
"""What restic's addresses begin with where a repository is in no directory of this machine."""


def kind_of(url: str) -> str:
    """Return which of `KINDS` an address is of, "local" for a directory."""
    kind, colon, _ = url.partition(":")
    return kind if colon and kind in KINDS else "local"


def local_directory(url: str) -> str | None:
    """Return the directory of a local repository's address, or None for one kept elsewhere."""
    return url.removeprefix("local:") if kind_of(url) == "local" else None


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
    def key_hint(self) -> str:
        """The beginning of the name of the key file to try first, "" for none."""
        return self.environment.get("RESTIC_KEY_HINT", "")

    @property
    def display_url(self) -> str:
        """The address as it may be shown to people."""
        return redact(self.url)
