"""Encode Backup IDs and dogu names as directory names. Pure.

Bytes that are invalid in a name or would collide with a generated name are percent-encoded: ``/``,
NUL, ``%``, a leading ``.`` or ``_``, and the first byte of reserved words. A result of over 255
bytes is truncated, followed by ``~`` and 32 hex digits of the SHA-256 of the whole ID. An ID that
itself looks like such a result gets its own digits, so that nobody can choose an ID whose name
collides.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Final

from cesbrfs.repo.format.tree import NAME_MAX

LATEST: Final = b"latest"
BACKUP_JSON: Final = b"backup.json"
INSTANCE: Final = b"_instance"
SNAPSHOTS: Final = b"_snapshots"
DOGUS: Final = b"_dogus"
VERSIONS: Final = b"_versions"
CONFIGURATION: Final = b"configuration"
VOLUMES: Final = b"volumes"
DUMPS: Final = b"dumps"
REGISTRY_JSON: Final = b"registry.json"
DOGU_JSON: Final = b"dogu.json"
STATUS_DIRECTORY: Final = b".cesbrfs"

_KINDS: Final[Mapping[str, bytes]] = {
    "metadata": DOGU_JSON,
    "registry": REGISTRY_JSON,
    "volumes": VOLUMES,
    "configuration": CONFIGURATION,
    "dump": DUMPS,
}
"""The name below a dogu, or below the instance, of a point of data."""

_RESERVED: Final = frozenset({LATEST, BACKUP_JSON})
_ALWAYS_ESCAPED: Final = frozenset(b"/%\0")
_ESCAPED_AT_START: Final = frozenset(b"._")
_HASH_DIGITS: Final = 32
"""128 bits: two IDs with the same digits cannot be found."""
_CUT: Final = re.compile(rb"~[0-9a-f]{%d}\Z" % _HASH_DIGITS)
_SHORTER_MAX: Final = 5
_CUT_MIN: Final = NAME_MAX - _SHORTER_MAX
"""Bytes of a cut name at least."""
_EXTENSION_MAX: Final = 16
"""Bytes of an extension at most, with its dot."""
_LATEST: Final = re.compile(r"latest(?:~(\d{0,4}))?", re.ASCII)


def steps_back(name: str) -> int | None:
    """Return N of ``latest~N``: 0 for ``latest``, 1 for ``latest~``; None for any other name."""
    found = _LATEST.fullmatch(name)
    if found is None:
        return None
    return 0 if found[1] is None else int(found[1] or 1)


def directory_name(text: str) -> bytes:
    """Return the directory name of a Backup ID or a dogu (at most 255 bytes)."""
    raw = text.encode("utf-8", "surrogateescape")
    is_reserved = raw in _RESERVED
    name = b"".join(
        b"%%%02X" % byte
        if byte in _ALWAYS_ESCAPED or (at == 0 and (is_reserved or byte in _ESCAPED_AT_START))
        else bytes((byte,))
        for at, byte in enumerate(raw)
    )
    if len(name) > NAME_MAX or (len(name) >= _CUT_MIN and _CUT.search(name)):
        digest = hashlib.sha256(raw).hexdigest()[:_HASH_DIGITS].encode()
        name = _cut(name, NAME_MAX - len(digest) - 1) + b"~" + digest
    return name


def version_name(stamp: bytes, backup: bytes, name: bytes) -> bytes:
    """Return the name of a version of the file `name`: ``<stamp>--<backup><extension>``.

    `backup` is the directory name of a backup, so that versions of a file have different names.
    """
    extension = os.path.splitext(name)[1]
    if len(extension) > _EXTENSION_MAX:
        extension = b""
    room = NAME_MAX - len(stamp) - len(b"--") - len(extension)
    if len(backup) > room:
        digest = hashlib.sha256(backup).hexdigest()[:_HASH_DIGITS].encode()
        backup = _cut(backup, room - len(digest) - 1) + b"~" + digest
    return stamp + b"--" + backup + extension


def point_path(kind: str, dogu: str | None) -> tuple[bytes, ...]:
    """Return the path below a backup of a point of data; `dogu` None is the instance."""
    owner = directory_name(dogu) if dogu else INSTANCE
    return owner, _KINDS.get(kind, os.fsencode(kind))


def _cut(name: bytes, length: int) -> bytes:
    """Return the first `length` bytes, or up to 5 fewer: no part of an escape or a character."""
    for end in range(length, length - _SHORTER_MAX - 1, -1):
        in_character = name[end] & 0xC0 == 0x80  # noqa: PLR2004 - a byte inside UTF-8
        if not in_character and b"%" not in name[end - 2 : end]:
            return name[:end]
    return name[:length]
