"""SFTP version 3 for reading: encode requests and decode responses. Pure.

Source: draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for ``limits@openssh.com``. Integers
are big-endian. A packet is ``u32 length | u8 kind | u32 request number | …``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple

VERSION: Final = 3
LIMITS: Final = b"limits@openssh.com"
LARGEST: Final = 1 << 20
"""Maximum `length` of a packet; a larger one is invalid. Servers send at most 256 KiB."""
SMALLEST_READ: Final = 32 << 10
"""Bytes that every server can return in one packet."""
_HEAD: Final = 5
"""Minimum `length` of a packet: the bytes of kind and request number."""


class ProtocolError(Exception):
    """Received data is not SFTP; `start` is its beginning."""

    def __init__(self, start: bytes) -> None:
        super().__init__("not SFTP")
        self.start = start


class Kind(IntEnum):
    """The packet types that are sent or handled."""

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
    """The codes of a STATUS that are handled individually."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4


class Packet(NamedTuple):
    """A response; `number` is that of the request or, in VERSION, the protocol version."""

    kind: int
    number: int
    body: bytes


class SftpStatus(NamedTuple):
    """The result of a request; `message` is the server's text."""

    code: int
    message: str


class Attributes(NamedTuple):
    """The size in bytes and the st_mode of a file; None if the server does not report it."""

    size: int | None
    mode: int | None


class SftpName(NamedTuple):
    """An entry of a directory."""

    name: bytes
    attributes: Attributes


class Limits(NamedTuple):
    """The server's limits: bytes of a packet, a read and a write; open handles. 0 is no limit."""

    packet: int
    read: int
    write: int
    handles: int


# Requests: each function returns the bytes of a packet.


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _request(kind: Kind, number: int, rest: bytes) -> bytes:
    return struct.pack(">IBI", _HEAD + len(rest), kind, number) + rest


def init() -> bytes:
    """Request the protocol version; must be the first packet. The response is VERSION."""
    return _request(Kind.INIT, VERSION, b"")


def open_file(number: int, path: bytes) -> bytes:
    """Open a file for reading. The response is HANDLE."""
    return _request(Kind.OPEN, number, _string(path) + struct.pack(">II", 1, 0))


def close(number: int, handle: bytes) -> bytes:
    """Close a file or a directory. The response is STATUS."""
    return _request(Kind.CLOSE, number, _string(handle))


def read(number: int, handle: bytes, offset: int, length: int) -> bytes:
    """Read a range of a file. The response is DATA, which may be shorter, or STATUS EOF."""
    return _request(Kind.READ, number, _string(handle) + struct.pack(">QI", offset, length))


def stat(number: int, path: bytes) -> bytes:
    """Request the attributes of a file, following symlinks. The response is ATTRS."""
    return _request(Kind.STAT, number, _string(path))


def open_directory(number: int, path: bytes) -> bytes:
    """Open a directory. The response is HANDLE."""
    return _request(Kind.OPENDIR, number, _string(path))


def read_directory(number: int, handle: bytes) -> bytes:
    """Request the next entries of a directory. The response is NAME, or STATUS EOF."""
    return _request(Kind.READDIR, number, _string(handle))


def limits(number: int) -> bytes:
    """Request the server's limits, if VERSION lists `LIMITS`. The response is EXTENDED_REPLY."""
    return _request(Kind.EXTENDED, number, _string(LIMITS))


# Responses


class Incoming:
    """Splits a stream of bytes into packets."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Add received bytes and yield the complete packets; ProtocolError for an invalid one."""
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
    """Reads the fields of a packet's body; ProtocolError if the body is too short."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._place = 0

    def take(self, length: int) -> bytes:
        end = self._place + length
        if end > len(self._body):
            raise ProtocolError(self._body[:200])
        data = self._body[self._place : end]
        self._place = end
        return data

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
    """Return the server's extensions; ProtocolError if its version is not 3."""
    fields = _fields(packet, Kind.VERSION)
    if packet.number != VERSION:
        raise ProtocolError(packet.body[:200])
    extensions: dict[bytes, bytes] = {}
    while not fields.at_end:
        name = fields.string()
        extensions[name] = fields.string()
    return extensions


def parse_status(packet: Packet) -> SftpStatus:
    """Return the code and message of a STATUS; old servers omit the message."""
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
    names: list[SftpName] = []
    for _ in range(fields.number()):
        name = fields.string()
        fields.string()  # the long form of the entry, as in `ls -l`
        names.append(SftpName(name, fields.attributes()))
    return names


def parse_limits(packet: Packet) -> Limits:
    """Return the limits in the response to `limits`."""
    fields = _fields(packet, Kind.EXTENDED_REPLY)
    return Limits(fields.long(), fields.long(), fields.long(), fields.long())
