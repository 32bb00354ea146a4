"""The lock files and the software bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.project import PROJECT

_LOCKS = sorted((PROJECT / ".ci/lock").glob("*.txt"))
_ENTRY = re.compile(r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


def _read(lock: Path) -> dict[str, str]:
    """Return the version and hashes of each package, by name."""
    text = lock.read_text().replace(" \\\n   ", "")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = {}
    for entry in entries:
        parsed = _ENTRY.fullmatch(entry)
        assert parsed, f"{lock.name}: {entry[:80]} is not a pinned version with hashes"
        found[parsed[1]] = f"{parsed[2]}{parsed[3]}"
    return found


def test_locks_agree() -> None:
    """A package in two lock files has the same version and hashes in both."""
    merged: dict[str, str] = {}
    for lock in _LOCKS:
        found = _read(lock)
        both = found.keys() & merged.keys()
        assert {name: found[name] for name in both} == {name: merged[name] for name in both}
        merged |= found
    assert len(merged) > 60


def test_locks_satisfy_pyproject() -> None:
    """Each requirement of the project and its groups is pinned to a version that satisfies it."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    required = project["dependency-groups"] | {
        "runtime": project["project"]["dependencies"]
        + project["project"]["optional-dependencies"]["mount"]
    }
    assert set(required) == {lock.stem for lock in _LOCKS}
    for lock in _LOCKS:
        pinned = _read(lock)
        for text in required[lock.stem]:
            requirement = Requirement(text)
            chosen = pinned[canonicalize_name(requirement.name)].split()[0]
            assert chosen in requirement.specifier, f"{text} in {lock.name}: run 'make lock'"


def test_bill_of_materials() -> None:
    """It lists what the lock for users lists, with versions, licenses and bundled libraries."""
    done = subprocess.run(
        [sys.executable, PROJECT / "packaging/sbom.py"], env={"SOURCE_DATE_EPOCH": "1800000000"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    bill = json.loads(done.stdout)
    assert bill["metadata"]["timestamp"] == "2027-01-15T08:00:00+00:00"
    assert bill["metadata"]["component"]["name"] == "cesbrfs"
    components: dict[str, Any] = {canonicalize_name(one["name"]): one for one in bill["components"]}
    assert components.keys() == _read(PROJECT / ".ci/lock/runtime.txt").keys()
    for name, one in components.items():
        assert one["purl"] == f"pkg:pypi/{name}@{version(name)}"
        assert one["licenses"]
    (openssl,) = components["cryptography"]["components"]
    assert re.fullmatch(r"pkg:generic/openssl@[34]\.\d+\.\d+", openssl["purl"])
    (root,) = (one for one in bill["dependencies"] if "cesbrfs@" in one["ref"])
    assert f"pkg:pypi/pyfuse3@{version('pyfuse3')}" in root["dependsOn"]


def test_the_wheel_is_reproducible() -> None:
    """Two clones at other paths, with another umask and time zone, give the same bytes."""
    subprocess.run([PROJECT / "packaging/reproducible", sys.executable, "wheel"], check=True)
