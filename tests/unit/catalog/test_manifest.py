"""Encoding and decoding of manifest.json."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cesbrfs.catalog.manifest import FailedPath, Manifest, Point, parse_manifest, write_manifest
from cesbrfs.errors import DamagedError

TIME = "2026-11-22T21:30:00.000000000Z"
MANIFEST = Manifest(
    format=1,
    id="20261122T213000Z-7f3a9c",
    time=TIME,
    host="ces",
    points=[
        Point("volumes", "redmine", "ab" * 32, 100, [FailedPath("/a", "denied")], "cd" * 32),
        Point("configuration", None, None, None, [FailedPath("\\xff", "gone", "/w==")]),
    ],
)


def test_what_is_written_is_read() -> None:
    """Decoding returns what was encoded."""
    assert parse_manifest(write_manifest(MANIFEST)) == MANIFEST


def test_the_written_form_is_the_documented_one() -> None:
    """The documented names and nulls; base64 only for paths that are not UTF-8."""
    assert json.loads(write_manifest(MANIFEST)) == {
        "format": 1,
        "id": "20261122T213000Z-7f3a9c",
        "time": TIME,
        "host": "ces",
        "points": [
            {
                "kind": "volumes",
                "dogu": "redmine",
                "snapshot": "ab" * 32,
                "bytes": 100,
                "failed": [{"path": "/a", "error": "denied"}],
                "tree": "cd" * 32,
            },
            {
                "kind": "configuration",
                "dogu": None,
                "snapshot": None,
                "bytes": None,
                "failed": [{"path": "\\xff", "error": "gone", "path_b64": "/w=="}],
            },
        ],
    }


def test_the_size_is_only_told_when_every_point_tells_its_own() -> None:
    """If the size of one item is unknown, the total is unknown."""
    assert MANIFEST.size is None
    known = Manifest(1, "id", TIME, "ces", [Point("a", bytes=1), Point("b", bytes=2)])
    assert known.size == 3
    assert Manifest(1, "id", TIME, "ces", []).size == 0


def test_fields_of_later_versions_are_passed_over() -> None:
    """Unknown fields are ignored as long as the format number is the same."""
    content = json.loads(write_manifest(MANIFEST)) | {"new": 1}
    content["points"][0]["new"] = 1
    assert parse_manifest(json.dumps(content).encode()) == MANIFEST


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"format": "1"}, {"points": None}, {"points": [{"dogu": "x"}]}, {"id": None},
        {"points": [{"kind": "volumes", "failed": None}]},
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_damage(change: dict[str, Any]) -> None:
    """Another format number or structure raises an error."""
    content = json.loads(write_manifest(MANIFEST)) | change
    with pytest.raises(DamagedError):
        parse_manifest(json.dumps(content).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_what_is_no_json_is_damage(data: bytes) -> None:
    """Truncated or overwritten files."""
    with pytest.raises(DamagedError):
        parse_manifest(data)
