"""manifest.json: what a backup of ours was to hold, written last.  Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from cesbrfs.errors import DamagedError

FILE_NAME: Final = "manifest.json"
FORMAT: Final = 1


class FailedPath(msgspec.Struct, omit_defaults=True, gc=False):
    """A path that could not be backed up; `path_b64` stands beside one that is not UTF-8."""

    path: str
    error: str
    path_b64: str | None = None


class Point(msgspec.Struct, gc=False):
    """One point of data: `snapshot` is its full ID, None when it failed whole; `bytes` its size.

    `tree` is the ID of the snapshot's tree (64 hex digits); older versions did not write it.
    """

    kind: str
    dogu: str | None = None
    snapshot: str | None = None
    bytes: int | None = None
    failed: list[FailedPath] = []
    tree: str | msgspec.UnsetType = msgspec.UNSET


class Manifest(msgspec.Struct, gc=False):
    """The whole file.  `time` is when the backup began, RFC 3339 in UTC with nanoseconds."""

    format: int
    id: str
    time: str
    host: str
    points: list[Point]

    @property
    def size(self) -> int | None:
        """The bytes of all points together, None when one of them does not tell."""
        sizes = [point.bytes for point in self.points]
        return None if None in sizes else sum(size for size in sizes if size is not None)


_decoder = msgspec.json.Decoder(Manifest)


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json; DamagedError when it is none, or one of a later format."""
    try:
        manifest = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"A backup's manifest.json cannot be understood ({error}).") from error
    if manifest.format != FORMAT:
        raise DamagedError(
            f"A backup's manifest.json has format {manifest.format}; a newer version of this"
            " program reads it."
        )
    return manifest


def write_manifest(manifest: Manifest) -> bytes:
    """Write manifest.json, indented for people."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
