"""Ask the reader of the browser, without a terminal."""

from __future__ import annotations

import math

import trio
from cesbr.browser.messages import Request, Requests, Result
from cesbr.browser.reader import Reader
from cesbr.portal import Portal
from cesbr.session import Context, Session
from cesbr.ui.output import Output


def answers(portal: Portal, session: Session, requests: Requests, results: int = 1) -> list[Result]:
    """Send requests to a reader; return its first results, in the order in which they come."""
    got: list[Result] = []

    async def run() -> None:
        send, receive = trio.open_memory_channel[Request](math.inf)
        enough = trio.Event()

        def deliver(result: Result) -> None:
            got.append(result)
            if len(got) == results:
                enough.set()

        reader = Reader(Context(session, Output(quiet=True)), deliver)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.serve, receive)
            for request in requests:
                send.send_nowait(request)
            await enough.wait()
            nursery.cancel_scope.cancel()

    portal.run(run)
    return got
