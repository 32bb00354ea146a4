"""The state of the browser: keys, clicks and results, without a terminal."""

from __future__ import annotations

import pytest
from cesbr.browser.messages import (
    BackupInfo,
    Cancel,
    Described,
    Deselect,
    DiffLive,
    Failed,
    ListDirectory,
    Listed,
    ListVersions,
    Plan,
    Preview,
    Request,
    Requests,
    Row,
    Select,
    Selection,
    Text,
    TextLine,
)
from cesbr.browser.model import Browser

HERE = (b"backup", b"redmine")
ROWS = [Row(b"dir", "dir"), Row(b"Plan.txt", "file"), Row(b"link", "symlink"), Row(b"z", "file")]


@pytest.fixture
def browser() -> Browser:
    """A directory with four entries; the cursor is on the first, a directory."""
    made = Browser(HERE)
    made.resize(100, 20)
    assert made.start() == [ListDirectory(HERE)]
    assert made.receive(Listed(ListDirectory(HERE), ROWS)) == [Preview((*HERE, b"dir"))]
    return made


def press(browser: Browser, *keys: str) -> Requests:
    """Press keys; return all requests."""
    return [request for key in keys for request in browser.press(key)]


def name(browser: Browser) -> bytes:
    """Return the name under the cursor."""
    assert browser.path is not None
    return browser.path[-1]


def test_the_cursor_moves_and_asks_for_what_it_is_on(browser: Browser) -> None:
    """Each move requests a preview; a move beyond the ends does nothing."""
    assert press(browser, "down", "j") == [Preview((*HERE, b"Plan.txt")), Preview((*HERE, b"link"))]
    assert press(browser, "end", "down", "pagedown") == [Preview((*HERE, b"z"))]
    assert press(browser, "home", "up") == [Preview((*HERE, b"dir"))]
    assert press(browser, "down", "k") == [Preview((*HERE, b"Plan.txt")), Preview((*HERE, b"dir"))]


def test_results_for_what_the_cursor_has_left_are_ignored(browser: Browser) -> None:
    """Only the result of the last request is shown."""
    (first,) = press(browser, "down")
    (second,) = press(browser, "down")
    assert isinstance(first, Preview)
    assert isinstance(second, Preview)
    browser.receive(Text(first, [TextLine("first")]))
    browser.receive(Failed(first, "It failed."))
    assert not browser.details.lines
    browser.receive(Text(second, [TextLine("second")]))
    assert browser.details.lines == [TextLine("second")]
    browser.receive(Listed(ListDirectory((b"elsewhere",)), []))
    assert len(browser.list.shown) == 4


def test_going_down_and_up(browser: Browser) -> None:
    """Opening lists a directory; going up shows the list as it was, without reading it again."""
    assert press(browser, "enter") == [Cancel("details"), ListDirectory((*HERE, b"dir"))]
    assert browser.list.rows is None
    assert press(browser, "left") == [Cancel("list"), Preview((*HERE, b"dir"))]
    assert name(browser) == b"dir"
    # From where the browser began, the parent must be read; the cursor is put on the child.
    assert ListDirectory(HERE[:1]) in press(browser, "backspace")
    rows = [Row(b"cas", "dir"), Row(b"redmine", "dir")]
    assert browser.receive(Listed(ListDirectory(HERE[:1]), rows)) == [Preview(HERE)]
    press(browser, "left")
    assert browser.place == ()
    press(browser, "left")
    assert browser.message == "This is the list of all backups."


def test_a_file_opens_the_pane(browser: Browser) -> None:
    """Keys then scroll the pane, and the list is as it was."""
    (request,) = press(browser, "down")
    assert isinstance(request, Preview)
    browser.receive(Text(request, [TextLine(f"line {number}") for number in range(100)]))
    assert press(browser, "right", "down", "down") == []
    assert [line.text for line in browser.details.shown(40, 2)] == ["line 2", "line 3"]
    press(browser, "end")
    assert [line.text for line in browser.details.shown(40, 2)] == ["line 98", "line 99"]
    press(browser, "left", "down")
    assert name(browser) == b"link"


def test_filter(browser: Browser) -> None:
    """Typed letters are no commands; the cursor stays on its row where that is shown."""
    press(browser, "end", "/", "L", "space")
    assert browser.list.filter == "L "
    press(browser, "backspace")
    assert [row.name for row in browser.list.shown] == [b"Plan.txt", b"link"]
    assert press(browser, "down", "enter") == [Preview((*HERE, b"link"))]
    assert press(browser, "q") == []
    assert browser.outcome == "quit"
    press(browser, "escape")
    assert len(browser.list.shown) == 4
    assert name(browser) == b"link"


def test_selecting(browser: Browser) -> None:
    """Space selects and moves on; parts of what is selected cannot be deselected singly."""
    assert press(browser, "space")[0] == Select((*HERE, b"dir"))
    browser.receive(Selection([(*HERE, b"dir")]))
    assert browser.mark(b"dir") == "selected"
    press(browser, "up")
    assert press(browser, "space")[0] == Deselect((*HERE, b"dir"))
    press(browser, "up", "enter")
    browser.receive(Listed(ListDirectory((*HERE, b"dir")), [Row(b"file", "file")]))
    assert browser.mark(b"file") == "inside"
    assert press(browser, "space") == []
    assert "Selected as a part of /backup/redmine/dir." in browser.message


