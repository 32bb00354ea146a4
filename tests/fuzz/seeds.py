"""Write the first files of the corpus from a real repository: ``python -m tests.fuzz.seeds``.

The repository is that of the corruption campaign, in both formats. Existing files stay.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import zstandard

from cesbrfs.repo.format.crypto import Keys, open_master_key, open_record
from cesbrfs.repo.format.model import parse_index, parse_key_file
from cesbrfs.repo.format.pack import decode_unpacked, header_length
from cesbrfs.repo.kdf import derive_keys
from cesbrfs.repo.storage.sftp import protocol as sftp
from tests.damage.sample import Sample, build

CORPUS: Final = Path(__file__).parent / "corpus"
_LARGEST: Final = 3000
_SFTP_SERVER: Final = "/usr/lib/openssh/sftp-server"

Seed = tuple[str, bytes]


def main() -> None:
    """Build both repositories and write a file for each kind of record in them."""
    restic = Path(shutil.which("restic") or "restic")
    with tempfile.TemporaryDirectory(prefix="cesbrfs-fuzz-") as place:
        seeds: list[Seed] = [*_of_sftp(Path(place)), *_of_servers(), *_of_names()]
        for version in (1, 2):
            seeds += _of_repository(build(restic, Path(place, str(version)), version))
    for target, data in seeds:
        directory = CORPUS / target
        directory.mkdir(parents=True, exist_ok=True)
        (directory / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _of_repository(sample: Sample) -> Iterator[Seed]:
    key = next((sample.directory / "keys").iterdir()).read_bytes()
    key_file = parse_key_file(key)
    user_keys = derive_keys(sample.repo.password.encode(), key_file)
    keys = open_master_key(user_keys, key_file)
    yield "key", key
    yield "key", re.sub(rb'"N":\d+', b'"N":16', key)
    yield "key", open_record(user_keys, key_file.data or b"")
    yield "config", open_record(keys, (sample.directory / "config").read_bytes())
    for kind in ("snapshots", "index"):
        files = sorted((sample.directory / kind).iterdir(), key=lambda path: path.stat().st_size)
        for path in files[:2]:
            target = "snapshot" if kind == "snapshots" else "index"
            yield target, decode_unpacked(keys, path.read_bytes())[:_LARGEST]
    yield from _of_packs(sample.directory, keys, files[0])


def _of_packs(repository: Path, keys: Keys, index: Path) -> Iterator[Seed]:
    parsed = parse_index(decode_unpacked(keys, index.read_bytes()))
    for pack in (parsed.packs or ())[:2]:
        data = (repository / "data" / pack.id[:2] / pack.id).read_bytes()
        length = header_length(data, len(data))
        yield "pack", open_record(keys, data[-4 - length : -4])
        for blob in (pack.blobs or ())[:3]:
            plain = open_record(keys, data[blob.offset : blob.offset + blob.length])
            if len(plain) > _LARGEST:
                continue
            size = blob.uncompressed_length
            yield "blob", bytes((0x80 * bool(size),)) + (size or len(plain)).to_bytes(2) + plain
            yield "crypto", bytes(15) + b"\1" + plain
            if blob.type == "tree":
                yield "tree", zstandard.decompress(plain)[:_LARGEST] if size else plain


def _of_sftp(place: Path) -> Iterator[Seed]:
    """Yield what OpenSSH's server sends, separately for requests of one kind."""
    (place / "file").write_bytes(b"content")
    path = bytes(place)
    for requests in (
        [sftp.limits(1)],
        [sftp.stat(1, path + b"/file"), sftp.stat(2, path + b"/missing")],
        [sftp.open_file(1, path + b"/file"), sftp.read(2, bytes(4), 0, 99)],
        [sftp.open_file(1, path + b"/file"), sftp.close(2, bytes(4))],
        [sftp.open_directory(1, path), sftp.read_directory(2, bytes(4))],
    ):
        yield "sftp", _responses([sftp.init(), *requests])


