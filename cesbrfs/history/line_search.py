"""Search for lines that match a pattern, in content that arrives in parts. Pure.

Lines end with a line feed. The pattern is matched against each line without it, as grep does, so a
match never contains a line feed. Lines longer than `LINE_BYTES` are searched in pieces.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final, Literal

import msgspec

from cesbrfs.errors import UsageError
from cesbrfs.history.required_literals import required_literals

LINE_BYTES: Final = 1 << 20
"""Maximum length of a line that is searched as a whole."""
TEXT_BYTES: Final = 4 << 10
"""Maximum length of the text of a line in a result."""
_BEFORE_MATCH: Final = 1 << 10
"""Text before the match in the result for a longer line."""
_BLOCK_BYTES: Final = 256 << 10
"""Content that is split into lines at once."""
_BINARY_BYTES: Final = 32 << 10
"""Beginning of the content in which a null byte makes it binary."""
_WORD: Final = rb"[\w\x80-\xff]"
"""Characters of words: ASCII's, and every byte of all others in UTF-8."""
_HIT_BYTES: Final = 64

Output = Literal["lines", "count", "files"]


class SearchOptions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A pattern and how to search for it.

    `output`: matching lines, their number, or only whether there is one. `max_count` stops after
    this number of lines. `context` is the number of lines around a match. With `text`, binary
    content is searched like text. Without `numbers`, line numbers are 0.
    """

    pattern: bytes
    fixed: bool = False
    ignore_case: bool = False
    words: bool = False
    invert: bool = False
    output: Output = "lines"
    max_count: int | None = None
    context: int = 0
    text: bool = False
    numbers: bool = False


class Hit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A line of a result; `selected` unless it is context.

    `text` is cut to TEXT_BYTES: `skipped` bytes of the line come before it, `remaining` after it.
    """

    number: int
    text: bytes
    selected: bool = True
    skipped: int = 0
    remaining: int = 0


class SearchResult(msgspec.Struct, array_like=True, gc=False):
    """What was found in one content.

    `count` is the number of selected lines. `binary` content has no `hits` from the first line on
    that would not be text.
    """

    count: int = 0
    binary: bool = False
    hits: list[Hit] = []

    @property
    def size(self) -> int:
        """Approximate memory in bytes."""
        return sum(len(hit.text) + _HIT_BYTES for hit in self.hits)


class LineSearch:
    """A compiled search; raises UsageError for an invalid pattern."""

    def __init__(self, options: SearchOptions) -> None:
        self.options: Final = options
        pattern = options.pattern
        if b"\n" in pattern:
            raise UsageError(
                "A pattern cannot contain a line break: lines are searched one by one."
            )
        literals = [pattern] if options.fixed else required_literals(pattern)
        source = re.escape(pattern) if options.fixed else pattern
        flags = re.IGNORECASE if options.ignore_case else 0
        try:
            re.compile(source)  # alone, as it could be invalid only between our parentheses
            if options.words:
                source = rb"(?<!%b)(?:%b)(?!%b)" % (_WORD, source, _WORD)
            self.match: Final = re.compile(source, flags).search
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"Invalid regular expression: {error}.") from error
        self.literals: Final = [
            literal.lower() if options.ignore_case else literal for literal in literals if literal
        ]

    def scan(self) -> LineScan:
        """Return the scan of another content."""
        return LineScan(self)


