"""Fuzz targets with JSON that has restic's fields and any values, which random bytes rarely are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

_FIELDS = {
    "tree": (
        "name type mode mtime atime ctime uid gid user group inode device_id size links linktarget"
        " linktarget_raw extended_attributes device content subtree"
    ),
    "index": "id type offset length uncompressed_length blobs",
    "snapshot": "time tree paths hostname username tags excludes original summary format id points",
    "key": "kdf N r p salt data mac encrypt k",
    "config": "version id chunker_polynomial",
    "document": "Name Version Volumes HealthChecks type Dependencies name encryption key nonce",
}
_IDS = st.sampled_from(["0" * 64, "f" * 64, "A" * 64, "0" * 63, "0 " * 32, ""])
_TEXTS = st.sampled_from(
    [
        "file", "dir", "symlink", "data", "scrypt", "AES_GCM", "2026-11-22T21:30:00Z",
        "2026-11-22T21:30:00.1+01:00", "0000-01-01T00:00:00Z", "..", "/", "a", "\\x", "\\xff",
        "AAAA",
    ]
) | st.text(max_size=5)  # fmt: skip
_NUMBERS = st.sampled_from([0, 1, 2, -1, 32, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**70, 0.5])
_SCALARS = st.none() | st.booleans() | _NUMBERS | _TEXTS | _IDS


def _objects(target: str) -> st.SearchStrategy[Any]:
    names = st.sampled_from(_FIELDS[target].split())
    values = st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
        max_leaves=6,
    )
    one = st.dictionaries(names, values, max_size=8)
    several = st.lists(one, max_size=4)
    if target == "tree":
        return st.fixed_dictionaries({"nodes": several})
    if target == "index":
        return st.fixed_dictionaries({"packs": several})
    return one


@pytest.mark.parametrize("target", _FIELDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_parsers_keep_their_contract(target: str, data: st.DataObject) -> None:
    """Any JSON value in any field gives a documented error, or values that are right."""
    TARGETS[target](json.dumps(data.draw(_objects(target))).encode())
