"""Maintenance mode of an instance: nginx returns 503 and a page instead of the dogus.

It is on while the registry key ``/config/_global/maintenance`` exists. Before cesbr turns it on, it
records this in a state file, so that after a crash the next start turns it off. A maintenance mode
that someone else has turned on is not changed.
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
from cesbrfs.util.filelock import LockFile, lock_file

KEY: Final = "/config/_global/maintenance"
STATE_FILE: Final = "var/lib/cesbr/maintenance.json"
_TURN_OFF_SECONDS: Final = 60.0
"""Timeout in seconds for turning it off, which also happens after cancellation."""


def is_left_on(root: Path) -> bool:
    """Return whether an interrupted restore left it on, from the state file (one stat)."""
    try:
        return (root / STATE_FILE).stat().st_size > 0
    except OSError:
        return False


@asynccontextmanager
async def maintenance_mode(
    root: Path, registry: Registry, *, title: str, text: str, notify: Callable[[str], None]
) -> AsyncIterator[None]:
    """Turn the maintenance mode on, and off on exit. `title` and `text` are shown to users.

    `notify` is called with a message if the mode is not changed. Raises RegistryError if it cannot
    be turned on.
    """
    value = json.dumps({"title": title, "text": text}, ensure_ascii=False)
    with lock_file(root / STATE_FILE, create=True) as state:
        if state is None or not state.held:
            notify("Maintenance mode is already on: another cesbr process has turned it on.")
            yield
            return
        state.write({"registry": registry.address, "value": value})
        on = False
        try:
            on = await registry.compare_and_set(KEY, value, None)
            if not on:
                notify("Maintenance mode is already on and stays on.")
            yield
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(_TURN_OFF_SECONDS):
                # Also if it seems not to be on: the response may have been lost.
                await _turn_off(state, value, registry, notify if on else lambda _: None)


async def turn_off_leftover(root: Path, registry: Registry, notify: Callable[[str], None]) -> None:
    """Turn off the maintenance mode after a crash; `notify` is called with the result."""
    file = root / STATE_FILE
    with lock_file(file, create=False) as state:
        if state is None or not state.held:
            return
        try:
            payload = json.loads(state.read())
            address, value = str(payload["registry"]), str(payload["value"])
        except (ValueError, TypeError, KeyError):  # killed before it turned the mode on
            state.clear()
            return
        if address != registry.address:
            notify(
                f"An interrupted restore left maintenance mode on in the registry {address}. Run"
                f" cesbr with that registry, or delete its key {KEY} and the file {file}."
            )
            return
        if await _turn_off(state, value, registry, notify):
            notify(
                "Maintenance mode was left on by an interrupted restore and has been turned off."
            )


async def _turn_off(
    state: LockFile, value: str, registry: Registry, notify: Callable[[str], None]
) -> bool:
    """Turn it off if the registry still has our `value`; return whether it had."""
    try:
        deleted = await registry.compare_and_set(KEY, None, value)
        if not deleted and await registry.get(KEY) is not None:
            notify("Maintenance mode was changed by someone else and stays on.")
    except RegistryError as error:
        notify(
            f"Maintenance mode is still on: {error.message} The next start of cesbr turns it off;"
            f" to do it by hand, delete {KEY} in the registry."
        )
        return False
    state.clear()
    return deleted
