"""The state of the browser: what a key, a click or a result changes, and what is then to be read.

Pure: methods return the requests to send to the reader, and nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, Literal

from cesbr.browser.layout import Layout
from cesbr.browser.listing import Listing
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
    Parts,
    Plan,
    Preview,
    Request,
    Requests,
    Result,
    Row,
    Select,
    Selection,
    Text,
    TextLine,
    Warned,
)
from cesbr.browser.pane import Pane
from cesbr.browser.texts import HELP
from cesbrfs.util.escape import show

Outcome = Literal["quit", "restore", "restore in place"]

_AGAIN_SECONDS: Final = 0.4
"""A click that follows one that opened something is its second half, not another one."""
_MOVES: Final = ("up", "down", "pageup", "pagedown", "home", "end")
_ALIASES: Final = {"j": "down", "k": "up"}
_CLOSING: Final = ("q", "escape", "left", "backspace", "?", "enter")
_WHEEL_LINES: Final = 3


class Browser:
    """The state. `place` is the directory that is shown, `selected` the selection, sorted.

    The cursor is put on the entry `at`, if there is one. `outcome` is set when the browser ends.
    """

    def __init__(self, place: Parts = (), selected: Sequence[Parts] = (), at: bytes = b"") -> None:
        self.place = place
        self.selected: Sequence[Parts] = tuple(selected)
        self.layout = Layout(80, 24, at_root=not place)
        self.list = Listing(self.layout.list.height)
        self.problem = ""
        """What could not be listed."""
        self.is_typing = False
        self.backups: dict[bytes, BackupInfo] = {}
        self.mode: type[Preview | ListVersions | DiffLive] = Preview
        self.details = Pane(())
        self.in_details = False
        self.page: Pane | None = None
        """Help, or a plan, in place of the list."""
        self.plan: Plan | None = None
        self.is_planned = False
        self.message = ""
        self.outcome: Outcome | None = None
        self._wanted: Request | None = None
        self._at = at
        self._above: dict[Parts, Listing] = {}
        self._opened_at = 0.0

    @property
    def path(self) -> Parts | None:
        """The path of the row under the cursor."""
        return None if self.list.row is None else (*self.place, self.list.row.name)

    def mark(self, name: bytes) -> Literal["selected", "inside", ""]:
        """Return whether an entry is selected, or inside of something that is."""
        path = (*self.place, name)
        if path in self.selected:
            return "selected"
        return "inside" if self._selected_above(path) is not None else ""

    # Events

    def start(self) -> Requests:
        """Return the first requests."""
        return [ListDirectory(self.place)]

    def resize(self, columns: int, lines: int) -> None:
        """Adapt to the size of the terminal."""
        self.layout = Layout(columns, lines, at_root=not self.place)
        self.list.resize(self.layout.list.height)

    def press(self, key: str) -> Requests:
        """Handle a key: a character, or the name of a key."""
        self.message = ""
        if key == "interrupt":
            return self._quit()
        if self.is_typing:
            return self._type(key)
        key = _ALIASES.get(key, key)
        if self.page is not None:
            return self._press_page(self.page, key)
        if key in _MOVES:
            return self._move(key)
        action = (self._IN_DETAILS if self.in_details else self._IN_LIST).get(key)
        return action(self) if action else []

    def click(self, column: int, line: int, now: float) -> Requests:
        """Handle a click; `now` is the time in seconds."""
        if self.page is not None:
            return []
        target, line = self.layout.at(column, line)
        if target == "list":
            index = self.list.top + line
            if index >= len(self.list.shown) or now - self._opened_at < _AGAIN_SECONDS:
                return []
            if index == self.list.cursor and not self.in_details:
                self._opened_at = now
                return self._open()
            self.in_details = False
            return self._look() if self.list.move_to(index) else []
        if target == "details":
            before = self.details.cursor if self.in_details else None
            if self.details.point(line) and self.details.cursor == before:
                return self._follow()
            self.in_details = True
        return []

    def wheel(self, column: int, line: int, step: int) -> Requests:
        """Scroll what is under the mouse, up for a `step` of -1 and down for 1."""
        lines = step * _WHEEL_LINES
        target, _ = self.layout.at(column, line)
        if self.page is not None:
            self.page.scroll(lines)
        elif target == "details":
            self.details.scroll(lines)
        elif target == "list" and self.list.move_to(self.list.cursor + lines):
            return self._look()
        return []

    def receive(self, result: Result) -> Requests:
        """Take a result of the reader; one that is no longer wanted changes nothing."""
        if isinstance(result, Listed):
            if result.request.parts == self.place:
                return self._set_rows(result.rows, result.problem)
        elif isinstance(result, Described):
            self.backups.update(result.backups)
            row = self.list.row
            if not self.place and self.mode is Preview and row and row.name in result.backups:
                self._describe()
        elif isinstance(result, Selection):
            self.selected = tuple(result.paths)
        elif isinstance(result, Warned):
            self.message = result.message
        elif isinstance(result, Text):
            self._set_text(result.request, result.lines)
        else:
            self._failed(result)
        return []

    def _failed(self, failed: Failed) -> None:
        request, message = failed.request, failed.message
        if isinstance(request, ListDirectory):
            if request.parts == self.place:
                self._set_rows(self.list.rows or (), message)
        elif isinstance(request, Select | Deselect):
            self.message = message
        else:
            self._set_text(request, [TextLine(message, "error")])
            if isinstance(request, Plan):
                self.is_planned = False

    def _set_text(self, request: Request, lines: Sequence[TextLine]) -> None:
        if request == self._wanted:
            self.details = Pane(lines)
        elif self.plan is not None and request == self.plan:
            self.page = Pane(lines)
            self.is_planned = True

    # The list

    def _set_rows(self, rows: Sequence[Row], problem: str) -> Requests:
        self.list.set_rows(rows, self._at)
        self.problem, self._at = problem, b""
        return self._look()

    def _move(self, key: str) -> Requests:
        if self.in_details:
            self.details.move(key)
            return []
        return self._look() if self.list.move(key) else []

    def _go(self, place: Parts, at: bytes = b"") -> Requests:
        """Show another directory; what was being read is no longer wanted."""
        self.place, self._at = place, at
        self.layout = Layout(self.layout.columns, self.layout.lines, at_root=not place)
        self.list = Listing(self.layout.list.height)
        self.problem, self.in_details = "", False
        self.details, self._wanted = Pane(()), None
        return [Cancel("details"), ListDirectory(place)]

    def _open(self) -> Requests:
        row = self.list.row
        if row is None:
            return []
        if not row.is_directory:
            self.in_details = True
            return []
        self._above[self.place] = self.list
        return self._go((*self.place, row.name))

    def _up(self) -> Requests:
        if not self.place:
            self.message = "This is the list of all backups."
            return []
        place = self.place[:-1]
        requests = self._go(place, self.place[-1])
        if place in self._above:  # it was read on the way down
            self.list = self._above.pop(place)
            self.list.resize(self.layout.list.height)
            return [Cancel("list"), *self._look()]
        return requests

    def _reload(self) -> Requests:
        self._above.clear()
        row = self.list.row
        return self._go(self.place, row.name if row else b"")

    # The selection

    def _mark(self) -> Requests:
        if self.path is None:
            return []
        return [*self._toggle(self.path), *self._move("down")]

    def _mark_target(self) -> Requests:
        target = self.details.target
        return self._toggle(target) if target else []

    def _toggle(self, path: Parts) -> Requests:
        above = self._selected_above(path)
        if above is not None:
            inside = "/" + "/".join(map(show, above))
            self.message = f"Selected as a part of {inside}. Deselect that to select parts of it."
            return []
        return [Deselect(path) if path in self.selected else Select(path)]

    def _selected_above(self, path: Parts) -> Parts | None:
        above = (path[:length] for length in range(len(path) - 1, 0, -1))
        return next((parts for parts in above if parts in self.selected), None)

    # The pane with details

    def _set_mode(self, mode: type[Preview | ListVersions | DiffLive]) -> Requests:
        self.mode = mode
        return self._look()

    def _look(self) -> Requests:
        """Return the request for what the pane shows of the row under the cursor."""
        path, row = self.path, self.list.row
        if path is None or row is None:
            self.details, self._wanted = Pane(()), None
            return [Cancel("details")]
        if not self.place and row.name in self.backups and self.mode is Preview:
            self._describe()
            return [Cancel("details")]
        request = self.mode(path)
        self.details, self._wanted = Pane(), request
        return [request]

    def _describe(self) -> None:
        """Show the description of the backup under the cursor."""
        info = self.backups.get(self.list.row.name) if self.list.row else None
        if info is not None:
            self.details, self._wanted = Pane(info.lines), None

    def _follow(self) -> Requests:
        """Go to the path that the line under the cursor leads to."""
        target = self.details.target
        if target is None:
            return []
        self._above.clear()
        return self._go(target[:-1], target[-1])

    def _focus(self) -> Requests:
        self.in_details = not self.in_details
        return []

    # The filter

    def _start_typing(self) -> Requests:
        self.in_details, self.is_typing = False, True
        return []

    def _type(self, key: str) -> Requests:
        if key in _MOVES:
            return self._move(key)
        text = self.list.filter
        if key in ("enter", "escape"):
            self.is_typing = False
            text = "" if key == "escape" else text
        elif key == "backspace":
            text = text[:-1]
        elif key == "space":
            text += " "
        elif len(key) == 1:
            text += key
        return self._filter(text)

    def _filter(self, text: str) -> Requests:
        before = self.list.row
        if text != self.list.filter:
            self.list.set_filter(text)
        return [] if self.list.row == before else self._look()

    # Help and plan

    def _help(self) -> Requests:
        self.page, self.plan = Pane(HELP), None
        return []

    def _plan(self, *, in_place: bool = False) -> Requests:
        if not self.selected:
            self.message = "Nothing is selected. Press Space to select what the cursor is on."
            return []
        self.plan, self.is_planned = Plan(in_place), False
        self.page = Pane()
        return [self.plan]

    def _press_page(self, page: Pane, key: str) -> Requests:
        if key in _MOVES:
            page.move(key)
        elif self.plan is not None and key == "i":
            return self._plan(in_place=not self.plan.in_place)
        elif self.plan is not None and key == "enter":
            if self.is_planned:
                self.outcome = "restore in place" if self.plan.in_place else "restore"
        elif key in _CLOSING:
            self.page = self.plan = None
            return [Cancel("page")]
        return []

    def _quit(self) -> Requests:
        self.outcome = "quit"
        return []

    _ANYWHERE: ClassVar[Mapping[str, Callable[[Browser], Requests]]] = {
        "q": _quit,
        "?": _help,
        "r": lambda self: self._plan(),
        "/": _start_typing,
        "v": lambda self: self._set_mode(ListVersions),
        "d": lambda self: self._set_mode(DiffLive),
        "p": lambda self: self._set_mode(Preview),
        "tab": _focus,
        "f5": _reload,
    }
    _IN_LIST: ClassVar[Mapping[str, Callable[[Browser], Requests]]] = {
        **_ANYWHERE,
        "enter": _open,
        "right": _open,
        "left": _up,
        "backspace": _up,
        "escape": lambda self: self._filter(""),
        "space": _mark,
    }
    _IN_DETAILS: ClassVar[Mapping[str, Callable[[Browser], Requests]]] = {
        **_ANYWHERE,
        "enter": _follow,
        "right": _follow,
        "left": _focus,
        "backspace": _focus,
        "escape": _focus,
        "space": _mark_target,
    }
