"""The instance's maintenance mode, which shows its users a page in place of the dogus.

It is on while the registry has ``/config/_global/maintenance``.  What we turn on is noted in a file
before, so that it is taken back even after a crash, by the next start.  What somebody else has
turned on is left alone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from cesbrfs.ces.registry import Registry
from cesbrfs.errors import RegistryError
from cesbrfs.util.filelock import LockFile, state_file

KEY: Final = "/config/_global/maintenance"
STATE_FILE: Final = "var/lib/cesbr/maintenance.json"
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
    value = json.dumps({"title": title, "text": text}, ensure_ascii=False)
    with state_file(root / STATE_FILE, create=True) as state:
        if state is None or not state.held:
            say("Another process has turned the maintenance mode on; it is left to that.")
            yield
            return
        state.write({"registry": registry.address, "value": value})
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
    with state_file(file, create=False) as state:
        if state is None or not state.held:
            return
        try:
            noted = json.loads(state.read())
            address, value = str(noted["registry"]), str(noted["value"])
        except (ValueError, TypeError, KeyError):  # it ended before it had turned anything on
            state.clear()
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
    state: LockFile, value: str, registry: Registry, say: Callable[[str], None]
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
    state.clear()
    return was_ours
