"""The way from a thread that waits to trio: one long-lived loop in a background thread.

The front thread (the main one) waits in `Portal.run` and does what the running command asks of it:
everything that blocks on the user, such as writing to a slow pipe or reading an answer, is done
there by `in_front`, so the loop never blocks and a ^C always gets through.
"""

from __future__ import annotations

import contextlib
import math
import queue
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, cast

from cesbrfs.errors import CesbrError, InterruptedByUserError

if TYPE_CHECKING:
    from types import FrameType

    import trio

T = TypeVar("T")

_PATIENCE: Final = 5.0
"""Seconds that an abandoned task gets to end when the portal is closed."""
_SLOW_SECONDS: Final = 1.0
_TICK_SECONDS: Final = 0.2


class AbandonedError(InterruptedByUserError):
    """The user did not wait for the command to end cleanly."""


class TooSlowError(Exception):
    """The result takes longer than the caller waits."""


class _Wake:
    """Something else than a message happened: ^C was pressed."""


@dataclass(slots=True)
class _Result:
    """How the call, or a piece of work in front, came out."""

    value: object = None
    error: BaseException | None = None

    def unwrap(self) -> object:
        if self.error is not None:
            raise self.error
        return self.value


def _interrupted() -> InterruptedByUserError:
    return InterruptedByUserError("Interrupted.")


def _only_ours(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_only_ours(inner) for inner in error.exceptions)
    return isinstance(error, CesbrError)


@dataclass(slots=True, eq=False)
class _Work:
    """Something that the task wants done by the thread that waits for it."""

    function: Callable[[], object]
    answer: Callable[[_Result], None]
    wanted: bool = True


@dataclass(slots=True, eq=False)
class _Call:
    """One async function on its way through the loop."""

    function: Callable[[], Awaitable[object]]
    scope: trio.CancelScope
    begun: bool = False
    result: _Result | None = None
    # SimpleQueue.put may be called from a signal handler, which Queue.put may not.
    messages: queue.SimpleQueue[_Work | _Wake | _Result] = field(default_factory=queue.SimpleQueue)

    def begin(self, nursery: trio.Nursery) -> None:
        """Start the function, once; for the loop's thread."""
        if not self.begun:
            self.begun = True
            nursery.start_soon(self.run)

    async def run(self) -> None:
        """Run the function; whatever happens, its result is the last message."""
        _current.set(self)
        result = _Result(error=_interrupted())
        try:
            with self.scope:
                result = _Result(await self.function())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            # Errors of a cancelled command follow from the cancellation, except for the hint how to
            # continue.
            is_hint = isinstance(error, InterruptedByUserError)
            if is_hint or not (self.scope.cancel_called and _only_ours(error)):
                result = _Result(error=error)
        finally:
            self.result = result
            self.messages.put(result)


_current: ContextVar[_Call | None] = ContextVar("_current", default=None)


async def in_front(function: Callable[[], T]) -> T:
    """Run `function` in the thread that waits in `Portal.run`, and return what it returns.

    There it may block.  Called outside of a portal, it is simply called.
    """
    import trio

    call = _current.get()
    if call is None:
        return function()
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    results: list[_Result] = []

    def answer(result: _Result) -> None:
        results.append(result)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    work = _Work(function, answer)
    call.messages.put(work)
    try:
        await done.wait()
    finally:
        work.wanted = False
    return cast("T", results[0].unwrap())


def post_in_front(function: Callable[[], object]) -> None:
    """Have `function` run in the thread that waits, without waiting for it."""
    call = _current.get()
    if call is None:
        function()
    else:
        call.messages.put(_Work(function, lambda _: None))


