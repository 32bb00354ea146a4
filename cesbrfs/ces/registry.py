"""The registry of an instance: a tree of keys such as ``/config/redmine/logging/root``.

A key begins with ``/`` and is either a value or a directory of keys. Values are UTF-8 text and are
not normalized. `FileRegistry` is the embedded registry, a directory with one file per key.
`cesbrfs.ces.etcd` is the client for the etcd of CES.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Final, Protocol

import trio

from cesbrfs.errors import RegistryError
from cesbrfs.util.atomicfile import remove_temporary, write_atomic
from cesbrfs.util.filelock import locked_directory

_TEMPORARY_PREFIX: Final = ".cesbr-new-"  # temporary files of atomic writes, hidden from readers
_POLL_SECONDS: Final = 1.0


class Registry(Protocol):
    """A key-value store with the settings of an instance and its dogus."""

    @property
    def address(self) -> str:
        """The address of the registry for messages, without passwords."""
        ...

    async def get(self, key: str) -> str | None:
        """Return the value of `key`; None if it does not exist."""
        ...

    async def read(self, prefix: str) -> dict[str, str]:
        """Return all keys at and below `prefix` with their values, sorted by key."""
        ...

    async def children(self, prefix: str) -> list[str]:
        """Return the names in the directory `prefix`, sorted; not recursive.

        Here and in `read`, etcd hides names that begin with ``_``. Request those by name.
        """
        ...

    async def set(self, key: str, value: str) -> None:
        """Set `key` to `value` atomically."""
        ...

    async def delete(self, key: str) -> None:
        """Delete `key`; do nothing if it does not exist."""
        ...

    async def compare_and_set(self, key: str, value: str | None, previous: str | None) -> bool:
        """Set `key` to `value` only if its current value is `previous`; return whether it was.

        None means a missing key: ``compare_and_set(key, None, "x")`` deletes the key if its value
        is ``x``.
        """
        ...

    def watch(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield the result of `read` now and after each change.

        Changes in quick succession may be combined; the latest state is always yielded.
        """
        ...


def split_key(key: str) -> tuple[str, ...]:
    """Split `key` into its parts; RegistryError for an invalid key.

    The leading slash is optional and a trailing one is allowed. ``/`` has no parts.
    """
    parts = tuple(key.removeprefix("/").removesuffix("/").split("/"))
    if parts == ("",):
        return ()
    for part in parts:
        if part in {"", ".", ".."} or "\0" in part or part.startswith(_TEMPORARY_PREFIX):
            raise RegistryError(
                f"Invalid registry key {key!r}. Write it as names separated by single slashes."
            )
    return parts


def join_key(parts: tuple[str, ...]) -> str:
    """Return the key with these parts."""
    return "/" + "/".join(parts)


# Errors that all registries share.


def root_key_error(key: str) -> RegistryError:
    """Return the error for using the root as a key."""
    return RegistryError(f"Invalid registry key {key!r}: it is the root. Pass a key below it.")


def read_directory_error(parts: tuple[str, ...]) -> RegistryError:
    """Return the error for reading the value of a directory."""
    return RegistryError(
        f"Cannot read the registry key {join_key(parts)}: it is a directory of keys. Pass a key"
        " below it."
    )


def delete_directory_error(parts: tuple[str, ...]) -> RegistryError:
    """Return the error for deleting a directory."""
    return RegistryError(
        f"Cannot delete the registry key {join_key(parts)}: it is a directory of keys. Delete"
        " its keys one by one."
    )


def set_directory_error(parts: tuple[str, ...]) -> RegistryError:
    """Return the error for setting the value of a directory."""
    return RegistryError(
        f"Cannot set the registry key {join_key(parts)}: it is a directory of keys. Delete its"
        " keys first."
    )


def set_below_value_error(parts: tuple[str, ...]) -> RegistryError:
    """Return the error for setting a key below a value."""
    return RegistryError(
        f"Cannot set the registry key {join_key(parts)}: a parent key is a value, not a directory."
        " Delete the parent key first."
    )


