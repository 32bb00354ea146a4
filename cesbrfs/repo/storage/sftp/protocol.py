"""SFTP version 3 as a reader needs it: requests as bytes, answers out of bytes; pure.

Source: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for ``limits@openssh.com``.  Numbers
are big-endian; a packet is ``u32 length | u8 kind | u32 request number | …``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

VERSION: Final = 3
LIMITS: Final = b"limits@openssh.com"
LARGEST: Final = 1 << 20
"""Bytes of a packet beyond which it cannot be one; servers stop at 256 KiB."""
SMALLEST_READ: Final = 32 << 10
"""What every server answers in one packet."""
_HEAD: Final = 5
"""Bytes of a packet that `length` counts at least: kind and number."""


class ProtocolError(Exception):
    """What came is not SFTP; `start` is how it begins."""

    def __init__(self, start: bytes) -> None:
        super().__init__("not SFTP")
        self.start = start


class Kind(IntEnum):
    """The packets that are sent or understood."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    OPENDIR = 11
    READDIR = 12
    STAT = 17
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """The codes of a STATUS that mean something of their own here."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4


class Packet(NamedTuple):
    """One answer; `number` is the request's, or in VERSION the protocol's version."""

    kind: int
    number: int
    body: bytes


class SftpStatus(NamedTuple):
    """How a request ended; `message` is the server's own."""

    code: int
    message: str


class Attributes(NamedTuple):
    """What is known of a file: its size in bytes and its st_mode."""

    size: int | None
    mode: int | None


class SftpName(NamedTuple):
    """One name of a directory."""

    name: bytes
    attributes: Attributes


class Limits(NamedTuple):
    """What the server allows: bytes of a packet, of a read, of a write; open handles (0: any)."""

    packet: int
    read: int
    write: int
    handles: int


# Requests


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _request(kind: Kind, number: int, rest: bytes) -> bytes:
    return struct.pack(">IBI", _HEAD + len(rest), kind, number) + rest


def init() -> bytes:
    """Ask for the protocol's version; the first packet of all."""
    return _request(Kind.INIT, VERSION, b"")


def open_file(number: int, path: bytes) -> bytes:
    """Open a file for reading; answered by HANDLE."""
    return _request(Kind.OPEN, number, _string(path) + struct.pack(">II", 1, 0))


def close(number: int, handle: bytes) -> bytes:
    """Close a file or a directory; answered by STATUS."""
    return _request(Kind.CLOSE, number, _string(handle))


def read(number: int, handle: bytes, offset: int, length: int) -> bytes:
    """Read a part of a file; answered by DATA, which may be shorter, or STATUS EOF."""
    return _request(Kind.READ, number, _string(handle) + struct.pack(">QI", offset, length))


def stat(number: int, path: bytes) -> bytes:
    """Ask for a file's attributes, following links; answered by ATTRS."""
    return _request(Kind.STAT, number, _string(path))


def open_directory(number: int, path: bytes) -> bytes:
    """Open a directory; answered by HANDLE."""
    return _request(Kind.OPENDIR, number, _string(path))


def read_directory(number: int, handle: bytes) -> bytes:
    """Ask for the next names of a directory; answered by NAME, or STATUS EOF."""
    return _request(Kind.READDIR, number, _string(handle))


def limits(number: int) -> bytes:
    """Ask for the server's limits, where VERSION offers `LIMITS`; answered by EXTENDED_REPLY."""
    return _request(Kind.EXTENDED, number, _string(LIMITS))


# Answers


class Incoming:
    """Takes bytes as they come and gives whole packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Take more bytes and give the packets that are whole; ProtocolError for what is none."""
        buffer = self._buffer
        buffer += data
        place = 0
        try:
            while len(buffer) - place >= 4 + _HEAD:
                length, kind, number = struct.unpack_from(">IBI", buffer, place)
                if not _HEAD <= length <= LARGEST:
                    raise ProtocolError(bytes(buffer[place : place + 200]))
                end = place + 4 + length
                if end > len(buffer):
                    break
                with memoryview(buffer) as view:
                    body = bytes(view[place + 4 + _HEAD : end])
                place = end
                yield Packet(kind, number, body)
        finally:
            del buffer[:place]


class _Fields:
    """Reads the fields of one packet's body; each raises ProtocolError where it ends too early."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._place = 0

    def take(self, length: int) -> bytes:
        end = self._place + length
        if end > len(self._body):
            raise ProtocolError(self._body[:200])
        found = self._body[self._place : end]
        self._place = end
        return found

    def number(self) -> int:
        return int.from_bytes(self.take(4))

    def long(self) -> int:
        return int.from_bytes(self.take(8))

    def string(self) -> bytes:
        return self.take(self.number())

    def attributes(self) -> Attributes:
        flags = self.number()
        size = self.long() if flags & 1 else None
        if flags & 2:
            self.take(8)  # owner and group
        mode = self.number() if flags & 4 else None
        if flags & 8:
            self.take(8)  # times
        for _ in range(self.number() if flags & 1 << 31 else 0):
            self.string()
            self.string()
        return Attributes(size, mode)

    @property
    def at_end(self) -> bool:
        return self._place >= len(self._body)


def _fields(packet: Packet, kind: Kind) -> _Fields:
    if packet.kind != kind:
        raise ProtocolError(packet.body[:200])
    return _Fields(packet.body)


def parse_version(packet: Packet) -> dict[bytes, bytes]:
    """Return the extensions that the server offers; ProtocolError for another version than 3."""
    fields = _fields(packet, Kind.VERSION)
    if packet.number != VERSION:
        raise ProtocolError(packet.body[:200])
    found: dict[bytes, bytes] = {}
    while not fields.at_end:
        name = fields.string()
        found[name] = fields.string()
    return found


def parse_status(packet: Packet) -> SftpStatus:
    """Return what a STATUS says; old servers leave the message out."""
    fields = _fields(packet, Kind.STATUS)
    code = fields.number()
    return SftpStatus(code, "" if fields.at_end else fields.string().decode("utf-8", "replace"))


def parse_handle(packet: Packet) -> bytes:
    """Return the handle of a HANDLE."""
    return _fields(packet, Kind.HANDLE).string()


def parse_data(packet: Packet) -> bytes:
    """Return the content of a DATA."""
    return _fields(packet, Kind.DATA).string()


def parse_attributes(packet: Packet) -> Attributes:
    """Return the attributes of an ATTRS."""
    return _fields(packet, Kind.ATTRS).attributes()


def parse_names(packet: Packet) -> list[SftpName]:
    """Return the entries of a NAME."""
    fields = _fields(packet, Kind.NAME)
    found: list[SftpName] = []
    for _ in range(fields.number()):
        name = fields.string()
        fields.string()  # the same for people, as `ls -l` shows it
        found.append(SftpName(name, fields.attributes()))
    return found


def parse_limits(packet: Packet) -> Limits:
    """Return what the answer to `limits` says."""
    fields = _fields(packet, Kind.EXTENDED_REPLY)
    return Limits(fields.long(), fields.long(), fields.long(), fields.long())
