"""Tell errors of a file system that fails from those of one that does not support something."""

from __future__ import annotations

import errno
from typing import Final

_FAILURES: Final = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOMEM, errno.ESTALE})


def raise_failure(error: Exception) -> None:
    """Raise `error` if the file system fails."""
    if isinstance(error, OSError) and error.errno in _FAILURES:
        raise error
