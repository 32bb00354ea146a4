"""Search the content of files in many backups; each distinct content is read once.

Files are found directory by directory and collected in windows. The contents of a window are read
in the order of their packs; results are reported in the order in which the files were found.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import trio

from cesbrfs.errors import CesbrError, RepositoryUnreachableError
from cesbrfs.history.find import Criteria, Match, find
from cesbrfs.history.line_search import LineScan, LineSearch, SearchResult
from cesbrfs.history.search_memo import CONTENT_ID_BYTES, RESULT_BYTES, SearchMemo
from cesbrfs.vfs.compare import directory_in, node_of
from cesbrfs.vfs.content_reader import Batch, Content, ContentReader, Loaded
from cesbrfs.vfs.timeline import Parts, Timeline

_FIRST_WINDOW: Final = 64
_MAX_WINDOW: Final = 4096
"""Maximum number of contents in a window; the first windows are smaller, for quick results."""
_WINDOW_BYTES: Final = 256 << 20
_WINDOW_MATCHES: Final = 16_384
_BUFFER_BYTES: Final = 16 << 20
"""Maximum size of the results of a window that wait for their turn."""

Found = Callable[[Match, SearchResult], Awaitable[None]]
"""Receives a file and what was found in it; a long result comes in several parts."""
Interruptibly = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs a function that may take long, such as a regular expression, where ^C can end it."""


@dataclass(slots=True)
class Counts:
    """Number of files that were searched, and number and bytes of contents that were read."""

    files: int = 0
    contents: int = 0
    bytes: int = 0


class _Scan:
    """The scan of a content in a window; `blobs_read` is the number of blobs that were searched."""

    def __init__(self, content: Content, scan: LineScan) -> None:
        self.content: Final = content
        self.scan: Final = scan
        self.blobs_read = 0
        self.error: CesbrError | None = None
        self.ready = trio.Event()
        self.reported = False

    def feed(self, blobs: Sequence[bytes]) -> None:
        """Search the next blobs."""
        for blob in blobs:
            self.blobs_read += 1
            self.scan.feed(blob)
        if self.blobs_read == len(self.content.blobs):
            self.scan.finish()


