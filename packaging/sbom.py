"""Print the software bill of materials (CycloneDX 1.6): ``python sbom.py``.

It lists cesbrfs with the extra `mount`, all Python packages that it needs, and the C libraries in
their wheels, as this Python finds them. It needs the package `packaging` to follow requirements.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import time
import uuid
from collections.abc import Iterable
from importlib.metadata import Distribution
from typing import Any

import zstandard
from cryptography.hazmat.backends.openssl import backend
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _required(distribution: Distribution, extras: Iterable[str]) -> list[Requirement]:
    """Return the requirements that apply to this Python and these extras."""
    environments = [{"extra": extra} for extra in ("", *extras)]
    parsed = [Requirement(text) for text in distribution.requires or ()]
    return [
        one
        for one in parsed
        if one.marker is None or any(one.marker.evaluate(each) for each in environments)
    ]


def _licenses(distribution: Distribution) -> list[dict[str, Any]]:
    """Return the license as an SPDX expression, or its name if the package gives no expression."""

    def field(name: str) -> list[str]:
        return [str(value) for value in distribution.metadata.get_all(name) or ()]

    if expressions := field("License-Expression"):
        return [{"expression": expressions[0]}]
    names = [
        one.rpartition(" :: ")[2] for one in field("Classifier") if one.startswith("License ::")
    ]
    names = names or field("License")
    return [{"license": {"name": name.splitlines()[0]}} for name in names if name]


def _bundled(name: str) -> list[dict[str, Any]]:
    """Return the C libraries that the wheel of a package contains, as far as it reports them."""
    if name == "cryptography":
        library, version = "openssl", backend.openssl_version_text().split()[1]
    elif name == "zstandard":
        library, version = "zstd", ".".join(map(str, zstandard.ZSTD_VERSION))
    else:
        return []
    return [
        {
            "type": "library",
            "bom-ref": f"{name}:{library}",
            "name": library,
            "version": version,
            "purl": f"pkg:generic/{library}@{version}",
        }
    ]


def _component(distribution: Distribution, kind: str) -> dict[str, Any]:
    name = canonicalize_name(distribution.name)
    purl = f"pkg:pypi/{name}@{distribution.version}"
    found: dict[str, Any] = {
        "type": kind,
        "bom-ref": purl,
        "name": distribution.name,
        "version": distribution.version,
        "purl": purl,
    }
    if licenses := _licenses(distribution):
        found["licenses"] = licenses
    if bundled := _bundled(name):
        found["components"] = bundled
    return found


def bill(extras: tuple[str, ...] = ("mount",)) -> dict[str, Any]:
    """Return the bill of materials of cesbrfs as its packages are installed."""
    ours = Distribution.from_name("cesbrfs")
    components: dict[str, dict[str, Any]] = {"cesbrfs": _component(ours, "application")}
    dependencies = {}
    pending = [(ours, extras)]
    while pending:
        distribution, chosen = pending.pop()
        references = set()
        for requirement in _required(distribution, chosen):
            needed = Distribution.from_name(requirement.name)
            name = canonicalize_name(needed.name)
            if name not in components:
                components[name] = _component(needed, "library")
                pending.append((needed, tuple(requirement.extras)))
            references.add(components[name]["bom-ref"])
        reference = components[canonicalize_name(distribution.name)]["bom-ref"]
        dependencies[reference] = sorted(references)
    date = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    content = {
        "metadata": {
            "timestamp": dt.datetime.fromtimestamp(date, dt.UTC).isoformat(),
            "component": components.pop("cesbrfs"),
        },
        "components": [components[name] for name in sorted(components)],
        "dependencies": [
            {"ref": reference, "dependsOn": dependencies[reference]}
            for reference in sorted(dependencies)
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(content))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial.urn,
        "version": 1,
        **content,
    }


if __name__ == "__main__":
    print(json.dumps(bill(), indent=1))
