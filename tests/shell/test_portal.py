"""The portal: ^C, work in the foreground thread, threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import trio
from cesbr.portal import AbandonedError, Portal, TooSlowError, in_front, post_in_front

from cesbrfs.errors import InterruptedByUserError, NotFoundError


@pytest.fixture
def portal() -> Iterator[Portal]:
    made = Portal()
    yield made
    made.close()


def _press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_returns_what_the_function_returns(portal: Portal) -> None:
    """A call returns the function's result, and one loop serves many calls."""

    async def token() -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    assert portal.run(token) is portal.run(token)


def test_raises_what_the_function_raises(portal: Portal) -> None:
    """An exception reaches the caller unchanged, and the loop continues."""

    async def fail() -> None:
        raise NotFoundError("There is no such thing.")

    with pytest.raises(NotFoundError, match="no such thing"):
        portal.run(fail)
    assert portal.run(_seven) == 7


async def _seven() -> int:
    await trio.lowlevel.checkpoint()
    return 7


def test_ctrl_c_cancels_and_waits_for_the_end(portal: Portal) -> None:
    """The first ^C raises after the task has unwound, and the portal still works."""
    unwound: list[str] = []

    async def hang() -> None:
        try:
            _press_ctrl_c()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: unwound.append("done"))

    with pytest.raises(InterruptedByUserError):
        portal.run(hang)
    assert unwound == ["done"]
    assert portal.run(_seven) == 7


def test_ctrl_c_hides_the_errors_it_causes(portal: Portal) -> None:
    """Errors that a cancelled command raises are suppressed."""

    async def hang() -> None:
        try:
            _press_ctrl_c()
            await trio.sleep_forever()
        finally:
            raise NotFoundError("A consequence.")

    with pytest.raises(InterruptedByUserError):
        portal.run(hang)


def test_what_ends_in_spite_of_ctrl_c_counts(portal: Portal) -> None:
    """If the function finishes before it notices the ^C, its value is returned."""

    async def deaf() -> str:
        _press_ctrl_c()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: None)
        return "done"

    assert portal.run(deaf) == "done"


def test_second_ctrl_c_abandons(portal: Portal) -> None:
    """The second ^C returns at once; the task ends in the background and the portal still works."""
    release = threading.Event()
    ended = threading.Event()

    async def stubborn() -> None:
        try:
            _press_ctrl_c()
            await trio.sleep_forever()
        finally:
            _press_ctrl_c()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(release.wait)
            ended.set()

    with pytest.raises(AbandonedError):
        portal.run(stubborn)
    assert not ended.is_set()
    assert portal.run(_seven) == 7
    release.set()
    assert ended.wait(10)


def test_slow_end_is_told(portal: Portal) -> None:
    """The user is notified if cancelling a command takes long."""
    told = threading.Event()

    async def slow() -> None:
        try:
            _press_ctrl_c()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: told.wait(10))

    with pytest.raises(InterruptedByUserError):
        portal.run(slow, told.set)
    assert told.is_set()


def test_ctrl_c_is_given_back(portal: Portal) -> None:
    """After a call the previous SIGINT handler is restored."""
    before = signal.getsignal(signal.SIGINT)
    portal.run(_seven)
    assert signal.getsignal(signal.SIGINT) is before


def test_work_in_front_runs_in_the_waiting_thread(portal: Portal) -> None:
    """Blocking user interaction runs in the waiting thread, in order, and returns a result."""
    done: list[str] = []

    async def ask() -> threading.Thread:
        post_in_front(lambda: done.append("first"))
        found = await in_front(threading.current_thread)
        done.append("second")
        return found

    assert portal.run(ask) is threading.current_thread()
    assert done == ["first", "second"]


def test_errors_in_front_reach_the_task(portal: Portal) -> None:
    """An exception in foreground work, such as BrokenPipeError, is raised in the task."""

    async def write() -> str:
        try:
            await in_front(_break)
        except BrokenPipeError:
            return "noticed"
        return "not noticed"

    assert portal.run(write) == "noticed"


def _break() -> None:
    raise BrokenPipeError


def test_ctrl_c_ends_work_in_front(portal: Portal) -> None:
    """^C interrupts blocking foreground work, even if pressed just before it starts."""

    async def ask() -> None:
        await in_front(_wait_for_ctrl_c)

    async def ask_too_late() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_front, _press_ctrl_c)
            nursery.start_soon(in_front, _wait_for_ctrl_c)

    for question in (ask, ask_too_late):
        with pytest.raises(InterruptedByUserError):
            portal.run(question)


def _wait_for_ctrl_c() -> None:
    _press_ctrl_c()
    pytest.fail("^C was not noticed")


def test_ending_the_front_thread_unwinds_the_task(portal: Portal) -> None:
    """The SystemExit of SIGTERM is raised after the task has unwound."""
    unwound: list[str] = []

    def end(_number: int, _frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:

        async def hang() -> None:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                await trio.sleep_forever()
            finally:
                unwound.append("done")

        with pytest.raises(SystemExit):
            portal.run(hang)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert unwound == ["done"]


def test_ending_the_front_thread_in_the_middle_of_its_work(portal: Portal) -> None:
    """A task that waits for foreground work, even if shielded, gets an exception."""
    told: list[str] = []

    def end(_number: int, _frame: object) -> None:
        raise SystemExit(143)

    async def wait() -> None:
        with trio.CancelScope(shield=True), pytest.raises(InterruptedByUserError):
            await in_front(lambda: os.kill(os.getpid(), signal.SIGTERM))
        told.append("interrupted")

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit):
            portal.run(wait)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == ["interrupted"]


def test_other_threads_may_call_at_the_same_time(portal: Portal) -> None:
    """Completion can call while another call is running."""
    answers: list[int] = []

    async def outer() -> int:
        thread = threading.Thread(target=lambda: answers.append(portal.run(_seven)))
        thread.start()
        await trio.to_thread.run_sync(thread.join)
        return 1

    assert portal.run(outer) == 1
    assert answers == [7]


def test_who_cannot_wait_is_let_go(portal: Portal) -> None:
    """After its timeout the caller returns, and the call continues in the background."""
    go_on, done = threading.Event(), threading.Event()

    async def slow() -> None:
        await trio.to_thread.run_sync(go_on.wait)
        done.set()

    with pytest.raises(TooSlowError):
        portal.run(slow, patience=0.05)
    assert not done.is_set()
    go_on.set()
    assert done.wait(5)


def test_close_ends_what_still_runs() -> None:
    """Closing cancels abandoned tasks and ends the thread of the loop."""
    before = set(threading.enumerate())
    portal = Portal()
    ended = threading.Event()

    async def stubborn() -> None:
        try:
            _press_ctrl_c()
            _press_ctrl_c()
            await trio.sleep_forever()
        finally:
            ended.set()

    with pytest.raises(InterruptedByUserError):
        portal.run(stubborn)
    portal.close()
    assert ended.is_set()
    assert "cesbr-trio" not in {thread.name for thread in set(threading.enumerate()) - before}
