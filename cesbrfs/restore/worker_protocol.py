"""Messages between a restore and its worker processes: msgpack with a length prefix. Pure.

The first message to a worker is a `Setup`; then each request gets one reply with its number.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from cesbrfs import errors
from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.repo.format.pack import BlobLocation
from cesbrfs.restore.files import Done, FileResult, Outcome, Parts, WriteJob
from cesbrfs.restore.overwrite import Overwrite

LENGTH: Final = struct.Struct("<I")


class Setup(msgspec.Struct, array_like=True, gc=False):
    """What a worker needs to know. The master key travels here only, never in argv or a file.

    `directory` is the repository, empty if the content comes with the jobs. `journal`: a descriptor
    of the journal was inherited. `undo_log` and `places` are those of the `Keeper`, inherited, too.
    """

    directory: str
    encrypt: bytes
    mac_k: bytes
    mac_r: bytes
    target: int
    journal: int | None
    overwrite: Overwrite
    from_disk: bool
    tag: bytes
    followed: list[tuple[Parts, tuple[int, int]]]
    undo_log: int | None = None
    places: dict[int, int] = {}


class WireBlob(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A blob and its location; `pack` is an index into the list of packs of the request."""

    blob: bytes
    pack: int
    offset: int
    length: int
    uncompressed_length: int
    compressed: bool

    def location(self, packs: list[bytes]) -> BlobLocation:
        """Return the location."""
        return BlobLocation(
            packs[self.pack], self.offset, self.length, self.uncompressed_length, self.compressed
        )


class WireFile(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A file to write, with the locations of its blobs, or with `content`."""

    job: WriteJob
    blobs: list[WireBlob] = []
    content: list[bytes] | None = None


class WriteFiles(msgspec.Struct, array_like=True, tag="files", gc=False):
    """Request: write small files."""

    number: int
    packs: list[bytes]
    files: list[WireFile]


class WriteRange(msgspec.Struct, array_like=True, tag="range", gc=False):
    """Request: write consecutive blobs at `offset` of a temporary file that exists.

    `identity` is its device and inode.
    """

    number: int
    packs: list[bytes]
    directory: Parts
    name: bytes
    identity: tuple[int, int]
    offset: int
    blobs: list[WireBlob]


Request = WriteFiles | WriteRange


class WireError(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An error: the errno of an OSError, or class and message of one of ours."""

    errno: int = 0
    kind: str = ""
    message: str = ""

    @classmethod
    def of(cls, error: OSError | CesbrError) -> WireError:
        """Convert an exception."""
        if isinstance(error, OSError):
            return cls(error.errno or 0)
        return cls(0, type(error).__name__, error.message)

    def exception(self) -> OSError | CesbrError:
        """Convert it back."""
        if not self.kind:
            return OSError(self.errno, "")
        found = getattr(errors, self.kind, RestoreError)
        made = found(self.message)
        return made if isinstance(made, CesbrError) else RestoreError(self.message)


class Reply(msgspec.Struct, array_like=True, gc=False):
    """The reply to a request, with results by the position of the file.

    Files are written unless they are in `skipped`, `failed` or `unread`. The content of `unread`
    ones could not be read: the restore reads it itself, with all its alternatives, and reports what
    fails. `warnings` are arguments for `Warnings.add`. The result for a range has position 0.
    """

    number: int
    written_bytes: int = 0
    skipped: list[int] = []
    failed: dict[int, WireError] = {}
    unread: list[int] = []
    identities: dict[int, tuple[int, int]] = {}
    warnings: list[tuple[str, bytes, str, int]] = []

    def add(self, position: int, result: FileResult) -> None:
        """Add the result for a file."""
        outcome = result.outcome
        if not isinstance(outcome, Done):
            self.failed[position] = WireError.of(outcome)
        elif outcome is Done.SKIPPED:
            self.skipped.append(position)
        elif result.identity is not None:
            self.identities[position] = result.identity

    def result(self, position: int) -> FileResult:
        """Return the result for a file that is not `unread`."""
        outcome: Outcome = Done.WRITTEN
        if position in self.failed:
            outcome = self.failed[position].exception()
        elif position in self.skipped:
            outcome = Done.SKIPPED
        return FileResult(outcome, self.identities.get(position))


_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return a message with its length in front."""
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data
