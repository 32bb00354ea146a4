"""A process that stays root to mount and unmount for a mount process that dropped root.

It receives what to mount while its parent is still root. After that it takes four requests without
arguments, so that a parent that was taken over can only mount and unmount this mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final, NoReturn

import msgspec

from cesbrfs.errors import MountError
from cesbrfs.fuse.mountpoint import (
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
)
from cesbrfs.fuse.tuning import tune
from cesbrfs.util.mountinfo import OUR_TYPE, mounts

_MESSAGE_BYTES: Final = 64 << 10
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_IGNORED: Final = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGUSR1,
    signal.SIGUSR2, signal.SIGPIPE,
)  # fmt: skip
"""Signals to all processes of a terminal or a service; this process ends with its parent."""


@dataclass(frozen=True, slots=True)
class MountTarget:
    """What to mount, and where. Without `allow_other` only root has access."""

    mountpoint: str
    source: str
    allow_other: bool
    noexec: bool
    nosymfollow: bool


class MountHelper:
    """The parent's side: `configure` it, drop privileges, `mount`, and finally `unmount`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.mountpoint = ""

    @classmethod
    def start(cls) -> MountHelper:
        """Fork the helper. Call it before any thread is started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            _run(theirs)
        theirs.close()
        return cls(ours)

    def configure(self, target: MountTarget) -> None:
        """Set what to mount; the helper accepts this once."""
        self.mountpoint = target.mountpoint
        self._connection.send(msgspec.json.encode(asdict(target)))

    def mount(self) -> int:
        """Mount, and return the descriptor of /dev/fuse; MountError if that fails."""
        reply, descriptors = b"", list[int]()
        with self._lock, contextlib.suppress(ConnectionError):  # then the helper has ended
            self._connection.send(b"mount")
            reply, descriptors, _, _ = socket.recv_fds(self._connection, _MESSAGE_BYTES, 1)
        if not descriptors:
            raise MountError(
                f"{self.mountpoint} could not be mounted: {_reason(reply)}. Check that /dev/fuse"
                " can be opened."
            )
        return descriptors[0]

    def wait_ready(self) -> None:
        """Wait until the mount answers, then tune it; raises OSError. For worker threads."""
        if number := self._ask(b"ready"):
            raise OSError(number, os.strerror(number))

    def unmount(self) -> None:
        """Unmount unless it is in use (MountError)."""
        if number := self._ask(b"unmount"):
            if number == errno.EBUSY:
                raise MountError(f"{self.mountpoint} is in use.")
            raise MountError(f"{self.mountpoint} could not be unmounted: {os.strerror(number)}.")

    def detach(self) -> None:
        """Unmount, lazily if it is in use. Does nothing if it is not mounted."""
        with contextlib.suppress(OSError, ValueError):
            self._ask(b"detach")

    def _ask(self, request: bytes) -> int:
        with self._lock, contextlib.suppress(ConnectionError):  # then the helper has ended
            self._connection.send(request)
            return int(self._connection.recv(_MESSAGE_BYTES) or str(errno.EPIPE))
        return errno.EPIPE


def _reason(reply: bytes) -> str:
    return os.strerror(int(reply)) if reply else "the helper process ended"


def _run(connection: socket.socket) -> NoReturn:
    """Serve in the helper process, and exit."""
    try:
        _serve(connection)
    finally:
        os._exit(0)


def _serve(connection: socket.socket) -> None:
    """Answer requests until the parent ends. An unrequested end leaves the mount in place."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    with open(os.devnull, "r+b") as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    message = connection.recv(_MESSAGE_BYTES)
    if not message:
        return
    root = _Root(connection, msgspec.json.decode(message, type=MountTarget))
    requests: Mapping[bytes, Callable[[], None]] = {
        b"mount": root.mount,
        b"ready": root.ready,
        b"unmount": root.unmount,
        b"detach": root.detach,
    }
    while message := connection.recv(_MESSAGE_BYTES):
        try:
            requests[message]()
        except OSError as error:
            connection.send(str(error.errno or errno.EIO).encode())
        else:
            if message != b"mount":
                connection.send(b"0")


class _Root:
    """The requests that need root."""

    def __init__(self, connection: socket.socket, target: MountTarget) -> None:
        self._connection = connection
        self._target = target
        self._path = os.fsencode(target.mountpoint)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device: int | None = None

    def mount(self) -> None:
        """Mount as libfuse does, and send the descriptor."""
        target = self._target
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            options = f"fd={descriptor},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
            if target.allow_other:
                options += ",allow_other,default_permissions"
            flags = MS_RDONLY | MS_NOSUID | MS_NODEV
            flags |= MS_NOEXEC if target.noexec else 0
            flags |= MS_NOSYMFOLLOW if target.nosymfollow else 0
            done = self._libc.mount(
                os.fsencode(target.source), self._path, OUR_TYPE.encode(), ctypes.c_ulong(flags),
                options.encode(),
            )  # fmt: skip
            if done:
                _raise()
            self._device = self._mounted()
            socket.send_fds(self._connection, [b"0"], [descriptor])
        finally:
            os.close(descriptor)

    def ready(self) -> None:
        """Return once the mount has answered a request, with the kernel's limits raised."""
        tune(os.stat(self._path).st_dev)

    def unmount(self) -> None:
        """Unmount; EBUSY if it is in use."""
        self._unmount(0)

    def detach(self) -> None:
        """Unmount; if it is in use, it ends when nothing uses it."""
        self._unmount(_MNT_DETACH)

    def _unmount(self, flags: int) -> None:
        # Another mount may be there, if somebody else has unmounted this one.
        if self._device is None or self._mounted() != self._device:
            return
        if self._libc.umount2(self._path, flags | _UMOUNT_NOFOLLOW):
            _raise()

    def _mounted(self) -> int | None:
        """Return the device of the topmost mount on the mountpoint."""
        found = None
        for mounted in mounts():
            if mounted.mountpoint == self._target.mountpoint:
                found = mounted.device
        return found


def _raise() -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
