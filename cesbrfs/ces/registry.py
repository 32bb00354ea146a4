"""The registry of an instance: keys such as ``/config/redmine/logging/root`` and their values.

Keys begin with ``/``; their parts form folders, and a key is either a value or a folder.  Values
are UTF-8 text, kept byte for byte.  `FileRegistry` is the embedded registry: a folder whose files
mirror the keys; `cesbrfs.ces.etcd` speaks to the etcd that CES has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Final, Protocol

import trio

from cesbrfs.errors import RegistryError

_TEMPORARY: Final = ".cesbr-new-"  # where a value is written before it takes its name
_LOOK_AGAIN_SECONDS: Final = 1.0


class Registry(Protocol):
    """Where an instance keeps its settings and what it knows of its dogus."""

    @property
    def address(self) -> str:
        """Where the registry is, as people are told."""
        ...

    async def get(self, key: str) -> str | None:
        """Return the value of `key`, None when there is no such key."""
        ...

    async def read(self, prefix: str) -> dict[str, str]:
        """Return all keys at and below `prefix` with their values, sorted, maybe none."""
        ...

    async def children(self, prefix: str) -> list[str]:
        """Return the names right below the folder `prefix`, sorted.

        etcd hides names that begin with ``_`` here, as it does in `read`: ask for those by name.
        """
        ...

    async def set(self, key: str, value: str) -> None:
        """Give `key` a value; readers see the old one or the new one, whole."""
        ...

    async def delete(self, key: str) -> None:
        """Remove `key`, or do nothing when it does not exist."""
        ...

    async def replace(self, key: str, value: str | None, previous: str | None) -> bool:
        """Give `key` a value if it still has the `previous` one; None stands for no such key.

        So ``replace(key, None, "x")`` removes it.  Returns whether it took place: False when
        another value, or none, was found there, which then stays.
        """
        ...

    def watch(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield what `read` returns, now and after each change.

        Changes that follow quickly may come as one; the last one always comes.
        """
        ...


def parts_of(key: str) -> tuple[str, ...]:
    """Split `key` into its parts; RegistryError for a key that no registry can hold.

    The leading slash may be missing and one at the end is allowed, so ``/`` has no parts.
    """
    parts = tuple(key.removeprefix("/").removesuffix("/").split("/"))
    if parts == ("",):
        return ()
    for part in parts:
        if part in {"", ".", ".."} or "\0" in part or part.startswith(_TEMPORARY):
            raise RegistryError(
                f"{key!r} is no registry key; write it as names with one slash between them."
            )
    return parts


def join(parts: tuple[str, ...]) -> str:
    """Return the key of these parts."""
    return "/" + "/".join(parts)


# What no registry can do is told alike by all of them.


def whole_registry(key: str) -> RegistryError:
    """Return the error of a key without parts."""
    return RegistryError(f"{key!r} is the whole registry, not a key; name one.")


def not_a_value(parts: tuple[str, ...]) -> RegistryError:
    """Return the error of asking for the value of a folder."""
    return RegistryError(
        f"The registry key {join(parts)} is a folder of keys, not a value; name a key below it."
    )


def not_one_key(parts: tuple[str, ...]) -> RegistryError:
    """Return the error of deleting a folder."""
    return RegistryError(
        f"The registry key {join(parts)} is a folder of keys; delete them one by one."
    )


def folder_in_the_way(parts: tuple[str, ...]) -> RegistryError:
    """Return the error of setting a folder."""
    return RegistryError(
        f"The registry key {join(parts)} cannot be set, it is a folder of keys; delete those first."
    )


def below_a_value(parts: tuple[str, ...]) -> RegistryError:
    """Return the error of setting a key below another one."""
    return RegistryError(
        f"The registry key {join(parts)} cannot be set, a part of it is a value, not a folder; "
        "delete that first."
    )


