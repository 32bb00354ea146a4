"""Parse restic's tree blobs (JSON) into nodes. Pure.

Almost all trees are parsed by `tree_decoder.decode_nodes`. In the others each entry is parsed
separately, and entries that no file system can show are refused.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.direntry import DirEntries, DirEntry
from cesbrfs.repo.format.model import Lenient, Node, Tree, decode
from cesbrfs.repo.format.tree_decoder import (
    FORMATS,
    FullRawNode,
    RawXattr,
    decode_entries,
    decode_nodes,
    entry_of,
    node_of,
)

_E = TypeVar("_E", Node, DirEntry)

NAME_MAX: Final = 255
DIRECTORY: Final = -1
OTHER: Final = -2
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1
_S64: Final = (1 << 63) - 1


class _RawNode(Lenient):
    name: str
    type: str | None = None
    mode: int | None = None
    mtime: str | None = None
    atime: str | None = None
    ctime: str | None = None
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    inode: int | None = None
    device_id: int | None = None
    size: int | None = None
    links: int | None = None
    linktarget: str | None = None
    linktarget_raw: bytes | None = None
    extended_attributes: list[RawXattr] | None = None
    device: int | None = None
    content: list[str] | None = None
    subtree: str | None = None


class _RawTree(Lenient):
    nodes: list[msgspec.Raw] | None = None


class _NameAlone(Lenient):
    name: str


class _RawName(Lenient):
    """Of a `_RawNode` only what names are completed with."""

    name: str
    type: str | None = None
    size: int | None = None


class _RawNames(Lenient):
    nodes: list[_RawName] | None = None


_tree = msgspec.json.Decoder(_RawTree)
_node = msgspec.json.Decoder(_RawNode)
_short = msgspec.json.Decoder(_RawName)
_name_alone = msgspec.json.Decoder(_NameAlone)
_names = msgspec.json.Decoder(_RawNames)


def parse_tree(data: bytes, what: str = "tree") -> Tree:
    """Read a tree blob; DamagedError when it is none.

    Names that no directory can hold (empty, ``..``, with a slash or NUL, a second of the same name)
    and types nothing can show are refused one by one, never altered.
    """
    nodes = decode_nodes(data)
    return Tree.of(nodes) if nodes is not None else Tree.of(*_entries(data, what, node_of))


def split_nodes(data: bytes, what: str = "tree") -> list[bytes]:
    """Return the JSON of each node of a tree blob; DamagedError if it is no tree.

    restic writes equal nodes as equal JSON, so a node that occurs in many trees can be parsed once.
    """
    return [bytes(raw) for raw in decode(_tree, data, what).nodes or ()]


def parse_node(raw: bytes) -> Node | None:
    """Parse the JSON of one node; None if no file system can show it."""
    try:
        return node_of(*_checked(_node.decode(raw)))
    except Exception:  # noqa: BLE001 - whatever it is, it is this entry's alone
        return None


def find_node(data: bytes, name: bytes, what: str = "tree") -> Node | None:
    """Return the node of this name in a tree blob, without parsing the others."""
    for raw in decode(_tree, data, what).nodes or ():
        with contextlib.suppress(ValueError, RecursionError):
            if _name(_name_alone.decode(raw).name) == name:
                node = parse_node(bytes(raw))
                if node is not None:
                    return node
    return None


def parse_entries(data: bytes, what: str = "tree") -> tuple[DirEntries, list[str]]:
    """Read a tree blob in short: its rows, and what was refused; raises as `parse_tree`.

    What content a file has is not looked at.
    """
    quick = decode_entries(data)
    if quick is not None:
        return DirEntries(quick), []
    rows, refused, _ = _entries(data, what, entry_of)
    special = [rows.pop(name) for name in (b".", b"/") if name in rows]
    return DirEntries(list(rows.values()), special=bool(special)), refused


def _entries(
    data: bytes, what: str, make: Callable[[bytes, FullRawNode], _E]
) -> tuple[dict[bytes, _E], list[str], dict[bytes, str]]:
    """Return what `make` makes of each node, by name, and what was refused, with the reasons.

    The third part has the reasons by name, for refused entries whose name a directory can hold.
    """
    found: dict[bytes, _E] = {}
    refused: list[str] = []
    unknown: dict[bytes, str] = {}
    for raw in decode(_tree, data, what).nodes or ():
        try:
            made = make(*_checked(_node.decode(raw)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this entry's alone
            text = ""
            with contextlib.suppress(ValueError, RecursionError):
                text = _name_alone.decode(raw).name
                unknown[_name(text)] = str(error)
                unknown.pop(b".", None)
                unknown.pop(b"/", None)
            refused.append(f"{text!r}: {error}")
            continue
        if made.name in found:
            text = _name_alone.decode(raw).name
            refused.append(f"{text!r}: duplicate name")
            continue
        found[made.name] = made
    for name in found.keys() & unknown.keys():
        del unknown[name]
    return found, refused, unknown


def parse_names(data: bytes, what: str = "tree") -> dict[bytes, int]:
    """Parse only the names of a tree blob: map each to a file's size, DIRECTORY or OTHER."""
    found: dict[bytes, int] = {}
    for raw in _short_entries(data, what):
        try:
            name = _name(raw.name)
        except ValueError:
            continue
        if raw.type in FORMATS and name not in (b".", b"/"):
            other = DIRECTORY if raw.type == "dir" else OTHER
            found.setdefault(name, max(raw.size or 0, 0) if raw.type == "file" else other)
    return found


