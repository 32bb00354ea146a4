"""All fuzz targets with the inputs of their corpus; `make fuzz` looks for new ones."""

from __future__ import annotations

import pytest

from tests.fuzz.run import CORPUS
from tests.fuzz.targets import TARGETS

_CORPUS_MAX = 100_000


@pytest.mark.parametrize("target", TARGETS)
def test_parsers_keep_their_contract(target: str) -> None:
    """No input of the corpus causes an exception that the parser does not document."""
    inputs = sorted((CORPUS / target).iterdir())
    assert len(inputs) > 1
    for path in inputs:
        try:
            TARGETS[target](path.read_bytes())
        except Exception as error:
            error.add_note(f"the input is {path}")
            raise


def test_the_corpus_is_small() -> None:
    """It stays a part of the repository that nobody notices."""
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < _CORPUS_MAX