class Portal:
    """Runs async functions, one call after the other or from several threads at once."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken
        self._nursery: trio.Nursery
        self._stop: trio.Event
        self._calls = 0

    @property
    def is_busy(self) -> bool:
        """Whether a function is running that a thread waits for."""
        return self._calls > 0

    def run(
        self,
        function: Callable[[], Awaitable[T]],
        on_slow_end: Callable[[], object] = lambda: None,
        on_tick: Callable[[], object] = lambda: None,
        patience: float = math.inf,
    ) -> T:
        """Run `function` on the loop and return what it returns.

        In the main thread the first ^C cancels it and waits until it has unwound; then
        InterruptedByUserError is raised.  A second one abandons it (AbandonedError).
        `on_slow_end` is called when the unwinding takes longer than people wait without a word,
        `on_tick` several times a second while nothing else is to be done.  After `patience`
        seconds TooSlowError is raised, and the function continues in the background.
        """
        import trio

        self._start()
        call = _Call(function, trio.CancelScope())
        front = _Front(
            call,
            begin=lambda: self._token.run_sync_soon(call.begin, self._nursery),
            cancel=lambda: self._token.run_sync_soon(call.scope.cancel),
            on_slow_end=on_slow_end,
            on_tick=on_tick,
        )
        self._calls += 1
        try:
            return cast("T", front.wait(time.monotonic() + patience))
        finally:
            self._calls -= 1

    def close(self, patience: float = _PATIENCE) -> None:
        """End the loop and what still runs in it; wait at most `patience` seconds."""
        import trio

        if self._thread is None:
            return
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stop.set)
        self._thread.join(patience)
        self._thread = None

    def _start(self) -> None:
        if self._thread is not None:
            return
        import trio

        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: trio.run(self._loop, started), name="cesbr-trio", daemon=True
        )
        self._thread.start()
        started.wait()

    async def _loop(self, started: threading.Event) -> None:
        import trio

        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as self._nursery:
            started.set()
            await self._stop.wait()
            self._nursery.cancel_scope.cancel()


class _Front:
    """The waiting side of one call."""

    def __init__(
        self,
        call: _Call,
        *,
        begin: Callable[[], None],
        cancel: Callable[[], None],
        on_slow_end: Callable[[], object],
        on_tick: Callable[[], object],
    ) -> None:
        self._call = call
        self._begin = begin
        self._cancel = cancel
        self._on_slow_end = on_slow_end
        self._on_tick = on_tick
        self._pressed = 0
        self._working = False

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Take ^C for as long as the call lasts; other threads than the main one never get it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._on_sigint)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)

    def _on_sigint(self, _number: int, _frame: FrameType | None) -> None:
        self._pressed += 1
        if self._working:  # only this ends a blocking write or read
            raise KeyboardInterrupt
        self._call.messages.put(_Wake())

    def wait(self, deadline: float) -> object:
        """Begin the call and serve it until its result is there."""
        try:
            with self._listening():
                self._begin()
                return self._serve(deadline)
        except (AbandonedError, TooSlowError):
            raise
        except BaseException:
            # For example SIGTERM's SystemExit: the command ends cleanly before it is raised.
            self._unwind()
            raise

    def _serve(self, deadline: float) -> object:
        notified, pressed_at = False, math.inf
        while True:
            wait = min(_TICK_SECONDS, deadline - time.monotonic())
            if wait <= 0:
                raise TooSlowError
            try:
                message = self._call.messages.get(timeout=wait)
            except queue.Empty:
                if not notified and time.monotonic() - pressed_at > _SLOW_SECONDS:
                    notified = True
                    self._on_slow_end()
                self._on_tick()
                continue
            if isinstance(message, _Result):
                return message.unwrap()
            if isinstance(message, _Work) and message.wanted:
                self._work(message)
            if self._pressed and pressed_at == math.inf:
                pressed_at = time.monotonic()
            self._heed()

    def _work(self, work: _Work) -> None:
        """Do `work` unless ^C was pressed; from the first line on, ^C ends it."""
        try:
            self._working = True
            if self._pressed:
                raise KeyboardInterrupt  # noqa: TRY301 - pressed while the work was on its way
            result = _Result(work.function())
            self._working = False
        except KeyboardInterrupt:
            self._cancel()  # before the answer: what follows from it counts as cancelled
            result = _Result(error=_interrupted())
        except Exception as error:  # noqa: BLE001 - raised again in the task
            result = _Result(error=error)
        except BaseException:
            # SIGTERM's SystemExit, say: the task, which may be shielded, waits for an answer.
            work.answer(_Result(error=_interrupted()))
            raise
        finally:
            self._working = False
        work.answer(result)

    def _heed(self) -> None:
        """Do what the ^C pressed so far mean."""
        if self._pressed > 1:
            raise AbandonedError(
                "Interrupted twice: the command continues in the background until it ends."
            )
        if self._pressed:
            self._cancel()

    def _unwind(self) -> None:
        """Cancel the call and wait until it has ended; it may not even have begun."""
        self._cancel()
        self._begin()
        while self._call.result is None:
            with contextlib.suppress(queue.Empty):
                message = self._call.messages.get(timeout=_SLOW_SECONDS)
                if isinstance(message, _Work):
                    message.answer(_Result(error=_interrupted()))
