"""Fuzz targets: each passes any bytes to one parser and checks what it may do with them.

A target returns if the parser keeps its contract: it raises only the errors that its docstring
names, and what it returns agrees with a second way to get it (the inverse function, another parser
of the same format, or Python's json). Everything else is an error of the parser. Encrypted formats
are sealed with fixed keys first, so that the data reaches the parser behind the MAC.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cesbrfs.catalog.manifest import parse_manifest, write_manifest
from cesbrfs.ces.dogu import parse_dogu
from cesbrfs.ces.encryption import InvalidCiphertextError, parse_encrypted
from cesbrfs.errors import DamagedError, DoguError
from cesbrfs.fuse.posix_acl import adapt
from cesbrfs.repo.format.crypto import (
    OVERHEAD,
    BadMacError,
    Keys,
    keys_from_bytes,
    open_master_key,
    open_record,
    seal_record,
)
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.index_segment import _parse_columns, _parse_entries, parse_segment
from cesbrfs.repo.format.model import (
    KeyFile,
    parse_config,
    parse_index,
    parse_key_file,
    parse_lock,
    parse_snapshot,
)
from cesbrfs.repo.format.pack import (
    BlobLocation,
    BlobType,
    decode_blob,
    decode_unpacked,
    header_length,
    parse_header,
)
from cesbrfs.repo.format.tree import (
    NAME_MAX,
    find_node,
    parse_entries,
    parse_names,
    parse_node,
    parse_tree,
    split_nodes,
    unquote,
)
from cesbrfs.repo.kdf import scrypt_key, work_of
from cesbrfs.repo.storage.sftp import protocol as sftp
from cesbrfs.repo.storage.sftp.protocol import Incoming, Kind, Packet, ProtocolError
from cesbrfs.restore.journal import PreviousRun
from cesbrfs.restore.undo_log import UndoRecord
from cesbrfs.util.escape import for_json, printable, printable_lines, show, unprintable, unshow
from tests.fuzz.http_targets import fuzz_http, fuzz_listing

_KEYS: Final = Keys(bytes(range(32)), bytes(range(16)), bytes(range(100, 116)))
_NONCE: Final = bytes(15) + b"\1"
_ID: Final = bytes(32)
_DECODED_MAX: Final = 1 << 20
_WORK_MAX: Final = 1 << 12
"""scrypt's work that a fuzzer can afford; more would only test scrypt."""

Target = Callable[[bytes], None]


