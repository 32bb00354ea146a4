"""The browser on a terminal: prompt_toolkit passes keys and clicks to the model, and draws it.

prompt_toolkit runs asyncio in the front thread. Requests go to trio's thread, and
results come back, by callbacks that never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Final

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Point
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import Layout, UIContent, UIControl, Window
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.styles import Style

from cesbr.browser.cells import width
from cesbr.browser.draw import STYLE, Fragments, draw
from cesbr.browser.messages import Request, Requests, Result, Warned
from cesbr.browser.model import Browser, Outcome
from cesbrfs.util.escape import printable

_KEYS: Final = {
    "up": "up", "down": "down", "left": "left", "right": "right", "pageup": "pageup",
    "pagedown": "pagedown", "home": "home", "end": "end", "enter": "enter", "tab": "tab",
    "backspace": "backspace", "escape": "escape", "f5": "f5", " ": "space", "c-c": "interrupt",
    "<sigint>": "interrupt",
}  # fmt: skip
"""prompt_toolkit's names of keys, and those of the model."""
_ESCAPE_SECONDS: Final = 0.1
"""Time after which an escape character is the Escape key, not the beginning of a sequence."""
_REDRAW_SECONDS: Final = 0.01


class Screen:
    """Shows a browser; `send` passes a request to the reader without waiting."""

    def __init__(self, browser: Browser, send: Callable[[Request], object]) -> None:
        self._browser = browser
        self._send = send
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drawn: list[Fragments] = []
        self._app: Application[Outcome] = Application(
            layout=Layout(Window(_Canvas(self))),
            key_bindings=self._bindings(),
            style=Style.from_dict(dict(STYLE)),
            full_screen=True,
            mouse_support=True,
            min_redraw_interval=_REDRAW_SECONDS,
        )
        self._app.ttimeoutlen = _ESCAPE_SECONDS

    def run(self) -> Outcome:
        """Show the browser until the user leaves it; for the front thread, where it may block."""
        with self._logging(), _signals(self._exit):
            try:
                return self._app.run(pre_run=self._begin, set_exception_handler=False)
            except EOFError:  # the terminal is gone
                return "quit"
            finally:
                self._loop = None

    def deliver(self, result: Result) -> None:
        """Show a result of the reader; for any thread, never waits."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed just now
                loop.call_soon_threadsafe(self._handle, lambda: self._browser.receive(result))

    def draw(self, columns: int, lines: int) -> list[Fragments]:
        """Return the lines of a screen of this size."""
        try:
            self._browser.resize(columns, lines)
            self._drawn = draw(self._browser)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._exit(error)
        return self._drawn

    def mouse(self, event: MouseEvent) -> None:
        """Handle a click or the wheel; the position is given in characters of the line."""
        line, characters = event.position.y, event.position.x
        text = "".join(text for _, text in self._drawn[line]) if line < len(self._drawn) else ""
        column = width(text[:characters])
        if event.event_type == MouseEventType.MOUSE_UP:
            self._handle(lambda: self._browser.click(column, line, time.monotonic()))
        elif event.event_type in (MouseEventType.SCROLL_UP, MouseEventType.SCROLL_DOWN):
            step = -1 if event.event_type == MouseEventType.SCROLL_UP else 1
            self._handle(lambda: self._browser.wheel(column, line, step))

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._handle(self._browser.start)

    def _handle(self, event: Callable[[], Requests]) -> None:
        """Have the model handle an event, send its requests, and draw it again."""
        try:
            for request in event():
                self._send(request)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._exit(error)
            return
        if self._browser.outcome is not None:
            self._exit(self._browser.outcome)
        else:
            self._app.invalidate()

    def _exit(self, result: Outcome | BaseException) -> None:
        if self._app.future is None or self._app.future.done():
            return
        if isinstance(result, BaseException):
            self._app.exit(exception=result)
        else:
            self._app.exit(result=result)

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        for key, name in _KEYS.items():
            bindings.add(key, eager=key != "escape")(self._on_key(name))

        @bindings.add("c-l")
        def _(_event: KeyPressEvent) -> None:
            self._app.renderer.clear()  # and all is drawn again

        @bindings.add(Keys.Any)
        def _(event: KeyPressEvent) -> None:
            if len(event.data) == 1 and event.data.isprintable():  # no pasted text
                self._handle(lambda: self._browser.press(event.data))

        return bindings

    def _on_key(self, name: str) -> Callable[[KeyPressEvent], None]:
        def pressed(_event: KeyPressEvent) -> None:
            self._handle(lambda: self._browser.press(name))

        return pressed

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Show log messages in the browser: written to stderr, they would spoil the screen."""
        root = logging.getLogger()
        before = root.handlers[:]
        root.handlers = [_Handler(self.deliver)]
        try:
            yield
        finally:
            root.handlers = before


class _Canvas(UIControl):
    """The whole screen."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def create_content(self, width: int, height: int | None) -> UIContent:
        lines = self._screen.draw(width, height or 1)
        return UIContent(
            get_line=lambda number: [*lines[number]],
            line_count=len(lines),
            cursor_position=Point(0, 0),
            show_cursor=False,
        )

    def is_focusable(self) -> bool:
        return True

    def mouse_handler(self, mouse_event: MouseEvent) -> None:
        self._screen.mouse(mouse_event)


class _Handler(logging.Handler):
    def __init__(self, deliver: Callable[[Result], object]) -> None:
        super().__init__()
        self._deliver = deliver

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._deliver(Warned(printable(record.getMessage())))


@contextlib.contextmanager
def _signals(leave: Callable[[BaseException], None]) -> Iterator[None]:
    """Leave the screen on SIGTERM and SIGHUP, so that the terminal is restored."""

    def on_signal(number: int, _frame: object) -> None:
        leave(SystemExit(128 + number))

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
