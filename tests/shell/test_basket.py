"""select, deselect, selected: contents and lifetime of the selection."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cesbr.state.basket import Basket, parse, topmost

from cesbrfs.errors import UsageError
from tests.shell.conftest import BINARY, ODD, ODD_SHOWN, Cesbr, Inside, Site

FILES = "redmine/volumes/files"


def _ids(cesbr: Cesbr | Inside) -> list[str]:
    found = cesbr("backups", "--json").json
    assert isinstance(found, list)
    return [backup["id"] for backup in found]


@pytest.fixture
def shell(inside: Inside) -> Iterator[Inside]:
    """Commands in this process, with an empty selection."""
    yield inside
    inside("deselect", "--all")


def test_a_basket_is_private_and_outlives_the_session(tmp_path: Path) -> None:
    """The selection is shared between sessions, supports any bytes in names, and has mode 0600."""
    first, second = Basket(tmp_path, "r"), Basket(tmp_path, "r")
    assert first.add([(b"B", b"a\\b", ODD), (b"B", b"x")]) == 2
    assert second.add([(b"A",), (b"B", b"x", b"y")]) == 1
    assert first.paths == ((b"A",), (b"B", b"a\\b", ODD), (b"B", b"x"))
    second.remove([(b"A",), (b"B", b"x")])
    assert [Basket(tmp_path, name).paths for name in ("r", "other")] == [
        ((b"B", b"a\\b", ODD),),
        (),
    ]
    (file,) = tmp_path.rglob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["r.json"]


def test_without_a_directory_it_is_kept_in_memory() -> None:
    """Without a home directory the selection is stored in memory."""
    basket = Basket(None, "r")
    basket.add([(b"B", b"x")])
    assert basket.paths == ((b"B", b"x"),)


def test_a_directory_that_cannot_be_created(kept: Cesbr) -> None:
    """A selection that would be lost, and a restore that could not be undone, are refused."""
    unusable = kept.having(XDG_STATE_HOME="/dev/null")
    for command in (
        ("select", "--backup", "latest", "redmine"),
        ("restore", "--backup", "latest", "redmine", "--in-place", "--dry-run"),
    ):
        said = unusable(*command)
        assert said.code == 1
        assert "Cannot create /dev/null/cesbr: Not a directory." in said.err


def test_what_lies_below_another_is_that() -> None:
    """A path with the same prefix is not below another one."""
    paths = [(b"B", b"a", b"b"), (b"B", b"a"), (b"B", b"a b"), (b"B", b"a-b", b"c")]
    assert topmost(paths) == ((b"B", b"a"), (b"B", b"a b"), (b"B", b"a-b", b"c"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "paths": []}',
        '{"format": 1, "paths": ["/"]}',
        '{"format": 1, "paths": [7]}',
        '{"format": 1, "paths": ["/B/a\\\\q"]}',
    ],
)
def test_what_is_no_selection(text: str) -> None:
    """Text that is not a saved selection is rejected."""
    with pytest.raises(UsageError):
        parse(text)


def test_select_over_backups(shell: Inside, tmp_path: Path) -> None:
    """A selection can span backups, stores their IDs, and shows the size of each path."""
    old, new = _ids(shell)
    assert shell("select", "--backup", old, f"{FILES}/hello.txt").code == 0
    assert shell("select", f"/{old}/_instance").code == 0
    said = shell("select", f"/{new}/{FILES}/*b*", f"/{new}/{FILES}/{ODD_SHOWN}", "--json")
    assert said.json == {"added": 2, "selected": 4}, said.err
    told = shell("selected", "--json").json
    assert isinstance(told, list)
    assert [(t["backup"], t["path"], t["files"], t["bytes"]) for t in told[:2]] == [
        (old, "_instance", told[0]["files"], told[0]["bytes"]),
        (old, f"{FILES}/hello.txt", 1, 6),
    ]
    assert told[2]["path_b64"]
    assert (told[3]["path"], told[3]["files"], told[3]["bytes"]) == (f"{FILES}/sub", 1, len(BINARY))
    listed = shell("selected").out
    assert ODD_SHOWN in listed
    assert "in total" in listed


def test_find_selects(shell: Inside) -> None:
    """`find --select` adds each version from its newest backup; `--each` from every backup."""
    old, new = _ids(shell)
    assert "2 paths" in shell("find", FILES, "--name", "hello*", "--select").err
    told = shell("selected", "--json").json
    assert isinstance(told, list)
    assert [(t["backup"], t["path"]) for t in told] == [
        (backup, f"{FILES}/hello.txt") for backup in (old, new)
    ]
    shell("deselect", "--all")
    shell("find", FILES, "--name", "link", "--select", "--json")
    (one,) = list(shell("selected", "--json").json)  # type: ignore[call-overload]  # an array
    assert one["backup"] == new
    shell("find", FILES, "--name", "link", "--select", "--each")
    assert len(list(shell("selected", "--json").json)) == 2  # type: ignore[call-overload]  # as above


def test_deselect(shell: Inside, tmp_path: Path) -> None:
    """Deselect by path, by wildcard, or all; paths that are not selected are reported."""
    new = _ids(shell)[-1]
    for name in ("hello.txt", "link", "sub"):
        assert shell("select", f"/{new}/{FILES}/{name}").code == 0
    said = shell("deselect", f"/{new}/{FILES}/sub/binary")
    assert (said.code, "Deselect that" in said.err) == (1, True)
    assert shell("deselect", "/latest/_instance").code == 1
    assert shell("deselect", f"/latest/{FILES}/l*", "--json").json == {"removed": 1, "selected": 2}
    said = shell("deselect", "redmine", "--backup", new, "--json")
    assert said.json == {"removed": 2, "selected": 0}
    shell("select", f"/{new}/redmine")
    assert shell("deselect", "--all").code == 0
    assert "Nothing is selected" in shell("selected").err
    assert shell("deselect").code == 2


def test_save_and_load(shell: Inside, tmp_path: Path) -> None:
    """A saved selection is private and can be loaded; invalid files change nothing."""
    saved = tmp_path / "chosen"
    shell("select", f"/latest/{FILES}/{ODD_SHOWN}", f"/latest/{FILES}/hello.txt")
    before = shell("selected", "--save", str(saved), "--json").json
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    shell("deselect", "--all")
    assert shell("select", "--load", str(saved)).code == 0
    assert shell("selected", "--json").json == before
    saved.write_text(json.dumps({"format": 1, "paths": ["/no/such"]}))
    assert shell("select", "--load", str(saved)).code == 1
    saved.write_text("something else")
    assert shell("select", "--load", str(saved)).code == 2
    assert shell("selected", "--json").json == before


def test_restore_takes_the_basket_and_empties_it(shell: Inside, tmp_path: Path) -> None:
    """Without paths restore uses the selection, and clears it only after a complete restore."""
    assert "Nothing to restore" in shell("restore", "--yes").err
    old, new = _ids(shell)
    shell("select", f"/{old}/{FILES}/hello.txt", f"/{new}/{FILES}/hello.txt")
    back = tmp_path / "back"
    (back / new / FILES / "hello.txt").mkdir(parents=True)
    assert shell("restore", "--yes", "--target", str(back)).code == 3
    assert len(list(shell("selected", "--json").json)) == 2  # type: ignore[call-overload]  # an array
    said = shell("restore", "--yes", "--target", str(tmp_path / "both"))
    assert said.code == 0, said.err
    assert (tmp_path / "both" / old / FILES / "hello.txt").read_text() == "hello\n"
    assert (tmp_path / "both" / new / FILES / "hello.txt").read_text() == "hello again\n"
    assert shell("selected", "--json").json == []


def test_plan_shows_what_becomes_of_what_is_there(shell: Inside, tmp_path: Path) -> None:
    """The plan lists each path with its files and actions, existing files, and the totals."""
    new = _ids(shell)[-1]
    back = tmp_path / "back"
    there = back / FILES / "hello.txt"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    arguments = ("--backup", new, FILES, "--target", str(back))
    plan = shell("plan", *arguments, "--json").json
    assert isinstance(plan, dict)
    (path,) = plan["paths"]
    assert (path["backup"], path["path"], path["to"]) == (new, FILES, FILES)
    assert (path["files"], path["new"], path["overwritten"], path["skipped"]) == (5, 4, 0, 1)
    (told,) = plan["there"]
    assert (told["path"], told["action"], told["size"]) == (f"{FILES}/hello.txt", "skip", 4)
    assert shell("plan", *arguments, "--overwrite", "always", "--json").json != plan
    text = shell("plan", *arguments, "--overwrite", "if-newer").out
    assert "kept, the backup's is not newer" in text
    assert "replaced " in shell("plan", *arguments, "--overwrite", "always").out
    assert there.read_text() == "mine"


def test_versions_side_by_side(shell: Inside, tmp_path: Path) -> None:
    """--suffix restores versions from several backups next to existing files, by backup ID."""
    old, new = _ids(shell)
    back = tmp_path / "back"
    there = back / FILES / "hello.txt"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    paths = [f"/{backup}/{FILES}/{name}" for backup in (old, new) for name in ("hello.txt", "sub")]
    assert shell("restore", *paths, "--yes", "--target", str(back), "--suffix").code == 0
    assert {path.name: path.read_text() for path in there.parent.glob("hello*")} == {
        "hello.txt": "mine",
        f"hello.txt.{old}": "hello\n",
        f"hello.txt.{new}": "hello again\n",
    }
    assert (there.parent / f"sub.{old}/binary").read_bytes() == BINARY
    assert shell("restore", paths[0], "--yes", "--target", str(back), "--suffix=.old").code == 0
    assert there.with_name("hello.txt.old").read_text() == "hello\n"
    assert shell("plan", "--suffix", paths[0]).code == 2
    assert shell("plan", "--suffix", ".a/b").code == 2
    assert shell("plan", "--backup", new, "--suffix").code == 2


def test_what_is_gone_stays_and_can_be_deselected(own: Cesbr, site: Site) -> None:
    """A path of a removed backup is marked, prevents a restore, and can be deselected."""
    old, _ = _ids(own)
    own("select", f"/{old}/{FILES}/hello.txt")
    shutil.rmtree(site.repository / "snapshots")
    (site.repository / "snapshots").mkdir()
    (told,) = list(own("selected", "--json").json)  # type: ignore[call-overload]  # an array
    assert told["files"] is None
    assert "gone" in own("selected").out
    said = own("restore", "--yes")
    assert (said.code, "deselect" in said.err) == (1, True)
    assert own("deselect", f"/{old}").code == 0