def test_versions_lead_to_their_backups(browser: Browser) -> None:
    """The mode stays while the cursor moves; a version can be selected, or gone to."""
    path = (*HERE, b"Plan.txt")
    assert press(browser, "v", "down") == [ListVersions((*HERE, b"dir")), ListVersions(path)]
    older, newer = ((backup, *path[1:]) for backup in (b"older", b"newer"))
    lines = [TextLine("heading"), TextLine("1", "", older), TextLine("2", "", newer)]
    browser.receive(Text(ListVersions(path), lines))
    assert press(browser, "tab", "down", "space") == [Select(newer)]
    assert press(browser, "up", "enter") == [Cancel("details"), ListDirectory(older[:-1])]
    assert browser.receive(Listed(ListDirectory(older[:-1]), ROWS)) == [ListVersions(older)]
    assert press(browser, "d", "p") == [DiffLive(older), Preview(older)]


def test_plan_and_restore(browser: Browser) -> None:
    """Enter leaves for the restore that is planned, once there is a plan."""
    assert press(browser, "r") == []
    assert browser.message.startswith("Nothing is selected.")
    browser.receive(Selection([HERE]))
    assert press(browser, "r") == [Plan()]
    assert press(browser, "enter") == []
    assert browser.outcome is None
    browser.receive(Failed(Plan(), "There is no plan."))
    press(browser, "enter")
    assert browser.outcome is None
    assert press(browser, "i") == [Plan(in_place=True)]
    browser.receive(Text(Plan(), [TextLine("the other plan")]))
    assert browser.page is not None
    assert browser.page.lines is None
    browser.receive(Text(Plan(in_place=True), [TextLine("the plan")]))
    press(browser, "enter")
    assert browser.outcome == "restore in place"


def test_pages_close(browser: Browser) -> None:
    """The key q closes a page, not the browser; the cursor does not move."""
    for key in ("q", "escape", "?"):
        press(browser, "?", "down", key)
        assert browser.page is None
    assert browser.outcome is None
    assert name(browser) == b"dir"
    press(browser, "interrupt")
    assert browser.outcome == "quit"


def test_errors_are_shown_where_they_belong(browser: Browser) -> None:
    """In the pane, or below the list, which is then empty."""
    (request,) = press(browser, "down")
    browser.receive(Failed(request, "It is damaged."))
    assert browser.details.lines == [TextLine("It is damaged.", "error")]
    press(browser, "up", "enter")
    browser.receive(Failed(ListDirectory((*HERE, b"dir")), "It cannot be read."))
    assert browser.problem == "It cannot be read."
    assert browser.list.rows == ()
    press(browser, "left")
    assert browser.problem == ""


def test_backups_are_described_later() -> None:
    """The list is there at once; the description of the backup replaces its preview."""
    browser = Browser()
    rows = [Row(b"new", "dir", mtime_ns=2), Row(b"old", "dir", mtime_ns=1)]
    assert browser.receive(Listed(ListDirectory(()), rows)) == [Preview((b"new",))]
    info = BackupInfo("complete", "all", (TextLine("described"),))
    browser.receive(Described({b"new": info}))
    assert browser.details.lines == (TextLine("described"),)
    browser.receive(Text(Preview((b"new",)), [TextLine("too late")]))
    assert browser.details.lines == (TextLine("described"),)
    assert press(browser, "down") == [Preview((b"old",))]
    assert press(browser, "up") == [Cancel("details")]


def test_mouse(browser: Browser) -> None:
    """A click moves the cursor, another one opens, and the second half of it does not."""
    assert browser.click(5, 4, now=1.0) == [Preview((*HERE, b"z"))]
    assert browser.click(5, 10, now=1.5) == []
    assert browser.click(5, 1, now=2.0) == [Preview((*HERE, b"dir"))]
    assert browser.click(5, 1, now=2.2)[1:] == [ListDirectory((*HERE, b"dir"))]
    browser.receive(Listed(ListDirectory((*HERE, b"dir")), [Row(b"below", "dir")]))
    assert browser.click(5, 1, now=2.4) == []
    assert browser.place == (*HERE, b"dir")
    press(browser, "left")
    assert browser.wheel(5, 1, 1) == [Preview((*HERE, b"z"))]
    browser.receive(Text(Preview((*HERE, b"z")), [TextLine(str(n)) for n in range(50)]))
    browser.wheel(80, 5, 1)
    assert browser.details.shown(40, 1)[0].text == "3"
    browser.click(80, 5, now=4.0)
    assert browser.in_details


def test_clicking_a_version_twice_goes_there(browser: Browser) -> None:
    """The first click moves the cursor of the pane."""
    target = (b"older", b"redmine", b"dir")
    press(browser, "v")
    lines = [TextLine("heading"), TextLine("1", "", target)]
    browser.receive(Text(ListVersions((*HERE, b"dir")), lines))
    browser.details.shown(40, 10)
    assert browser.click(80, 2, now=1.0) == []
    assert browser.click(80, 2, now=2.0)[1:] == [ListDirectory(target[:-1])]


def test_reading_again_keeps_the_cursor(browser: Browser) -> None:
    """F5 lists the directory again."""
    assert ListDirectory(HERE) in press(browser, "down", "f5")
    browser.receive(Listed(ListDirectory(HERE), [Row(b"new", "dir"), *ROWS]))
    assert name(browser) == b"Plan.txt"


def test_scrolling_follows_the_cursor() -> None:
    """The cursor is visible after each key and each change of the size."""
    browser = Browser(HERE)
    browser.resize(100, 20)
    rows = [Row(b"%05d" % number, "file") for number in range(10_000)]
    browser.receive(Listed(ListDirectory(HERE), rows))
    requests: list[Request] = []
    for key in ("end", "up", "pageup", "home", "pagedown", "pagedown", "up"):
        requests += browser.press(key)
        height = browser.layout.list.height
        assert browser.list.top <= browser.list.cursor < browser.list.top + height
    assert len(requests) == 7
    browser.resize(100, 9)
    assert browser.list.top <= browser.list.cursor < browser.list.top + browser.layout.list.height
