"""The state of a repository, and its initialisation: the two tables of the seed, in one place.

=================  ==============  ==========================================================
repository         encryption key  reaction
=================  ==============  ==========================================================
uninitialised      any             initialised with the configured address and key, with a note
initialised        incorrect       fails: the message names the repository and the key
initialised        correct         left as it is; the command continues
=================  ==============  ==========================================================

Uninitialised means more than "no config": a repository that has lost only its config still holds
keys, snapshots, index or data, and restic 0.14's ``init`` would add a second master key to it,
after which nothing opens it any more.  Such a repository is damaged; and what is damaged, refuses
access or does not answer is never initialised.  Nor is an address where `creation` finds a reason
against it, such as a disk that is not mounted.

Our reader and restic both tell the state, and tell the same: the reader where only reading follows,
restic where it runs anyway.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cesbrfs.errors import (
    BucketMissingError,
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDamagedError,
    RepositoryDeniedError,
    RepositoryError,
    RepositoryLockedError,
    RepositoryMissingError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
    WrongKeyError,
)
from cesbrfs.init_guard import require_creatable
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.known_repositories import is_known
from cesbrfs.repo.location import Access, local_directory
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType, Storage, open_storage

if TYPE_CHECKING:
    from cesbrfs.restic import Restic  # not imported for those who only read

Say = Callable[[str], None]
"""Tells the user one sentence."""
OpenRestic = Callable[[], Awaitable["Restic"]]
"""Opens restic for the same access, when it turns out to be needed."""

_OTHERS_TURN: Final = 150.0
"""Seconds to wait for another process that initialises the same repository."""
_LOOK_AGAIN: Final = 0.05


class State(StrEnum):
    """What a repository is found to be."""

    READY = "ready"
    MISSING = "missing"
    WRONG_KEY = "wrong key"
    DAMAGED = "damaged"
    DENIED = "denied"
    UNTRUSTED = "untrusted"
    UNREACHABLE = "unreachable"


_STATES: Final[tuple[tuple[type[RepositoryError], State], ...]] = (
    (RepositoryMissingError, State.MISSING),
    (WrongKeyError, State.WRONG_KEY),
    (RepositoryDeniedError, State.DENIED),
    (RepositoryUntrustedError, State.UNTRUSTED),
    (RepositoryUnreachableError, State.UNREACHABLE),
    (RepositoryDamagedError, State.DAMAGED),
    (FileMissingError, State.DAMAGED),
    (StorageError, State.UNREACHABLE),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A repository's state, and the error that a command on it ends with unless it is ready."""

    state: State
    error: CesbrError | None = None


def _verdict(error: RepositoryError) -> Verdict:
    """Return the verdict that `error` means; an error that is about no state is raised again."""
    for kind, state in _STATES:
        if isinstance(error, kind):
            return Verdict(state, error)
    raise error


async def by_reader(access: Access) -> Verdict:
    """Determine the state with our own reader; starts no process and changes nothing.

    Raises UsageError for an address that cannot be parsed.
    """
    verdict, repository = await look(access)
    if repository is not None:
        await repository.aclose()
    return verdict


async def look(
    access: Access,
    caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
) -> tuple[Verdict, Repository | None]:
    """Tell the state, and keep the repository open where it is ready."""
    async with AsyncExitStack() as closing:
        storage = open_storage(access)
        closing.push_async_callback(storage.aclose)
        verdict, repository = await open_in(storage, access, caching)
        if repository is not None:
            closing.pop_all()
        return verdict, repository


async def open_in(
    storage: Storage, access: Access, caching: CacheConfig
) -> tuple[Verdict, Repository | None]:
    """Determine the state of the repository in `storage`; return it open if it is ready.

    The repository closes `storage`; without one, the caller does.
    """
    try:
        return Verdict(State.READY), await _open(storage, access, caching)
    except RepositoryMissingError as error:
        known = False
        with suppress(OSError):  # the message is then less helpful; nothing is created
            known = caching.directory is not None and is_known(
                storage.display_url, caching.directory
            )
        if not known:
            return _verdict(error), None
        gone = RepositoryMissingError(
            f"There is no repository at {access.display_url}, but this user has opened one there"
            " before. Mount its disk, or correct the address."
        )
        return _verdict(gone), None
    except RepositoryError as error:
        return _verdict(error), None


async def _open(storage: Storage, access: Access, caching: CacheConfig) -> Repository:
    """Open the repository as restic does, which looks at the config's size before the key."""
    try:
        return await Repository.open(storage, access.key, caching, access.key_hint)
    except WrongKeyError:
        if await storage.read(FileType.CONFIG):
            raise
        raise RepositoryDamagedError(
            f"The repository at {access.display_url} is damaged: 'config' is empty. Restore"
            " 'config' from a copy of the repository."
        ) from None
    except DamagedError as error:  # of one file, which does not say of what
        raise RepositoryDamagedError(
            f"The repository at {access.display_url} is damaged: {error.message}"
        ) from error


