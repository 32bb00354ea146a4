"""Print the copyright file of the package: ``python copyright.py SITE-PACKAGES``."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

_BUNDLED = """
The package also contains these Python packages from PyPI, unchanged except for
files that are needed at build time only. The texts of their licenses are below
{directory}.
cryptography contains OpenSSL (Apache-2.0) and Rust crates (MIT, Apache-2.0, BSD);
zstandard contains libzstd (BSD-3-Clause). The Apache License 2.0, the LGPL and the
GPL are also in /usr/share/common-licenses.
"""


def _license(distribution: Distribution) -> str:
    """Return the license as the package's metadata states it, in one line."""

    def field(name: str) -> list[str]:
        return [str(value) for value in distribution.metadata.get_all(name) or ()]

    classifiers = [c for c in field("Classifier") if c.startswith("License ::")]
    stated = [
        *field("License-Expression"),
        *(classifier.rpartition(" :: ")[2] for classifier in classifiers),
        *field("License"),
    ]
    return stated[0].splitlines()[0]


def main() -> None:
    """Print our license, and the licenses of the bundled packages."""
    site = Path(sys.argv[1])
    found = sorted(distributions(path=[str(site)]), key=lambda one: one.name.lower())
    (ours,) = (one for one in found if one.name == "cesbrfs")
    (text,) = (file for file in ours.files or () if file.name == "LICENSE")
    print("cesbrfs\n")
    print(Path(str(text.locate())).read_text(encoding="utf-8"))
    installed = f"/usr/lib/cesbrfs/lib/{site.parent.name}/site-packages/*.dist-info"
    print(_BUNDLED.format(directory=installed).strip(), end="\n\n")
    for one in found:
        if one is not ours:
            print(f"{one.name} {one.version}: {_license(one)}")


if __name__ == "__main__":
    main()