def fuzz_crypto(data: bytes) -> None:
    """Records: only what was sealed with the same keys opens, and it opens to what it was."""
    with contextlib.suppress(DamagedError):
        opened = open_record(_KEYS, data)
        assert seal_record(_KEYS, opened, data[:16]) == data
    nonce, plain = data[:16].ljust(16, b"\1"), data[16:]
    if nonce == bytes(16):
        return
    record = seal_record(_KEYS, plain, nonce)
    assert open_record(_KEYS, record) == plain
    assert open_record(_KEYS, memoryview(record)) == plain
    at = int.from_bytes(hashlib.sha256(data).digest()[:4], "big") % (8 * len(record))
    changed = bytearray(record)
    changed[at // 8] ^= 1 << at % 8
    try:
        open_record(_KEYS, bytes(changed))
    except BadMacError:
        return
    except DamagedError:
        assert not any(changed[:16])  # the nonce became zero
        return
    raise AssertionError("a changed record was opened")


def fuzz_key(data: bytes) -> None:
    """Key files, and master keys: they give three keys of the right lengths, or DamagedError."""
    with contextlib.suppress(DamagedError):
        key_file = parse_key_file(data)
        if work_of(key_file) <= _WORK_MAX:
            user_keys = keys_from_bytes(scrypt_key(b"password", key_file))
            open_master_key(user_keys, key_file)
    with contextlib.suppress(DamagedError):
        sealed = KeyFile(data=seal_record(_KEYS, data, _NONCE))
        keys = open_master_key(_KEYS, sealed)
        assert (len(keys.encrypt), len(keys.mac_k), len(keys.mac_r)) == (32, 16, 16)


def fuzz_config(data: bytes) -> None:
    """The config: its version and ID are those that Python's json finds."""
    with contextlib.suppress(DamagedError):
        config = parse_config(data)
        parsed = json.loads(data.decode(errors="replace"))  # unknown fields are not decoded
        assert config.version == parsed.get("version")
        assert config.id == parsed.get("id")


def fuzz_pack(data: bytes) -> None:
    """Pack headers: blobs adjoin, and writing them again gives the same header."""
    with contextlib.suppress(DamagedError):
        assert OVERHEAD < header_length(data, len(data)) < len(data)
    with contextlib.suppress(DamagedError):
        offset = 0
        parts: list[bytes] = []
        for kind, blob, place in parse_header(_KEYS, _ID, seal_record(_KEYS, data, _NONCE)):
            assert place.offset == offset
            assert len(blob) == len(_ID)
            offset += place.length
            parts += (bytes((kind | place.compressed << 1,)), place.length.to_bytes(4, "little"))
            if place.compressed:
                parts.append(place.uncompressed_length.to_bytes(4, "little"))
            parts.append(blob)
        assert b"".join(parts) == data


def fuzz_blob(data: bytes) -> None:
    """Blobs and compressed files: nothing is longer than allowed, or has another SHA-256."""
    compressed, length, plain = bool(data[:1] > b"\x7f"), int.from_bytes(data[1:3]), data[3:]
    blob = hashlib.sha256(plain).digest()
    record = seal_record(_KEYS, plain, _NONCE)
    place = BlobLocation(_ID, 0, len(record), length, compressed)
    with contextlib.suppress(DamagedError):
        content = decode_blob(_KEYS, blob, record, place)
        assert len(content) == length
        assert hashlib.sha256(content).digest() == blob
    with contextlib.suppress(DamagedError):
        assert len(decode_unpacked(_KEYS, record, _DECODED_MAX)) <= max(_DECODED_MAX, len(plain))


def fuzz_index(data: bytes) -> None:
    """Index files: both parsers agree, and each blob is found where the file has it."""
    quick = _parse_columns(data, lambda _: 0)
    try:
        slow = _parse_entries(data, "name")
    except DamagedError:
        assert quick is None
        return
    if quick is not None:
        assert (quick.packs, bytes(quick.rows)) == (slow.packs, bytes(slow.rows))
    segment = parse_segment(data, "name")
    index = Index.of({"00" * 32: segment})
    for pack in parse_index(data).packs or ():
        for blob in pack.blobs or ():
            kind = BlobType.TREE if blob.type == "tree" else BlobType.DATA
            place = BlobLocation(
                bytes.fromhex(pack.id),
                blob.offset,
                blob.length,
                blob.uncompressed_length or blob.length - OVERHEAD,
                bool(blob.uncompressed_length),
            )
            assert place in index.places(kind, bytes.fromhex(blob.id))


def fuzz_tree(data: bytes) -> None:
    """Trees: all five parsers find the same names, which a directory can hold."""
    try:
        tree = parse_tree(data)
    except DamagedError:
        for parse in (parse_entries, parse_names, split_nodes):
            with contextlib.suppress(DamagedError):
                parse(data)
        return
    split = [parse_node(raw) for raw in split_nodes(data)]
    first = {node.name: node for node in reversed([node for node in split if node is not None])}
    assert first == tree.nodes
    for name, node in tree.nodes.items():
        assert 0 < len(name) <= NAME_MAX
        assert b"\0" not in name
        assert name == b"/" or b"/" not in name
        assert name != b".."
        assert find_node(data, name) == node
        for number in (node.size, node.mode, node.uid, node.gid, node.links, node.inode):
            assert number >= 0
    rows, _ = parse_entries(data)
    names = {row.name for row in rows.listed}
    assert tree.nodes.keys() - {b".", b"/"} <= names  # which do not look at the content
    assert names <= parse_names(data).keys()


def fuzz_snapshot(data: bytes) -> None:
    """Snapshots, locks and manifests: DamagedError, or values of the right types."""
    with contextlib.suppress(DamagedError):
        snapshot = parse_snapshot(data, "00" * 32)
        assert snapshot.tree is None or len(snapshot.tree) == len(_ID)
        for text in (*snapshot.paths, *snapshot.tags, snapshot.hostname, snapshot.username):
            text.encode()
    with contextlib.suppress(DamagedError):
        assert parse_lock(data, "00" * 32).id == "00" * 32
    with contextlib.suppress(DamagedError):
        manifest = parse_manifest(data)
        assert parse_manifest(write_manifest(manifest)) == manifest


def fuzz_sftp(data: bytes) -> None:
    """SFTP: packets are the same however the stream is cut, and responses parse or do not."""
    half = data[0] % (len(data) + 1) if data else 0
    packets, error = _packets([data])
    assert (packets, error) == _packets([data[:half], data[half:]])
    for packet in packets:
        for kind, parse in _RESPONSES.items():
            for sent in (packet, packet._replace(kind=kind)):
                with contextlib.suppress(ProtocolError):
                    parse(sent)
                    assert sent.kind == kind


_RESPONSES: Final[Mapping[Kind, Callable[[Packet], object]]] = {
    Kind.VERSION: sftp.parse_version,
    Kind.STATUS: sftp.parse_status,
    Kind.HANDLE: sftp.parse_handle,
    Kind.DATA: sftp.parse_data,
    Kind.ATTRS: sftp.parse_attributes,
    Kind.NAME: sftp.parse_names,
    Kind.EXTENDED_REPLY: sftp.parse_limits,
}


def _packets(parts: list[bytes]) -> tuple[list[Packet], bool]:
    incoming = Incoming()
    packets: list[Packet] = []
    try:
        for part in parts:
            packets.extend(incoming.feed(part))
    except ProtocolError:
        return packets, True
    return packets, False


def fuzz_escape(data: bytes) -> None:
    """Names: what a terminal gets has no control characters, and escaping can be undone."""
    shown = show(data)
    assert unshow(shown) == data
    text = data.decode("utf-8", "surrogateescape")
    for line in (shown, printable(text), *printable_lines(text).split("\n")):
        assert not [character for character in line if unprintable(character)]
        line.encode()
    shown_again = unshow(text)
    assert shown_again is None or unshow(show(shown_again)) == shown_again
    json.dumps(for_json(data)).encode("ascii")
    with contextlib.suppress(ValueError):
        unquote(data.decode())
    with contextlib.suppress(ValueError):
        unquoted = unquote(data.decode("latin-1"))
        assert "\\" in data.decode("latin-1") or unquoted == data.decode("latin-1").encode()


def fuzz_journal(data: bytes) -> None:
    """Restore journals and undo logs: lines that are no records are ignored."""
    journal, undo = PreviousRun(), UndoRecord("id", Path("log"))
    for line in data.split(b"\n"):
        journal.take(line, "boot")
        undo.take(line)


def fuzz_document(data: bytes) -> None:
    """Documents of dogus, and encrypted values in a registry."""
    text = data.decode(errors="replace")
    with contextlib.suppress(DoguError):
        parse_dogu(text)
    with contextlib.suppress(InvalidCiphertextError):
        parse_encrypted(text, range(1000))


def fuzz_acl(data: bytes) -> None:
    """ACLs in extended attributes: any value has the same length afterwards."""
    assert len(adapt(data, 0o077, lambda uid: uid ^ 1, lambda gid: gid ^ 1)) == len(data)
    assert adapt(data, 0, int, int) == data


TARGETS: Final[Mapping[str, Target]] = {
    "crypto": fuzz_crypto,
    "key": fuzz_key,
    "config": fuzz_config,
    "pack": fuzz_pack,
    "blob": fuzz_blob,
    "index": fuzz_index,
    "tree": fuzz_tree,
    "snapshot": fuzz_snapshot,
    "sftp": fuzz_sftp,
    "http": fuzz_http,
    "listing": fuzz_listing,
    "escape": fuzz_escape,
    "journal": fuzz_journal,
    "document": fuzz_document,
    "acl": fuzz_acl,
}
"""All targets by name; the corpus of each is the directory of its name in ``corpus``."""