def _short_entries(data: bytes, what: str) -> Iterable[_RawName]:
    """Return the entries of a tree blob that can be decoded; DamagedError when it is none."""
    with contextlib.suppress(DamagedError):
        return decode(_names, data, what).nodes or ()
    found: list[_RawName] = []
    for raw in decode(_tree, data, what).nodes or ():
        with contextlib.suppress(ValueError, RecursionError):
            found.append(_short.decode(raw))
    return found


def _checked(raw: _RawNode) -> tuple[bytes, FullRawNode]:
    """Return an entry's name, and the entry without what is null; ValueError where it cannot be."""
    name = _name(raw.name)
    kind = raw.type or ""
    if kind not in FORMATS:
        raise ValueError(f"unknown type {kind!r}")
    size, links, inode, device = raw.size or 0, raw.links or 0, raw.inode or 0, raw.device or 0
    device_id, uid, gid, mode = raw.device_id or 0, raw.uid or 0, raw.gid or 0, raw.mode or 0
    # One that is negative or has too many bits shows in all of them together.
    if not (
        0 <= links | inode | device | device_id <= _U64
        and 0 <= uid | gid | mode <= _U32
        and 0 <= size <= _S64
    ):
        raise ValueError("number out of range")
    return name, FullRawNode(
        name=raw.name,
        type=kind,  # type: ignore[arg-type]  # a key of FORMATS is one
        mode=mode,
        mtime=raw.mtime or "",
        atime=raw.atime or "",
        ctime=raw.ctime or "",
        uid=uid,
        gid=gid,
        inode=inode,
        device_id=device_id,
        size=size,
        links=links,
        linktarget=raw.linktarget or "",
        linktarget_raw=raw.linktarget_raw or b"",
        extended_attributes=raw.extended_attributes,
        device=device,
        subtree=raw.subtree,
        user=raw.user or "",
        group=raw.group or "",
        content=raw.content,
    )


def _name(text: str) -> bytes:
    """Return the name as bytes; ValueError for one that no directory can hold."""
    name = text.encode() if "\\" not in text else unquote(text)
    if (
        not 0 < len(name) <= NAME_MAX
        or name == b".."
        or b"\0" in name
        or (b"/" in name and name != b"/")
    ):
        raise ValueError("invalid file name")
    return name


_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)
_SIMPLE: Final[Mapping[str, bytes]] = {
    "a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v",
    "\\": b"\\", '"': b'"', "'": b"'",
}  # fmt: skip


def unquote(text: str) -> bytes:
    r"""Undo Go's ``strconv.Quote`` (without its quotes); ValueError for an escape it never writes.

    ``\xNN`` is a raw byte, ``\uNNNN`` and ``\UNNNNNNNN`` are code points.
    """
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[end : match.start()].encode())
        end = match.end()
        byte, short, long, octal, simple = match.groups()
        if byte:
            parts.append(bytes((int(byte, 16),)))
        elif short or long:
            code = int(short or long, 16)
            if code > sys.maxunicode:
                raise ValueError(f"invalid code point {code:#x} in its name")
            parts.append(chr(code).encode())
        elif octal:
            parts.append(bytes((int(octal, 8),)))
        elif simple in _SIMPLE:
            parts.append(_SIMPLE[simple])
        else:
            raise ValueError(f"unknown escape \\{simple} in its name")
    rest = text[end:]
    if "\\" in rest:
        raise ValueError("truncated escape in its name")
    parts.append(rest.encode())
    return b"".join(parts)