class FileRegistry:
    """A registry in the folder `path`: ``PATH/config/backup/active`` holds exactly the value.

    A folder that does not exist is an empty registry; the first `set` creates it, readable for its
    owner alone, as values may be secrets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.path)

    async def get(self, key: str) -> str | None:
        """Return the value of `key`; RegistryError for a folder and for bytes that are no UTF-8."""
        return await trio.to_thread.run_sync(self._get, key)

    async def read(self, prefix: str) -> dict[str, str]:
        """Return all keys at and below `prefix`; RegistryError names one that is unreadable."""
        return await trio.to_thread.run_sync(self._read, prefix)

    async def children(self, prefix: str) -> list[str]:
        """Return the names right below `prefix`; none for a value and for what does not exist."""
        return await trio.to_thread.run_sync(self._children, parts_of(prefix))

    async def set(self, key: str, value: str) -> None:
        """Write `value` beside its place, flush it to the disk and rename it over the old one."""
        # Not abandoned when cancelled: the thread ends by itself and leaves no half-made file.
        await trio.to_thread.run_sync(self._set, key, value)

    async def delete(self, key: str) -> None:
        """Remove `key` and the folders that it leaves empty; RegistryError for a folder of keys."""
        await trio.to_thread.run_sync(self._delete, key)

    async def replace(self, key: str, value: str | None, previous: str | None) -> bool:
        """Compare and set; no other `set`, `delete` or `replace` comes in between."""
        return await trio.to_thread.run_sync(self._compare_and_set, key, value, previous)

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield what `read` returns, now and after each change, looking again and again."""
        last = None
        while True:
            values = await self.read(prefix)
            if values != last:
                yield dict(values)
            last = values
            await trio.sleep(_LOOK_AGAIN_SECONDS)

    def _file(self, parts: tuple[str, ...]) -> Path:
        return self.path.joinpath(*parts)

    def _get(self, key: str) -> str | None:
        parts = parts_of(key)
        if not parts:
            raise whole_registry(key)
        try:
            data = self._file(parts).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            raise not_a_value(parts) from None
        except (OSError, ValueError) as error:
            raise self._failed("read", parts, error) from error
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RegistryError(
                f"The registry key {join(parts)} does not hold UTF-8 text; set its value again."
            ) from None

    def _read(self, prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        # Walked without recursion: no depth of folders can exhaust the stack.
        waiting = [parts_of(prefix)]
        while waiting:
            parts = waiting.pop()
            kind = self._kind(parts)
            if kind == "folder":
                waiting.extend((*parts, name) for name in self._children(parts))
            elif kind == "value":
                value = self._get(join(parts))
                if value is not None:  # else deleted since it was listed
                    found[join(parts)] = value
        return dict(sorted(found.items()))

    def _kind(self, parts: tuple[str, ...]) -> str | None:
        """Tell a folder from a value; None when there is neither."""
        file = self._file(parts)
        try:
            mode = file.lstat().st_mode
            if stat.S_ISDIR(mode) or (not parts and file.is_dir()):
                return "folder"
            # A link to a value is followed; one to a folder could lead round in a circle.
            if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and file.is_file()):
                return "value"
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise self._failed("read", parts, error) from error
        raise RegistryError(
            f"The registry's {file} is neither a value nor a folder of values; remove it."
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
                    f"The registry folder {self._file(parts)} has a name that is not UTF-8, "
                    f"{os.fsencode(name)!r}; rename it."
                )
        return sorted(name for name in names if not name.startswith(_TEMPORARY))

    def _set(self, key: str, value: str) -> None:
        parts = parts_of(key)
        if not parts:
            raise whole_registry(key)
        with self._locked("set", parts):
            self._write(parts, value)

    def _delete(self, key: str) -> None:
        parts = parts_of(key)
        if self._kind(()) is not None:
            with self._locked("delete", parts):
                self._remove(parts)

    def _compare_and_set(self, key: str, value: str | None, previous: str | None) -> bool:
        parts = parts_of(key)
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
        """Keep other writers of this registry waiting; its folder itself is the lock."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failed(verb, parts, error) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _write(self, parts: tuple[str, ...], value: str) -> None:
        file = self._file(parts)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(file, value.encode())
        except IsADirectoryError:
            raise folder_in_the_way(parts) from None
        except (FileExistsError, NotADirectoryError):
            raise below_a_value(parts) from None
        except (OSError, ValueError) as error:
            raise self._failed("set", parts, error) from error

    def _remove(self, parts: tuple[str, ...]) -> None:
        file = self._file(parts)
        try:
            if self._kind(parts) == "folder":
                raise not_one_key(parts)
            file.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            raise self._failed("delete", parts, error) from error
        # An emptied folder is no key, and it would keep its name from becoming a value.
        for parent in list(file.parents)[: len(parts) - 1]:
            try:
                parent.rmdir()
            except OSError:
                break

    def _failed(self, verb: str, parts: tuple[str, ...], error: Exception) -> RegistryError:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return RegistryError(
            f"Cannot {verb} the registry key {join(parts)} in {self.path}: {reason}; "
            "see to the folder's permissions and its disk."
        )


def _replace(file: Path, data: bytes) -> None:
    """Give `file` new content, atomically and durably; a file that exists keeps its mode."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        mode = 0o600
    new = file.with_name(_TEMPORARY + secrets.token_hex(8))
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
