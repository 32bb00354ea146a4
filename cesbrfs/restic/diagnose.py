"""Access a storage with our own reader to explain why restic cannot use it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import trio

from cesbrfs.errors import CesbrError
from cesbrfs.repo.location import Access, kind_of
from cesbrfs.repo.storage import FileType, open_storage
from cesbrfs.repo.storage.registry import is_supported

_SECONDS: Final = 5.0


async def look(access: Access) -> CesbrError | None:
    """Return the error of our own reader; None if it can list the storage or takes over 5 s.

    restic often exits before it has printed the messages of its ssh, and prints few details about
    other failures.
    """
    if kind_of(access.url) == "local" or not is_supported(access.url):
        return None
    with trio.move_on_after(_SECONDS):
        try:
            storage = open_storage(replace(access, patience=0.0))
            try:
                await storage.list(FileType.KEY)
            finally:
                await storage.aclose()
        except CesbrError as error:
            return error
    return None