class Grep:
    """One search in the contents of a timeline's files."""

    def __init__(
        self,
        line: Timeline,
        search: LineSearch,
        memo: SearchMemo,
        reader: ContentReader,
        *,
        interruptibly: Interruptibly,
        found: Found,
        progress: Callable[[Counts], object],
    ) -> None:
        self._line: Final = line
        self._search: Final = search
        self._memo: Final = memo
        self._reader: Final = reader
        self._interruptibly: Final = interruptibly
        self._found: Final = found
        self._progress: Final = progress
        self._limit = _FIRST_WINDOW
        self._window: list[Match] = []
        self._scans: dict[bytes, _Scan] = {}
        self._size = 0
        self._buffered = 0
        self.counts: Final = Counts()

    async def run(self, start: Parts, criteria: Criteria) -> None:
        """Search files that match `criteria`, at or below `start`.

        Read errors are added to the troubles of the timeline. Raises RepositoryUnreachableError.
        """
        await find(self._line, start, criteria, self._collect, compare=False)
        await self._flush()

    async def _collect(self, match: Match) -> None:
        """Add a file to the window."""
        content = _content_id(match)
        if content and self._memo.get(content) is None and content not in self._scans:
            try:
                self._scans[content] = await self._scan_of(match)
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                self._line.troubles.note(match.parts, error)
                return
            self._size += match.row.size
        self._window.append(match)
        if (
            len(self._scans) >= self._limit
            or self._size >= _WINDOW_BYTES
            or len(self._window) >= _WINDOW_MATCHES
        ):
            await self._flush()
            self._limit = min(4 * self._limit, _MAX_WINDOW)

    async def _scan_of(self, match: Match) -> _Scan:
        directory = directory_in(match.level, match.moments)
        node = await node_of(self._line, match.parts, (directory, match.row))
        return _Scan(Content(_content_id(match), node.blobs), self._search.scan())

    async def _flush(self) -> None:
        """Search the contents of the window, and report all its files in order."""
        async with trio.open_nursery() as nursery:
            if self._scans:
                batches = await self._reader.batches(scan.content for scan in self._scans.values())
                send, receive = trio.open_memory_channel[Batch](0)
                for _ in range(self._reader.tasks):
                    nursery.start_soon(self._work, receive.clone())
                receive.close()
                nursery.start_soon(_send_all, send, batches)
            for match in self._window:
                await self._report(match)
        self._window, self._scans = [], {}
        self._size = self._buffered = 0

    # Reading

    async def _work(self, receive: trio.MemoryReceiveChannel[Batch]) -> None:
        async with receive:
            async for batch in receive:
                scans = [self._scans[content.id] for content in batch.contents]
                if self._buffered <= _BUFFER_BYTES:  # otherwise read when it is reported
                    await self._search_batch(batch, scans)
                for scan in scans:
                    scan.ready.set()
                self._progress(self.counts)

    async def _search_batch(self, batch: Batch, scans: Sequence[_Scan]) -> None:
        if batch.is_small:
            await self._search_small(scans, await self._reader.load(batch))
        else:
            await self._search_large(scans[0])
        self._buffered += sum(scan.scan.buffered for scan in scans)
        self.counts.contents += len(scans)

    async def _search_small(self, scans: Sequence[_Scan], loaded: Sequence[Loaded]) -> None:
        def work() -> None:
            for scan, blobs in zip(scans, loaded, strict=True):
                if not isinstance(blobs, CesbrError):
                    scan.feed(blobs)

        for scan, blobs in zip(scans, loaded, strict=True):
            if isinstance(blobs, CesbrError):
                scan.error = blobs
            else:
                self.counts.bytes += sum(map(len, blobs))
        await self._interruptibly(work)

    async def _search_large(self, scan: _Scan) -> None:
        """Search a content until its result becomes too large to wait for its turn."""
        try:
            async with aclosing(self._reader.parts(scan.content)) as parts:
                async for blobs in parts:
                    if await self._feed(scan, blobs) or self._is_full(scan):
                        break
        except CesbrError as error:
            scan.error = error

    def _is_full(self, scan: _Scan) -> bool:
        buffered = scan.scan.buffered
        return buffered > RESULT_BYTES or self._buffered + buffered > _BUFFER_BYTES

    async def _feed(self, scan: _Scan, blobs: Sequence[bytes]) -> bool:
        """Search the next blobs; return whether the rest of the content does not matter."""
        self.counts.bytes += sum(map(len, blobs))
        await self._interruptibly(lambda: scan.feed(blobs))
        self._progress(self.counts)
        return scan.scan.done

    # Reporting

    async def _report(self, match: Match) -> None:
        """Report a file, as soon as its content was searched."""
        self.counts.files += 1
        content = _content_id(match)
        scan = self._scans.get(content)
        if scan is not None:
            await scan.ready.wait()
        result = self._memo.get(content) if content else SearchResult()
        if result is not None:
            await self._found(match, result)
            return
        try:
            if scan is None or scan.reported:  # the result was too large to be cached
                scan = await self._scan_of(match)
            await self._report_scan(match, scan)
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            self._line.troubles.note(match.parts, error)

    async def _report_scan(self, match: Match, scan: _Scan) -> None:
        """Report a result that is not cached; search the rest of the content."""
        scan.reported = True
        self._buffered -= scan.scan.buffered
        result = scan.scan.take()
        await self._found(match, result)
        if scan.error is not None:
            raise scan.error
        if scan.scan.done:
            if result.size <= RESULT_BYTES:
                self._memo.put(scan.content.id, result)
            return
        async with aclosing(self._reader.parts(scan.content, scan.blobs_read)) as parts:
            async for blobs in parts:
                done = await self._feed(scan, blobs)
                await self._found(match, scan.scan.take())
                if done:
                    break


def _content_id(match: Match) -> bytes:
    return match.row.content[:CONTENT_ID_BYTES]


async def _send_all(send: trio.MemorySendChannel[Batch], batches: Sequence[Batch]) -> None:
    async with send:
        for batch in batches:
            await send.send(batch)
