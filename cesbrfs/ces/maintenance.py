"""The instance's maintenance mode, which shows its users a page in place of the dogus.

It is on while the registry has ``/config/_global/maintenance``.  What we turn on is noted in a file
before, so that it is taken back even after a crash, by the next start.  What somebody else has
turned on is left alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from cesbrfs.ces.registry import Registry
from cesbrfs.errors import CesbrError, RegistryError

KEY: Final = "/config/_global/maintenance"
STATE_FILE: Final = "var/lib/cesbr/maintenance.json"
_STATE_MAX: Final = 64 << 10
_BACK_SECONDS: Final = 60.0
"""How long taking it back may take when the command is being cancelled."""


def is_left_on(root: Path) -> bool:
    """Tell, at next to no cost, whether a restore noted that it turned it on."""
    try:
        return (root / STATE_FILE).stat().st_size > 0
    except OSError:
        return False


@asynccontextmanager
async def maintenance_mode(
    root: Path, registry: Registry, *, title: str, text: str, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Turn the maintenance mode on, with a page of `title` and `text`, and off at the end.

    `say` gets a sentence where it is left as it is.  RegistryError when it cannot be turned on.
    """
    file = root / STATE_FILE
    value = json.dumps({"title": title, "text": text}, ensure_ascii=False)
    with _opened(file, create=True) as state:
        if state is None:
            say("Another process has turned the maintenance mode on; it is left to that.")
            yield
            return
        _write(state, {"registry": registry.address, "value": value})
        on = False
        try:
            on = await registry.replace(KEY, value, None)
            if not on:
                say("The maintenance mode is on already; it is left on.")
            yield
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_BACK_SECONDS):
                # Even where it seems that it was not turned on: an answer may have been lost.
                await _take_back(state, value, registry, say if on else lambda _: None)


async def take_back(root: Path, registry: Registry, say: Callable[[str], None]) -> None:
    """Turn off what a process that is gone had turned on; `say` gets a sentence about it."""
    file = root / STATE_FILE
    with _opened(file, create=False) as state:
        if state is None:
            return
        try:
            noted = json.loads(os.pread(state, _STATE_MAX, 0))
            address, value = str(noted["registry"]), str(noted["value"])
        except (ValueError, TypeError, KeyError):  # it ended before it had turned anything on
            os.ftruncate(state, 0)
            return
        if address != registry.address:
            say(
                f"An interrupted restore left the maintenance mode on in the registry {address};"
                f" start cesbr with that one, or delete {KEY} there and the file {file}."
            )
            return
        if await _take_back(state, value, registry, say):
            say("The maintenance mode, which an interrupted restore had left on, is off again.")


async def _take_back(
    state: int, value: str, registry: Registry, say: Callable[[str], None]
) -> bool:
    """Turn it off if it is as we turned it on; tell whether it was."""
    try:
        was_ours = await registry.replace(KEY, None, value)
        if not was_ours and await registry.get(KEY) is not None:
            say("The maintenance mode was changed by somebody else meanwhile; it is left on.")
    except RegistryError as error:
        say(
            f"The maintenance mode is still on: {error.message}  The next start of cesbr turns it"
            f" off, or delete {KEY} in the registry."
        )
        return False
    os.ftruncate(state, 0)
    return was_ours


@contextmanager
def _opened(file: Path, *, create: bool) -> Iterator[int | None]:
    """Open the noted state and hold it; None when another process does, or there is none."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        if create:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = os.open(file, flags, 0o600)
    except OSError as error:
        if not create:
            yield None
            return
        raise CesbrError(
            f"The file {file} cannot be opened: {error.strerror}; see to its folder, or restore"
            " as root."
        ) from error
    try:
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield state
    finally:
        os.close(state)


def _write(state: int, noted: dict[str, str]) -> None:
    """Note it, and see that it is on the disk before anything else happens."""
    os.ftruncate(state, 0)
    os.pwrite(state, json.dumps(noted).encode() + b"\n", 0)
    os.fsync(state)
