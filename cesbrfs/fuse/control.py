"""Reload running mounts: signal their processes, and wait until they have listed the backups."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import trio

from cesbrfs.errors import MountError
from cesbrfs.fuse.status import Reloads
from cesbrfs.util.mountinfo import Mounted

_POLL_SECONDS: Final = 0.05
_RELOAD_SECONDS: Final = 300.0
"""Maximum time to wait for a reload. A server that is offline is reported after `patience`."""
_STATUS_BYTES: Final = 1 << 20
_UIDS: Final = re.compile(r"^Uid:\s+(.*)$", re.MULTILINE)


class _Status(msgspec.Struct):
    """The fields of ``.cesbrfs/status.json`` that are needed here."""

    pid: int
    backups: int
    reloads: Reloads


async def reload(mounted: Mounted) -> int:
    """Have a mount list its backups now; return their number once it has.

    Raises MountError if that fails.
    """
    where = mounted.mountpoint
    status = await _read_status(where)
    started = status.reloads.started
    with _process(status.pid, mounted) as descriptor:
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGHUP)
        except ProcessLookupError:
            raise MountError(f"The process of {where} has ended. Mount it again.") from None
        except PermissionError:
            raise MountError(
                f"{where} belongs to another user (UID {mounted.user}). Run this as root."
            ) from None
        with trio.move_on_after(_RELOAD_SECONDS):
            # There is no event to wait for: the mount is another process.
            while (status := await _read_status(where)).reloads.finished <= started:  # noqa: ASYNC110 - of another process
                await trio.sleep(_POLL_SECONDS)
    if status.reloads.finished <= started:
        raise MountError(
            f"{where} did not list the backups within {_RELOAD_SECONDS:.0f} s. See its log."
        )
    if status.reloads.error is not None:
        raise MountError(f"{where} could not list the backups: {status.reloads.error}")
    return status.backups


async def _read_status(mountpoint: str) -> _Status:
    """Read the status of a mount; raises MountError."""

    def read() -> bytes:
        with open(f"{mountpoint}/.cesbrfs/status.json", "rb", buffering=0) as file:
            return file.read(_STATUS_BYTES)

    try:
        return msgspec.json.decode(
            await trio.to_thread.run_sync(read, abandon_on_cancel=True), type=_Status
        )
    except PermissionError as error:
        raise MountError(
            f"{mountpoint} belongs to another user. Run this as the user who mounted it."
        ) from error
    except OSError as error:
        raise MountError(
            f"{mountpoint} does not answer: {error.strerror}. Unmount it, and mount it again."
        ) from error
    except (ValueError, RecursionError) as error:
        raise MountError(
            f"{mountpoint} is served by another version of cesbrfs. Unmount it, and mount it again."
        ) from error


@contextlib.contextmanager
def _process(pid: int, mounted: Mounted) -> Iterator[int]:
    """Open the process of a mount, as a descriptor of pidfd_open(2); raises MountError.

    Any user can mount a file system that claims to be ours, with any PID in its status. So the
    process must belong to the user who mounted it, and have /dev/fuse open. What root mounted may
    be served by a process that dropped root.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, OverflowError):
        descriptor = -1
    try:
        if descriptor < 0 or not _serves_fuse(pid, mounted.user):
            raise MountError(
                f"The process of {mounted.mountpoint} was not found. If it runs in a container, run"
                " this there."
            )
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _serves_fuse(pid: int, user: int | None) -> bool:
    process = Path("/proc", str(pid))
    try:
        uids = _UIDS.search((process / "status").read_text(encoding="utf-8", errors="replace"))
        if uids is None or (user != 0 and {int(uid) for uid in uids[1].split()} != {user}):
            return False
        descriptors = os.listdir(process / "fd")
    except PermissionError:
        return True  # the signal will not be permitted either
    except OSError:
        return False
    for name in descriptors:
        with contextlib.suppress(OSError):
            if os.readlink(process / "fd" / name) == "/dev/fuse":
                return True
    return False
