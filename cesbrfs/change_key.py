"""Replace the encryption key of a repository, and where it is stored, without locking anyone out.

The new key is added and tried before it is stored, and the old one is removed only after the stored
key has opened the repository. A record of the change is kept until it is complete, so that the same
command completes it after an interruption at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cesbrfs.errors import CesbrError, WrongKeyError
from cesbrfs.repo.keys import list_keys, name_of_key
from cesbrfs.repo.storage import Storage
from cesbrfs.util.secret import Secret

if TYPE_CHECKING:
    from cesbrfs.config.key_store import KeyStore
    from cesbrfs.restic import Restic


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A change that was begun: the key file to replace, and the new key."""

    old: str
    new: Secret


class Record(Protocol):
    """Keeps a change that was begun, in a private file."""

    def write(self, change: KeyChange) -> None:
        """Record it durably before anything is changed."""
        ...

    def remove(self) -> None:
        """Forget it: the change is complete."""
        ...


async def change_key(
    change: KeyChange,
    *,
    storage: Storage,
    store: KeyStore,
    record: Record,
    open_restic: Callable[[Secret], Restic],
    on_step: Callable[[str], object] = lambda _: None,
) -> str:
    """Carry out `change`, from where it was interrupted; return the name of the new key file.

    `open_restic` returns restic for the repository with a key. `on_step` is called with what will
    be done next. At least one of the old and the new key opens the repository at any time, and so
    does the stored one.
    """
    current = await store.read()
    on_step("record the change")
    record.write(change)
    on_step("add the new key")
    name = await _find(storage, change.new)
    if name is None:
        await open_restic(current).add_key(change.new)
        on_step("try the new key")
        name = await _find(storage, change.new)
        if name is None:
            raise CesbrError("The new key does not open the repository. The old one is unchanged.")
    if current != change.new:
        on_step("store the new key")
        await store.write(change.new)
    on_step("read the stored key")
    if await store.read() != change.new:
        raise CesbrError(
            f"{store.location} does not contain the new key, so the old key was not removed. Run"
            " the command again."
        )
    on_step("remove the old key")
    if name != change.old and change.old in {key.name for key in await list_keys(storage)}:
        await open_restic(change.new).remove_key(change.old)
    on_step("forget the change")
    record.remove()
    return name


async def _find(storage: Storage, key: Secret) -> str | None:
    """Return the name of the key file that `key` opens, None if there is none."""
    try:
        return await name_of_key(storage, key)
    except WrongKeyError:
        return None
