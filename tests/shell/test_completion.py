"""Tab completion of names that are hard to type."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from cesbr.app import App
from cesbr.completion import prompt as completion
from cesbr.completion.name_index import SHOWN, Continuation, NameIndex
from cesbr.completion.prompt import written
from cesbr.portal import Portal
from cesbr.runner import close
from cesbr.session import Context, Session
from cesbr.ui.output import Output
from cmd2.parsing import StatementParser
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.config.settings import Flags
from cesbrfs.repo.format.tree import DIRECTORY, OTHER
from cesbrfs.util.escape import unshow
from tests.shell.conftest import NAMES, Cesbr
from tests.shell.terminal import terminal
from tests.support.proxy import Proxy

names = st.binary(min_size=1, max_size=12).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)


def continuations(
    start: str, children: Mapping[bytes, bool], *, quoted: bool = False
) -> list[Continuation]:
    """Return the completions of `start` among these names, each with whether it is a directory."""
    found = {name: DIRECTORY if is_directory else OTHER for name, is_directory in children.items()}
    return NameIndex.of(found).continuing(start, partial(written, quoted=quoted))


def _read_back(word: str) -> bytes:
    """Return the name that the prompt parses from `word`."""
    statement = StatementParser(terminators=()).parse(f"cat {word} other")
    assert statement.redirector == "", word
    argument, other = statement.arg_list
    assert other == "other"
    meant = unshow(argument.strip('"'))
    assert meant is not None
    return meant


@given(names, st.booleans(), st.integers(0, 12))
def test_any_name_completes_into_something_that_works(
    name: bytes, quoted: bool, typed: int
) -> None:
    """The completed word starts with the typed text and parses to the right name."""
    ((whole, _, is_directory, _),) = continuations("", {name: False}, quoted=quoted)
    assert not is_directory
    start = whole[:typed]
    ((word, _, _, _),) = continuations(start, {name: False}, quoted=quoted)
    assert word.startswith(start)
    assert _read_back(f'"{word}"' if quoted else f"./{word}") == (b"" if quoted else b"./") + name


def test_raw_characters_may_be_typed() -> None:
    """Quotes, letters and backslashes can be typed unescaped; no match offers nothing."""

    def words(start: str, *children: bytes, quoted: bool = False) -> list[str]:
        found = continuations(start, dict.fromkeys(children, False), quoted=quoted)
        return [one.word for one in found]

    assert words("it's", b'it\'s "x"', quoted=True) == [r"it's \x22x\x22"]
    assert words("it", b"it's x") == [r"it\x27s\x20x"]
    assert words("grö", "größer".encode(), b"x") == ["größer"]
    assert words("a\\b", b"a\\b c", quoted=True) == ["a\\\\b c"]
    assert words("x", b"y") == []
    assert words("a\\x2", b"a b", b"a", b"a'", b"ab") == [r"a\x20b", r"a\x27"]
    assert words("a\\", b"a b", b"a\\x", b"ab") == [r"a\x20b", r"a\\x"]
    assert words("\\q\\", b"a", b"\\q") == []
    assert continuations("f", {b"a": True, b"f g": True}) == [(r"f\x20g/", "f g/", True, "")]


def test_huge_directories_keep_what_names_have_in_common() -> None:
    """Of 100,000 names only some are offered, quickly, and the common prefix is correct."""
    children = {b"file %06d" % number: False for number in range(100_000)}
    words = [one.word for one in continuations("fi", children, quoted=True)]
    assert len(words) == SHOWN
    assert {word[:6] for word in words} == {"file 0"}
    assert {word[6] for word in words} >= {"0", "9"}


TYPED = (
    "both", "it", '"dou', "'new", "tab", "$", "back\\\\s", r"back\x5cx", "pi", "se", "./~",
    "./-", "not", "grö", "st", '" in', "beh", "a$", "?",
)  # fmt: skip
"""What is typed of each name, before Tab; most of it as people would, without knowing better."""


def test_odd_names_complete_and_work(odd: Cesbr, tmp_path: Path) -> None:
    """At a real prompt: type a few letters, press Tab and Enter, and the file is printed."""
    with terminal(odd, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line("cd /latest/redmine/volumes/files")
        prompt.wait_for(r"/files>\Z")
        for typed in TYPED:
            ((word, *_),) = continuations(typed.lstrip("\"'./"), dict.fromkeys(NAMES, False))
            number = NAMES.index(unshow(word) or b"")
            prompt.keys("-l", f"cat {typed}")
            prompt.keys("Tab")
            prompt.wait_for(rf"^cesbr:.*> cat .*{re.escape(word[-2:])}[\"']?\Z")
            prompt.keys("Enter")
            prompt.wait_for(rf"^this is number {number}\ncesbr:.*>\Z")
            prompt.keys("C-l")
            prompt.wait_for(r"\Acesbr:.*>\Z")


def test_backups_are_shown_with_what_they_are(kept: Cesbr, tmp_path: Path) -> None:
    """Backups are offered newest first, with their time, status and size."""
    with terminal(kept, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line("ls")
        listed = prompt.wait_for(r"latest.*\ncesbr>\Z")
        ids = sorted(set(re.findall(r"\d{8}T\d{6}Z-[0-9a-f]{6}", listed)))
        assert len(ids) == 2
        prompt.keys("-l", "use ")
        prompt.keys("Tab")
        screen = prompt.wait_for(rf"{ids[0]} +\d{{4}}-\d\d-\d\d \S+ +complete +\d")
        assert screen.index("the newest complete backup") < screen.rindex(ids[1])
        assert screen.rindex(ids[1]) < screen.rindex(ids[0])
        prompt.keys("C-c")
        prompt.wait_for(r"cesbr>\Z")
        prompt.keys("-l", "backup red")
        prompt.keys("Tab")
        prompt.wait_for(r"^cesbr> backup redmine")


def test_a_slow_server_does_not_keep_the_prompt(far: Cesbr, proxy: Proxy, tmp_path: Path) -> None:
    """Completion times out within a second, and typing continues."""
    proxy.hold(b"/snapshots/")
    with terminal(far, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.keys("-l", "use la")
        prompt.keys("Tab")
        prompt.keys("-l", "x")
        began = time.monotonic()
        prompt.wait_for(r"^cesbr> use lax\Z")
        assert time.monotonic() - began < 5  # one second, plus a margin for a busy machine
        prompt.keys("C-c")
        prompt.wait_for(r"cesbr>\Z")
        assert proxy.held  # somebody does wait for it
        prompt.keys("C-d")
        assert prompt.exit_code() == 0


def test_what_is_known_is_offered_while_the_server_is_slow(
    far: Cesbr, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expired list of backups is offered at once and refreshed in the background."""
    monkeypatch.setattr(completion, "_FRESH_SECONDS", 0.0)
    session, portal = Session(Flags(), far.environ), Portal()
    app = App(session, portal, {})

    def offered(line: str) -> set[str]:
        begin = line.rindex(" ") + 1
        return set(app.complete(line[begin:], line, begin, len(line)).to_strings())

    try:
        known = portal.run(partial(_backups, app))
        assert offered("use ") == {"latest", *known}
        assert offered("ls ") == {f"{name}/" for name in ("latest", *known)}
        proxy.hold(b"/snapshots/")
        for _ in range(3):
            assert offered("use ") == {"latest", *known}
            assert offered("ls ") == {f"{name}/" for name in ("latest", *known)}
        slow_view = session.view
        assert slow_view is not None
        assert slow_view.listing.is_under_way
        assert proxy.held  # somebody does wait for it
        proxy.heal()
    finally:
        close(session, portal)


async def _backups(app: App) -> list[str]:
    context = Context(app.session, Output(quiet=True), no_init=True)
    return [os.fsdecode(name) for name in (await (await context.view()).backups()).by_name]
