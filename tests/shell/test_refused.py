"""A person who answers no: nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cesbr.ui.output import Output

from tests.shell.conftest import Inside, Site
from tests.support.compare import Record, differences, records


@pytest.fixture
def own(site: Site, restic_old: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """Commands in this process, on backups that the test may change."""
    monkeypatch.setenv("CESBR_RESTIC", str(restic_old))
    made = Inside(site.root)
    yield made
    made.close()


def state(site: Site) -> dict[bytes, Record]:
    """Describe the instance with its repository and logs, without caches and lock files."""
    return {
        path: record
        for path, record in records(str(site.root)).items()
        if b"cache" not in path and not path.endswith(b".lock") and record.content
    }


def test_answering_no(own: Inside, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command that asks leaves everything as it was."""
    questions: list[str] = []

    async def refuse(_: Output, question: str, *, default: bool = False) -> bool:
        questions.append(question)
        return default

    (site.files / "hello.txt").write_text("precious")
    restore = ("restore", "--backup", "latest", "redmine", "--in-place", "--no-safety-backup")
    assert own(*restore, "--yes").code == 0
    (site.files / "hello.txt").write_text("precious again")
    undo_id = own("undo", "--list").out.splitlines()[-1].split()[0]
    before = state(site)
    monkeypatch.setattr(Output, "ask", refuse)
    for command, text in (
        (restore, "restored"),
        (("undo",), "changed"),
        (("undo", "--remove", undo_id), "deleted"),
        (("forget", "--keep-last", "1"), "removed"),
        (("key", "add", "--generate", "--show-password"), "changed"),
    ):
        said = own(*command)
        assert (said.code, f"Nothing was {text}." in said.err, len(questions)) == (0, True, 1), said
        questions.clear()
        assert differences(state(site), before) == []
