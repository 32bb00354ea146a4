"""Access ACLs as extended attributes: apply masks and ID maps. Pure.

Format (linux/posix_acl_xattr.h): a version u32, then ``tag u16 | permissions u16 | ID u32`` for
each entry, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

_VERSION: Final = struct.pack("<I", 2)
_ENTRY: Final = struct.Struct("<HHI")
_USER_OBJ: Final = 0x01
_USER: Final = 0x02
_GROUP_OBJ: Final = 0x04
_GROUP: Final = 0x08
_MASK: Final = 0x10
_OTHER: Final = 0x20

MapId = Callable[[int], int]


def adapt(acl: bytes, removed: int, user: MapId, group: MapId) -> bytes:
    """Remove the permission bits `removed` from an ACL as chmod(2) would, and map its IDs.

    The group bits are those of the mask if there is one: it limits all named entries. An ACL in an
    unknown format is returned unchanged; the kernel refuses access to its file.
    """
    if not acl.startswith(_VERSION) or (len(acl) - len(_VERSION)) % _ENTRY.size:
        return acl
    entries = list(_ENTRY.iter_unpack(acl[len(_VERSION) :]))
    has_mask = any(tag == _MASK for tag, _, _ in entries)
    taken = {
        _USER_OBJ: removed >> 6 & 7,
        _MASK if has_mask else _GROUP_OBJ: removed >> 3 & 7,
        _OTHER: removed & 7,
    }
    adapted = [_VERSION]
    for tag, permissions, number in entries:
        shown = number
        if tag == _USER:
            shown = user(number)
        elif tag == _GROUP:
            shown = group(number)
        adapted.append(_ENTRY.pack(tag, permissions & ~taken.get(tag, 0), shown))
    return b"".join(adapted)