def _responses(requests: list[bytes]) -> bytes:
    received = b""
    incoming = sftp.Incoming()
    count = 0
    with subprocess.Popen(
        [_SFTP_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(b"".join(requests))
        while count < len(requests):  # it exits without a response when its input ends
            data = server.stdout.read(1 << 16)
            received += data
            count += len(list(incoming.feed(data)))
        server.stdin.close()
    return received


def _of_servers() -> Iterator[Seed]:
    name = hashlib.sha256(b"").hexdigest()
    rest = f'[{{"name":"{name}","size":155}},{{"name":"{name[::-1]}","size":0}}]'
    old_rest = f'["{name}"]'
    s3 = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc'
        '/2006-03-01/"><Name>bucket</Name><IsTruncated>{}</IsTruncated><Contents><Key>repo/{}</Key>'
        "<Size>155</Size></Contents>{}</ListBucketResult>"
    )
    pages = [
        s3.format("false", f"keys/{name}", ""),
        s3.format("false", f"data/{name[:2]}/{name}", ""),
        s3.format("true", f"keys/{name}", "<NextContinuationToken>t</NextContinuationToken>"),
    ]
    refusal = (
        "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message>"
        "<Region>eu-west-3</Region></Error>"
    )
    for text in (rest, old_rest, *pages, refusal):
        yield "listing", text.encode()
    date = "Date: Sun, 22 Nov 2026 21:30:00 GMT\r\n"
    v2 = "Content-Type: application/vnd.x.restic.rest.v2\r\n"
    part = "206 Partial Content", "Content-Range: bytes 5-14/20\r\n", "0123456789"
    end = "206 Partial Content", "Content-Range: bytes 5-19/20\r\n", "0123456789abcde"
    for number, (status, headers, body) in (
        (0, ("200 OK", v2, rest)),
        (1, ("200 OK", "", "config")),
        (2, part),
        (3, end),
        (4, ("200 OK", "", pages[0])),
        (5, ("400 Bad Request", "", refusal)),
        (6, part),
        (7, ("404 Not Found", "", "")),
        (2, ("416 Range Not Satisfiable", "", "")),
        (6, ("301 Moved", "Location: http://user:password@else/where?x\r\n", "")),
    ):
        length = f"Content-Length: {len(body)}\r\n\r\n{body}"
        yield "http", bytes((number,)) + f"HTTP/1.1 {status}\r\n{date}{headers}{length}".encode()
    listing = f"HTTP/1.1 200 OK\r\nContent-Length: {len(old_rest)}\r\n\r\n{old_rest}\n--\n"
    yield "http", b"\0" + listing.encode() + b"HTTP/1.1 200 OK\r\nContent-Length: 155\r\n\r\n"
    chunked = f"HTTP/1.1 200 OK\r\n{v2}Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"
    yield "http", b"\0" + chunked.encode()


def _of_names() -> Iterator[Seed]:
    names = b"plain.txt", b"\x1b[31m\n\\", "Größe \u202e\u2028".encode(), rb"\xff\u00e4\n\101"
    for name in names:
        yield "escape", name
    yield "acl", bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff")
    yield "acl", bytes.fromhex("0200000010000600ffffffff20000400ffffffff")
    node = '{"mode":493,"uid":0,"gid":0,"atime":1,"mtime":2,"xattrs":{"user.a":"00ff"}}'
    restore = '{"time":"2026","backup":"one","target":"/","paths":["/a"],"in_place":true}'
    for lines in (
        f'["restore",{restore}]\n["replaces","/a"]\n["file","/a",1,2,3,true]',
        f'["directory","/d",{node}]\n["removes","/e",{node}]\n["place","/p"]\n["undone"]',
        '["run","tag","boot",{}]\n["folder","/d",true,493]\n["file","/a",1,2,3,"key"]',
    ):
        yield "journal", lines.encode()
    for document in (
        '{"Name":"official/cas","Version":"1","Volumes":[{"Name":"db","Path":"/var","Owner":"1"}]}',
        '{"Name":"a","HealthChecks":[{"type":"tcp","port":80}],"Dependencies":[{"name":"b"}]}',
        '{"value":"AA==","encryption":{"type":"AES_GCM","key":"AA==","nonce":"AAAAAAAAAAAAAAAA"}}',
        "AAAA",
    ):
        yield "document", document.encode()


if __name__ == "__main__":
    main()
