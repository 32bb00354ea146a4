"""Change the password of a repository without locking anyone out.

A password opens a key of the repository, and each key contains the same master key. The order is:
add a key for the new password, open the repository with it, replace the stored passwords, read them
back, and only then remove the old keys. At each moment, every stored password opens the repository.

Nothing is recorded for a rerun: the user name of a key that replaces another one ends with
``replaces ID``, so the remaining steps follow from the list of keys and the stored passwords.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cesbrfs.config.password_stores import PasswordStore
from cesbrfs.errors import CesbrError, ResticError, UsageError, WrongKeyError
from cesbrfs.repo.keys import open_config, open_keys
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic
from cesbrfs.restic.events import RepositoryKey
from cesbrfs.util.secret import Secret

_MARK: Final = re.compile(r"(?:, )?replaces ([0-9a-f]{8})$")
_ID: Final = re.compile(r"[0-9a-f]{4,64}")
_NOT_OPENED: Final = (
    "The new password does not open {display_url} after restic has added a key for it. Nothing was"
    " replaced; run 'cesbr key list'."
)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a change of the password did, or has left to be done by hand."""

    key: str
    """ID of the key that the new password opens (8 hex digits)."""
    added: bool
    stored: tuple[str, ...]
    """Where the new password was stored."""
    removed: tuple[str, ...]
    """IDs of removed keys."""


async def opened_key(access: Access, password: Secret) -> str | None:
    """Return the ID of the key that `password` opens, None if it opens none.

    Uses our own reader, and decrypts the config with the key. Raises the errors of `open_keys`.
    """
    found: list[str] = []
    storage = open_storage(access)
    try:
        keys = await open_keys(storage, password, lambda name, _: found.append(name))
        await open_config(storage, keys)
    except WrongKeyError:
        return None
    finally:
        await storage.aclose()
    return found[0][:8]


def replaced_by(key: RepositoryKey) -> str | None:
    """Return the ID (8 hex digits) of the key that `key` was added to replace."""
    mark = _MARK.search(key.user_name)
    return mark[1] if mark else None


def owner(key: RepositoryKey) -> str:
    """Return ``user@host`` of a key, without the ID of the key that it was added to replace."""
    return f"{_MARK.sub('', key.user_name)}@{key.host_name}"


def current_key(keys: Iterable[RepositoryKey]) -> RepositoryKey:
    """Return the key in use; ResticError if restic has marked none."""
    for key in keys:
        if key.current:
            return key
    raise ResticError("restic does not show which key is in use. Run 'restic key list'.")


def unfinished(keys: Sequence[RepositoryKey]) -> list[RepositoryKey]:
    """Return the keys that an interrupted change has left to be removed."""
    return obsolete_keys(keys, current_key(keys).short_id)


def obsolete_keys(keys: Sequence[RepositoryKey], new: str | None) -> list[RepositoryKey]:
    """Return the keys to remove once the key with the ID `new` is in use; None: not added yet.

    These are the key in use, the key that it replaced, and other keys of this host that were added
    to replace one of them: their passwords were not stored when that change was interrupted.
    """
    current = current_key(keys)
    replaced = {replaced_by(current)} - {None}
    if new != current.short_id:
        replaced.add(current.short_id)
    return [
        key
        for key in keys
        if key.short_id != new
        and (
            key.short_id in replaced
            or (replaced_by(key) in replaced and key.host_name == socket.gethostname())
        )
    ]


