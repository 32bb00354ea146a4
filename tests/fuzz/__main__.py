"""Fuzz one target with atheris: ``python -m tests.fuzz TARGET [OPTION]…``, options of libFuzzer."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main() -> None:
    """Instrument the project's modules, and run libFuzzer; this does not return."""
    atheris: Any = importlib.import_module("atheris")  # an extra, with no types
    with atheris.instrument_imports(include=["cesbrfs"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
