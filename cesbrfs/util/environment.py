"""Environments of child processes without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_PASSWORDS: Final = ("RESTIC_PASSWORD", "RESTIC_FROM_PASSWORD")
_SECRET_NAMES: Final = ("PASSWORD", "PASSPHRASE", "SECRET", "TOKEN", "CREDENTIAL", "_KEY")


def public_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without variables whose names suggest a secret."""
    return {
        name: value
        for name, value in environ.items()
        if not any(part in name.upper() for part in _SECRET_NAMES)
    }


def without_password(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` without the password of the repository.

    For programs that may need other secrets of the environment, such as a password command.
    """
    return {name: value for name, value in environ.items() if name not in _PASSWORDS}
