"""Parse and write manifest.json, the planned content of a backup, written last. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from cesbrfs.errors import DamagedError

FILE_NAME: Final = "manifest.json"
FORMAT: Final = 1


class FailedPath(msgspec.Struct, omit_defaults=True, gc=False):
    """A path that failed; `path_b64` is set in addition if the path is not UTF-8."""

    path: str
    error: str
    path_b64: str | None = None


class Point(msgspec.Struct, gc=False):
    """One point of data: its full snapshot ID (None if it failed) and its size in bytes.

    `tree` is the tree ID of the snapshot (64 hex digits); older versions did not write it.
    """

    kind: str
    dogu: str | None = None
    snapshot: str | None = None
    bytes: int | None = None
    failed: list[FailedPath] = []
    tree: str | msgspec.UnsetType = msgspec.UNSET


class Manifest(msgspec.Struct, gc=False):
    """The content of manifest.json.

    `time` is the start of the backup, RFC 3339 in UTC with nanoseconds.
    """

    format: int
    id: str
    time: str
    host: str
    points: list[Point]

    @property
    def size(self) -> int | None:
        """Total bytes of all points, None if one is unknown."""
        sizes = [point.bytes for point in self.points]
        return None if None in sizes else sum(size for size in sizes if size is not None)


_decoder = msgspec.json.Decoder(Manifest)


def parse_manifest(data: bytes) -> Manifest:
    """Parse manifest.json; raises DamagedError if it is invalid or of a later format."""
    try:
        manifest = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"manifest.json of a backup is invalid: {error}.") from error
    if manifest.format != FORMAT:
        raise DamagedError(
            f"manifest.json of a backup has format {manifest.format}, which this version does not"
            " support. Update cesbrfs."
        )
    return manifest


def write_manifest(manifest: Manifest) -> bytes:
    """Encode manifest.json, indented."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