async def rotate(
    restic: Restic,
    stores: Sequence[PasswordStore],
    new: Secret,
    *,
    user: str,
    remove_old: bool = True,
    by_hand: bool = False,
    announce: Callable[[str], None],
) -> Rotation:
    """Use the password `new` from now on, and remove the old keys with `remove_old`.

    `announce` is called after each step. With `by_hand`, the password in use is stored where it
    cannot be replaced; then no key is removed. Raises CesbrError; a rerun continues.
    """
    access = restic.access
    keys = await restic.keys()
    # Without a key for `new`, the key in use is one of these.
    to_replace = await _outdated(access, stores, obsolete_keys(keys, await opened_key(access, new)))
    for store in to_replace:
        await store.check(new)
    mark = f", replaces {current_key(keys).short_id}" if remove_old else ""
    key, added = await add(restic, new, user=user + mark)
    if added:
        announce(f"Added key {key}.")
    with_new = Restic(
        restic.binary,
        restic.version,
        replace(access, key=new),
        cache_dir=restic.cache_dir,
    )
    await with_new.probe()  # restic and our reader differ in how they read a password
    obsolete = obsolete_keys(await restic.keys(), key)
    for store in to_replace:
        await store.replace(new)
        await _require_stored(store, new)
        announce(f"Stored the new password in {store.name}.")
    removed = []
    if remove_old and not by_hand:
        left = await _outdated(access, stores, obsolete)
        if left:
            raise CesbrError(
                f"{left[0].name} still contains an old password. No key was removed; run the"
                " command again."
            )
        for old in obsolete:
            await with_new.remove_key(old.id)
            removed.append(old.short_id)
            announce(f"Removed key {old.short_id}.")
    return Rotation(key, added, tuple(store.name for store in to_replace), tuple(removed))


async def _outdated(
    access: Access, stores: Iterable[PasswordStore], obsolete: Sequence[RepositoryKey]
) -> list[PasswordStore]:
    """Return the stores whose password opens one of the `obsolete` keys."""
    ids = {key.short_id for key in obsolete}
    in_use_is_obsolete = any(key.current for key in obsolete)
    found = []
    for store in stores:
        password = await store.read()
        if password is None or not ids:
            continue
        in_use = password.value == access.key.value
        if in_use_is_obsolete if in_use else await opened_key(access, password) in ids:
            found.append(store)
    return found


async def _require_stored(store: PasswordStore, new: Secret) -> None:
    stored = await store.read()
    if stored is None or stored.value != new.value:
        raise CesbrError(
            f"{store.name} does not contain the new password after it was written. No key was"
            " removed; check what else writes it."
        )


async def add(restic: Restic, new: Secret, *, user: str) -> tuple[str, bool]:
    """Add a key that `new` opens, unless there is one; return its ID and whether it is new."""
    key = await opened_key(restic.access, new)
    if key is not None:
        return key, False
    await restic.add_key(new, user=user, host=socket.gethostname())
    key = await opened_key(restic.access, new)
    if key is None:
        raise ResticError(_NOT_OPENED.format(display_url=restic.access.display_url))
    return key, True


async def find_removable(
    restic: Restic, stores: Sequence[PasswordStore], wanted: str
) -> RepositoryKey:
    """Return the key to remove, whose ID begins with `wanted`.

    Raises UsageError for the last key, for the key in use, and for a key that a stored password
    opens.
    """
    keys = await restic.keys()
    key = find_key(keys, wanted)
    if len(keys) == 1:
        raise UsageError(
            f"Key {key.short_id} is the last key of the repository; without it, nothing can be"
            " read. Add another key first."
        )
    if key.current:
        raise UsageError(
            f"Key {key.short_id} is in use. Run 'cesbr key change' to replace it, or use the"
            " password of another key."
        )
    for store in await _outdated(restic.access, stores, [key]):
        raise UsageError(
            f"Key {key.short_id} is in use: its password is in {store.name}. Change that first."
        )
    return key


def find_key(keys: Sequence[RepositoryKey], wanted: str) -> RepositoryKey:
    """Return the only key whose ID begins with `wanted` (at least 4 hex digits)."""
    if not _ID.fullmatch(wanted):
        raise UsageError("Pass the ID of a key, or its first 4 digits. See 'cesbr key list'.")
    # restic before 0.17 prints 8 digits only.
    found = [key for key in keys if key.id.startswith(wanted) or wanted.startswith(key.id)]
    if not found:
        raise UsageError(f"No key of the repository begins with {wanted}. See 'cesbr key list'.")
    if len(found) > 1:
        raise UsageError(f"Several keys begin with {wanted}. Pass more digits.")
    return found[0]