async def by_restic(restic: Restic) -> Verdict:
    """Determine the state by restic's exit code, or by its output for versions without such a code.

    restic cannot distinguish a repository that lost its config from one that never existed, nor
    one without key files from a wrong key: in these cases our reader looks, too.
    """
    try:
        await restic.probe()
    except RepositoryError as error:
        verdict = _verdict(error)
    else:
        return Verdict(State.READY)
    if verdict.state is State.MISSING:
        return await by_reader(restic.access)
    if verdict.state is State.WRONG_KEY:
        seen, repository = await look(restic.access)
        if repository is None:
            return seen if seen.state is State.DAMAGED else verdict
        await repository.aclose()
        return Verdict(State.WRONG_KEY, _beyond_the_tried(restic.access, repository.key_file))
    return verdict


def _beyond_the_tried(access: Access, key_file: str) -> CesbrError:
    return WrongKeyError(
        f"restic cannot find the key of the repository at {access.display_url}, because it tries"
        f" at most 20 keys. Set RESTIC_KEY_HINT={key_file[:8]}."
    )


async def ensure_ready(
    access: Access,
    *,
    open_restic: OpenRestic,
    auto_init: bool,
    say: Say,
    through_restic: bool = False,
    cache_dir: Path | None = None,
) -> bool:
    """Make sure that a command can use the repository; return True if it was initialised.

    With `auto_init`, a missing one is initialised, and `say` gets a message. `through_restic`
    asks restic for the state, for a command that runs it anyway. `cache_dir` is this user's
    cache, which knows where repositories were. Raises the error of every other state.
    """
    verdict = await (by_restic(await open_restic()) if through_restic else by_reader(access))
    if verdict.error is None:
        return False
    if not auto_init or not _may_change(verdict):
        raise verdict.error
    return await _initialise_alone(access, open_restic, say, cache_dir)


async def open_ready(
    access: Access,
    *,
    open_restic: OpenRestic,
    auto_init: bool,
    say: Say,
    caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
) -> Repository:
    """Do what `ensure_ready` does, and return the repository opened for reading.

    Cheaper than the two one after the other: deriving the key takes most of the time of both.
    """
    verdict, repository = await look(access, caching)
    if repository is not None:
        return repository
    assert verdict.error is not None, "what cannot be opened has an error"
    if not auto_init or not _may_change(verdict):
        raise verdict.error
    await _initialise_alone(access, open_restic, say, caching.directory)
    return await Repository.open(open_storage(access), access.key, caching, access.key_hint)


async def initialise(
    access: Access,
    *,
    open_restic: OpenRestic,
    say: Say,
    cache_dir: Path | None = None,
    force: bool = False,
    source: Restic | None = None,
) -> bool:
    """Create the repository unless it exists; `say` gets a message about which of the two.

    `force` creates it at an address where `cache_dir` knows one that was removed; `source` is a
    repository whose chunker parameters it gets. Returns True if it was created. Raises
    the error of every other state.
    """
    if await _initialise_alone(access, open_restic, say, cache_dir, force=force, source=source):
        return True
    say(f"The repository at {access.display_url} already exists. It was left unchanged.")
    return False


def _may_change(verdict: Verdict) -> bool:
    """Return whether the state may change although no other process initialises it now.

    An unfinished initialisation, with a key but no config yet, looks like a damaged repository.
    If not even the bucket exists, the address is probably wrong: only `initialise` creates a
    bucket.
    """
    if isinstance(verdict.error, BucketMissingError):
        return False
    return verdict.state in (State.MISSING, State.DAMAGED)


async def _initialise_alone(
    access: Access,
    open_restic: OpenRestic,
    say: Say,
    cache_dir: Path | None,
    *,
    force: bool = False,
    source: Restic | None = None,
) -> bool:
    """Initialise the repository unless it is ready by now; True when this did it."""
    async with _only_one(access):
        before = await by_reader(access)
        if before.error is None:
            return False
        if before.state is not State.MISSING:
            raise before.error
        await require_creatable(access, cache_dir, may_replace_known=force)
        restic = await open_restic()
        try:
            await restic.init(source)
        except CesbrError:
            if (await by_reader(access)).error is None:  # another host was faster
                return False
            raise
        after = await by_reader(access)
        if after.error is not None:
            raise after.error
    say(
        f"Initialised the repository at {access.display_url} with the configured encryption key,"
        " because it did not exist."
    )
    return True


@asynccontextmanager
async def _only_one(access: Access) -> AsyncIterator[None]:
    """Keep other processes of this machine from initialising the same repository.

    Two ``init`` of restic 0.14 at once leave two master keys and a config that only one of them
    opens. The name of a socket is the lock: it needs no file, and ends with its process.
    """
    name = _lock_name(access)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
        with trio.move_on_after(_OTHERS_TURN) as waiting:
            while not _bound(held, name):  # noqa: ASYNC110 - what ends is another process
                await trio.sleep(_LOOK_AGAIN)
        if waiting.cancelled_caught:
            raise RepositoryLockedError(
                f"Another process has been initialising the repository at {access.display_url} for"
                f" {_OTHERS_TURN:.0f} s. Check that process, then try again."
            )
        yield


def _lock_name(access: Access) -> bytes:
    """Return the address of the socket that is the lock for the repository's location."""
    directory = local_directory(access.url)
    place = access.display_url if directory is None else os.path.realpath(directory)
    return b"\0cesbrfs-init-" + hashlib.sha256(os.fsencode(place)).hexdigest().encode()


def _bound(held: socket.socket, name: bytes) -> bool:
    try:
        held.bind(name)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    return True