class LineScan:
    """The scan of one content: `feed` it in order, then `finish`.

    `done` is set when the rest of the content does not matter. `take` returns the result so far.
    """

    def __init__(self, search: LineSearch) -> None:
        self._search = search
        self._options = search.options
        self._rest = b""
        self._number = 0
        """Number of line feeds before what is searched next."""
        self._begun = False
        self._is_binary = False
        self._left = self._options.max_count
        self._before: deque[tuple[int, bytes]] = deque(maxlen=self._options.context)
        self._after = 0
        self._result = SearchResult(hits=[])
        self.buffered = 0
        """Approximate size in bytes of the hits that were not taken."""
        self.done = self._left == 0

    def take(self) -> SearchResult:
        """Return what was found since the last call."""
        result, self._result = self._result, SearchResult(hits=[])
        self.buffered = 0
        return result

    def feed(self, data: bytes) -> None:
        """Search the next part of the content."""
        if self.done or not data:
            return
        if not self._begun:
            self._begun = True
            self._is_binary = not self._options.text and b"\0" in data[:_BINARY_BYTES]
        end = data.rfind(b"\n") + 1
        start = 0
        if end and self._rest:
            start = data.index(b"\n") + 1
            line, self._rest = self._rest + data[:start], b""
            self._search_block(line, 0, len(line))
        if end:
            self._search_block(data, start, end)
        self._rest += data[end:]
        while len(self._rest) > LINE_BYTES and not self.done:
            piece, self._rest = self._rest[:LINE_BYTES], self._rest[LINE_BYTES:]
            self._search_block(piece, 0, len(piece))

    def finish(self) -> None:
        """Search the last line if it has no line feed."""
        if self._rest:
            self._search_block(self._rest, 0, len(self._rest))
        self._rest = b""
        self.done = True

    def _search_block(self, data: bytes, start: int, end: int) -> None:
        """Search lines in `data`; the last one may lack its line feed."""
        if self.done or start >= end:
            return
        options = self._options
        if options.invert or not self._search.literals:
            self._search_lines(data, start, end)
        elif not options.context:
            self._search_candidates(data, start, end)
        elif self._after or min(self._candidates(data, start, end)) < end:
            self._search_lines(data, start, end)
        else:
            self._skip(data, start, end)

    # Lines with a literal that the pattern needs

    def _candidates(self, data: bytes, start: int, end: int) -> list[int]:
        """Return for each literal where it occurs first, `end` if it does not."""
        if self._options.ignore_case:
            data, start, end = data[start:end].lower(), 0, end - start
        found = [data.find(literal, start, end) for literal in self._search.literals]
        return [end if at < 0 else at for at in found]

    def _search_candidates(self, data: bytes, start: int, end: int) -> None:
        literals, numbers = self._search.literals, self._options.numbers
        folded = data.lower() if self._options.ignore_case else data
        following = [folded.find(literal, start, end) for literal in literals]
        at = start
        while (found := [place for place in following if place >= 0]) and not self.done:
            place = min(found)
            begin = data.rfind(b"\n", at, place) + 1 or at
            stop = data.find(b"\n", place, end)
            stop = end if stop < 0 else stop
            if numbers:
                self._number += data.count(b"\n", at, begin)
            self._search_line(data[begin:stop])
            self._number += numbers and stop < end
            at = stop + 1
            following = [
                folded.find(literal, at, end) if 0 <= place < at else place
                for literal, place in zip(literals, following, strict=True)
            ]
        if numbers:
            self._number += data.count(b"\n", at, end)

    # Every line

    def _search_lines(self, data: bytes, start: int, end: int) -> None:
        while start < end and not self.done:
            stop = data.rfind(b"\n", start, min(start + _BLOCK_BYTES, end)) + 1
            if stop <= start:
                stop = data.find(b"\n", start, end) + 1 or end
            lines = data[start:stop].split(b"\n")
            ended = lines[-1] == b""
            if ended:
                lines.pop()
            for line in lines:
                if self._search_line(line):
                    return
                self._number += 1
            self._number -= not ended
            start = stop

    def _skip(self, data: bytes, start: int, end: int) -> None:
        """Pass lines without a match; the last ones may come before the next match."""
        count = self._options.context
        feeds = data.count(b"\n", start, end)
        lines = data[start:end].rsplit(b"\n", count + 1)[-count - 1 :]
        if data[end - 1 : end] == b"\n":
            lines.pop()
        else:
            lines = lines[-count:]
        number = self._number + feeds + (data[end - 1 : end] != b"\n") - len(lines)
        for line in lines:
            number += 1
            self._before.append((number, line))
        self._number += feeds

    # One line

    def _search_line(self, line: bytes) -> bool:
        """Search one line; return whether the rest of the content does not matter."""
        for at in range(0, len(line) or 1, LINE_BYTES):
            piece = line if len(line) <= LINE_BYTES else line[at : at + LINE_BYTES]
            match = self._search.match(piece) if self._left != 0 else None
            if (match is None) == self._options.invert and self._left != 0:
                self._select(piece, match.start() if match else 0)
            elif self._after:
                self._after -= 1
                self._add(self._number + 1, piece, selected=False)
            elif self._options.context:
                self._before.append((self._number + 1, piece))
            self.done = self.done or (self._left == 0 and not self._after)
            if self.done:
                break
        return self.done

    def _select(self, line: bytes, place: int) -> None:
        result, options = self._result, self._options
        result.count += 1
        if self._left is not None:
            self._left -= 1
        if options.output == "files":
            self.done = True
        if options.output != "lines":
            return
        if self._is_binary or (b"\0" in line and not options.text):
            result.binary = self.done = True
            return
        for number, before in self._before:
            self._add(number, before, selected=False)
        self._before.clear()
        self._add(self._number + 1, line, place)
        self._after = options.context

    def _add(self, number: int, line: bytes, place: int = 0, *, selected: bool = True) -> None:
        skipped = max(0, place - _BEFORE_MATCH) if len(line) > TEXT_BYTES else 0
        text = line[skipped : skipped + TEXT_BYTES]
        remaining = len(line) - skipped - len(text)
        number = number if self._options.numbers else 0
        self._result.hits.append(Hit(number, text, selected, skipped, remaining))
        self.buffered += len(text) + _HIT_BYTES
