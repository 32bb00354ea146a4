"""Encoding and decoding of SFTP packets, and invalid ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.repo.storage.sftp import protocol as sftp
from cesbrfs.repo.storage.sftp.protocol import (
    Attributes,
    Incoming,
    Kind,
    Limits,
    Packet,
    ProtocolError,
    SftpName,
    SftpStatus,
)

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
ATTRIBUTES = st.builds(Attributes, st.none() | U64, st.none() | U32)
ENTRIES = st.lists(st.builds(SftpName, st.binary(max_size=40), ATTRIBUTES), max_size=5)


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def packed(kind: int, number: int, body: bytes) -> bytes:
    return struct.pack(">IBI", 5 + len(body), kind, number) + body


def attributes(given: Attributes, *, more: bool = False) -> bytes:
    """Encode attributes like a server; `more` adds fields that we do not use."""
    flags = (given.size is not None) | (given.mode is not None) << 2
    parts = [struct.pack(">Q", given.size)] if given.size is not None else []
    if more:
        flags |= 2 | 8 | 1 << 31
        parts.append(struct.pack(">II", 1000, 1000))
    if given.mode is not None:
        parts.append(struct.pack(">I", given.mode))
    if more:
        parts.append(struct.pack(">II", 1, 2))
        parts.append(struct.pack(">I", 1) + string(b"acl@example.org") + string(b"x"))
    return struct.pack(">I", flags) + b"".join(parts)


def names(entries: list[SftpName], *, more: bool = False) -> bytes:
    parts = [string(e.name) + string(b"-rw") + attributes(e.attributes, more=more) for e in entries]
    return struct.pack(">I", len(entries)) + b"".join(parts)


def test_requests_are_as_the_draft_has_them() -> None:
    """Byte for byte as specified in the draft."""
    assert sftp.init() == b"\0\0\0\5\1\0\0\0\3"
    assert sftp.open_file(7, b"/a") == b"\0\0\0\x13\3\0\0\0\7\0\0\0\2/a\0\0\0\1\0\0\0\0"
    assert sftp.close(8, b"h") == b"\0\0\0\n\4\0\0\0\x08\0\0\0\1h"
    assert sftp.read(9, b"h", 1 << 32, 5) == (
        b"\0\0\0\x16\5\0\0\0\t\0\0\0\1h\0\0\0\1\0\0\0\0\0\0\0\5"
    )
    assert sftp.stat(1, b"p") == b"\0\0\0\n\x11\0\0\0\1\0\0\0\1p"
    assert sftp.open_directory(1, b"p") == b"\0\0\0\n\x0b\0\0\0\1\0\0\0\1p"
    assert sftp.read_directory(1, b"h") == b"\0\0\0\n\x0c\0\0\0\1\0\0\0\1h"
    assert sftp.limits(2) == b"\0\0\0\x1b\xc8\0\0\0\2\0\0\0\x12limits@openssh.com"


@given(
    st.lists(st.builds(Packet, st.integers(0, 255), U32, st.binary(max_size=60)), max_size=6),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_packets_come_out_however_they_are_cut(packets: list[Packet], cuts: list[int]) -> None:
    """The packets are the same, however the stream is split into chunks."""
    data = b"".join(packed(*packet) for packet in packets)
    incoming = Incoming()
    found: list[Packet] = []
    for cut in cuts:
        found += incoming.feed(data[:cut])
        data = data[cut:]
    found += incoming.feed(data)
    assert found == packets


@pytest.mark.parametrize("length", [0, 4, (1 << 20) + 1, 0xFFFFFFFF])
def test_a_length_that_no_packet_has(length: int) -> None:
    """Text instead of SFTP looks like a huge packet, which is an error."""
    start = struct.pack(">I", length) + b"Last login"
    with pytest.raises(ProtocolError) as caught:
        list(Incoming().feed(start))
    assert caught.value.start == start


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=20)))
def test_versions(extensions: dict[bytes, bytes]) -> None:
    """The extensions are parsed; another version is rejected."""
    body = b"".join(string(key) + string(value) for key, value in extensions.items())
    assert sftp.parse_version(Packet(Kind.VERSION, 3, body)) == extensions
    with pytest.raises(ProtocolError):
        sftp.parse_version(Packet(Kind.VERSION, 2, body))


@given(U32, st.text(max_size=20))
def test_statuses(code: int, message: str) -> None:
    """With message and language, and without them, as from old servers."""
    whole = Packet(Kind.STATUS, 1, struct.pack(">I", code) + string(message.encode()) + string(b""))
    assert sftp.parse_status(whole) == SftpStatus(code, message)
    assert sftp.parse_status(Packet(Kind.STATUS, 1, struct.pack(">I", code))) == SftpStatus(
        code, ""
    )


@given(st.binary(max_size=99))
def test_handles_and_data(data: bytes) -> None:
    """Both are a single string."""
    assert sftp.parse_handle(Packet(Kind.HANDLE, 1, string(data))) == data
    assert sftp.parse_data(Packet(Kind.DATA, 1, string(data))) == data


@given(ENTRIES, st.booleans())
def test_names_and_attributes(entries: list[SftpName], more: bool) -> None:
    """Size and mode are found, whatever other attributes are present."""
    packet = Packet(Kind.NAME, 1, names(entries, more=more))
    assert sftp.parse_names(packet) == entries
    for entry in entries:
        body = attributes(entry.attributes, more=more)
        assert sftp.parse_attributes(Packet(Kind.ATTRS, 1, body)) == entry.attributes


@given(st.builds(Limits, U64, U64, U64, U64))
def test_limits(given: Limits) -> None:
    """The limits are four numbers, in this order."""
    assert sftp.parse_limits(Packet(Kind.EXTENDED_REPLY, 1, struct.pack(">QQQQ", *given))) == given


@given(st.data())
def test_what_ends_too_early_or_is_of_another_kind(data: st.DataObject) -> None:
    """A truncated response is never accepted."""
    entry = SftpName(b"name", Attributes(5, 0o100644))
    parse, kind, body = data.draw(
        st.sampled_from(
            [
                (sftp.parse_version, Kind.VERSION, string(b"a") + string(b"1")),
                (sftp.parse_status, Kind.STATUS, struct.pack(">I", 4) + string(b"why")),
                (sftp.parse_handle, Kind.HANDLE, string(b"handle")),
                (sftp.parse_data, Kind.DATA, string(b"data")),
                (sftp.parse_attributes, Kind.ATTRS, attributes(entry.attributes, more=True)),
                (sftp.parse_names, Kind.NAME, names([entry], more=True)),
                (sftp.parse_limits, Kind.EXTENDED_REPLY, bytes(32)),
            ]
        )
    )
    parse(Packet(kind, 3, body))
    with pytest.raises(ProtocolError):
        parse(Packet(Kind.CLOSE, 3, body))
    cut = data.draw(st.integers(0, len(body) - 1))
    whole = {Kind.VERSION: (0,), Kind.STATUS: (4,)}  # these fields are optional
    if cut not in whole.get(kind, ()):
        with pytest.raises(ProtocolError):
            parse(Packet(kind, 3, body[:cut]))