class FileRegistry:
    """A registry in the directory `path`, with one file per key: ``PATH/config/backup/active``.

    A missing directory is an empty registry. The first `set` creates it with mode 0700, as values
    may be secrets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def address(self) -> str:
        """The path of the directory."""
        return str(self.path)

    async def get(self, key: str) -> str | None:
        """Return the value of `key`; RegistryError for a directory and for invalid UTF-8."""
        return await trio.to_thread.run_sync(self._get, key)

    async def read(self, prefix: str) -> dict[str, str]:
        """Return all keys at and below `prefix`; RegistryError names an unreadable key."""
        return await trio.to_thread.run_sync(self._read, prefix)

    async def children(self, prefix: str) -> list[str]:
        """Return the names in `prefix`; empty for a value and for a missing key."""
        return await trio.to_thread.run_sync(self._children, split_key(prefix))

    async def set(self, key: str, value: str) -> None:
        """Set `key` by an atomic write, flushed to disk."""
        # Not abandoned on cancellation, so that no temporary file is left behind.
        await trio.to_thread.run_sync(self._set, key, value)

    async def delete(self, key: str) -> None:
        """Delete `key` and its empty parent directories; RegistryError for a directory."""
        await trio.to_thread.run_sync(self._delete, key)

    async def compare_and_set(self, key: str, value: str | None, previous: str | None) -> bool:
        """Set `key` if its value is `previous`, under the lock that all writers take."""
        return await trio.to_thread.run_sync(self._compare_and_set, key, value, previous)

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield the result of `read` now and after each change, by polling once per second."""
        last = None
        while True:
            values = await self.read(prefix)
            if values != last:
                yield dict(values)
            last = values
            await trio.sleep(_POLL_SECONDS)

    def _file(self, parts: tuple[str, ...]) -> Path:
        return self.path.joinpath(*parts)

    def _get(self, key: str) -> str | None:
        parts = split_key(key)
        if not parts:
            raise root_key_error(key)
        try:
            data = self._file(parts).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise read_directory_error(parts) from None
        except (OSError, ValueError) as error:
            raise self._failed("read", parts, error) from error
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RegistryError(
                f"Invalid value of the registry key {join_key(parts)}: not UTF-8. Set the value"
                " again."
            ) from None

    def _read(self, prefix: str) -> dict[str, str]:
        values: dict[str, str] = {}
        # Iterative, as deeply nested directories could exceed the recursion limit.
        pending = [split_key(prefix)]
        while pending:
            parts = pending.pop()
            kind = self._kind(parts)
            if kind == "directory":
                pending.extend((*parts, name) for name in self._children(parts))
            elif kind == "value":
                value = self._get(join_key(parts))
                if value is not None:  # None if deleted after it was listed
                    values[join_key(parts)] = value
        return dict(sorted(values.items()))

    def _kind(self, parts: tuple[str, ...]) -> str | None:
        """Return "directory" or "value"; None if the key does not exist."""
        file = self._file(parts)
        try:
            mode = file.lstat().st_mode
            if stat.S_ISDIR(mode) or (not parts and file.is_dir()):
                return "directory"
            # Symbolic links to directories are not followed, as they could form a loop.
            if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and file.is_file()):
                return "value"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise self._failed("read", parts, error) from error
        raise RegistryError(
            f"Unexpected file type in the registry: {file} is neither a file nor a directory."
            " Remove it."
        )

    def _children(self, parts: tuple[str, ...]) -> list[str]:
        try:
            names = os.listdir(self._file(parts))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError) as error:
            raise self._failed("list", parts, error) from error
        for name in names:
            if any("\udc80" <= char <= "\udcff" for char in name):
                raise RegistryError(
                    f"Invalid name {os.fsencode(name)!r} in the registry directory"
                    f" {self._file(parts)}: not UTF-8. Rename the file."
                )
        return sorted(name for name in names if not name.startswith(_TEMPORARY_PREFIX))

    def _set(self, key: str, value: str) -> None:
        parts = split_key(key)
        if not parts:
            raise root_key_error(key)
        with self._locked("set", parts):
            self._write(parts, value)

    def _delete(self, key: str) -> None:
        parts = split_key(key)
        if self._kind(()) is not None:
            with self._locked("delete", parts):
                self._remove(parts)

    def _compare_and_set(self, key: str, value: str | None, previous: str | None) -> bool:
        parts = split_key(key)
        with self._locked("set", parts):
            if self._get(key) != previous:
                return False
            if value is not None:
                self._write(parts, value)
            elif previous is not None:
                self._remove(parts)
            return True

    @contextlib.contextmanager
    def _locked(self, verb: str, parts: tuple[str, ...]) -> Iterator[None]:
        """Lock the registry exclusively, by flock on its directory; create it if missing."""
        with contextlib.ExitStack() as stack:
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked_directory(self.path))
            except OSError as error:
                raise self._failed(verb, parts, error) from error
            yield

    def _write(self, parts: tuple[str, ...], value: str) -> None:
        file = self._file(parts)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_temporary(file.parent, _TEMPORARY_PREFIX)
            _write_keeping_mode(file, value.encode())
        except IsADirectoryError:
            raise set_directory_error(parts) from None
        except (FileExistsError, NotADirectoryError):
            raise set_below_value_error(parts) from None
        except (OSError, ValueError) as error:
            raise self._failed("set", parts, error) from error

    def _remove(self, parts: tuple[str, ...]) -> None:
        file = self._file(parts)
        try:
            if self._kind(parts) == "directory":
                raise delete_directory_error(parts)
            file.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            raise self._failed("delete", parts, error) from error
        # An empty directory is not a key and would prevent setting a value of its name.
        for parent in list(file.parents)[: len(parts) - 1]:
            try:
                parent.rmdir()
            except OSError:
                break

    def _failed(self, verb: str, parts: tuple[str, ...], error: Exception) -> RegistryError:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return RegistryError(
            f"Cannot {verb} the registry key {join_key(parts)} in {self.path}: {reason}. Check the"
            " permissions of the directory and the disk."
        )


def _write_keeping_mode(file: Path, data: bytes) -> None:
    """Write `file` atomically; a new file gets mode 0600. Only root can keep another owner."""
    mode, owner = 0o600, None
    with contextlib.suppress(FileNotFoundError):
        status = file.stat()
        mode = stat.S_IMODE(status.st_mode)
        owner = (status.st_uid, status.st_gid) if os.geteuid() == 0 else None
    write_atomic(file, data, mode=mode, owner=owner, prefix=_TEMPORARY_PREFIX)
