"""TLS context from RESTIC_CACERT and RESTIC_TLS_CLIENT_CERT."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import NoReturn

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access


def trusting(access: Access) -> ssl.SSLContext:
    """Return the TLS context; RESTIC_CACERT replaces the system's certificates.

    Raises UsageError, which names the variable, for a file that is missing or invalid.
    """
    files = [file for file in access.environment.get("RESTIC_CACERT", "").split(",") if file]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if files else ssl.create_default_context()
    for file in files:
        with _usable("RESTIC_CACERT", file):
            context.load_verify_locations(cafile=file)
    if own := access.environment.get("RESTIC_TLS_CLIENT_CERT"):
        with _usable("RESTIC_TLS_CLIENT_CERT", own):
            context.load_cert_chain(own, password=_no_password)
    return context


def _no_password() -> NoReturn:
    """Raise instead of letting OpenSSL ask for a passphrase at the terminal."""
    raise ValueError("the private key is encrypted")


@contextlib.contextmanager
def _usable(variable: str, file: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = str((error.strerror if isinstance(error, OSError) else None) or error)
        raise UsageError(
            f"Invalid certificate file {file} in {variable}: {why}. Set it to a file in PEM format."
        ) from None
