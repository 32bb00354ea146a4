"""How the results of a search in contents look.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cesbr.ui.matches import found_json, shown
from cesbrfs.util.escape import for_json, printable

if TYPE_CHECKING:
    from cesbrfs.history.find import Match
    from cesbrfs.history.line_search import Hit, SearchOptions, SearchResult
    from cesbrfs.vfs.timeline import Timeline

_CUT: Final = "…"


class GrepLines:
    """Formats results in the order in which they come; lines are `numbered` if asked for."""

    def __init__(self, line: Timeline, options: SearchOptions, *, numbered: bool) -> None:
        self._line: Final = line
        self._numbered: Final = numbered
        self._options: Final = options
        self._several: Final = len(line.moments) > 1
        self._cells: Final = len(str(len(line.moments)))
        self._match: Match | None = None
        self._last = 0
        self._grouped = False

    def heading(self) -> str:
        """Return the line above the results of several backups, else nothing."""
        return f"{'#':>{self._cells}}  Path\n" if self._several else ""

    def text(self, match: Match, result: SearchResult) -> Iterator[str]:
        """Yield lines as grep(1) prints them.

        A path leads into the newest of the backups that have this content.  With several backups,
        their number comes before it.
        """
        path = self._path(match)
        if result.binary:
            if result.hits:
                yield from self._lines(match, path, result.hits)
            yield f"{self._number(match)}Binary file {path} matches\n"
        elif self._options.output == "lines":
            yield from self._lines(match, path, result.hits)
        elif result.count:
            count = f":{result.count}" if self._options.output == "count" else ""
            yield f"{self._number(match)}{path}{count}\n"

    def _path(self, match: Match) -> str:
        return shown((*self._line.newest(match.moments).parts, *match.parts))

    def _number(self, match: Match) -> str:
        return f"{match.moments.bit_count():>{self._cells}}  " if self._several else ""

    def _lines(self, match: Match, path: str, hits: list[Hit]) -> Iterator[str]:
        begin = self._number(match) + path
        for hit in hits:
            if self._options.context and not self._follows(match, hit):
                if self._grouped:
                    yield "--\n"
                self._grouped = True
            self._match, self._last = match, hit.number
            mark = ":" if hit.selected else "-"
            number = f"{mark}{hit.number}" if self._numbered else ""
            yield f"{begin}{number}{mark}{_text(hit)}\n"

    def _follows(self, match: Match, hit: Hit) -> bool:
        return self._match is match and hit.number in (self._last, self._last + 1)

    def json(self, match: Match, result: SearchResult) -> Iterator[dict[str, object]]:
        """Yield an object for each line, or for each file if there are no lines."""
        (file,) = found_json(self._line, match, each=False)
        file["backup"] = file["last"]
        if self._options.output == "lines":
            for hit in result.hits:
                cut = {"cut": True} if hit.skipped or hit.remaining else {}
                yield {
                    **file,
                    "line": hit.number,
                    "match": hit.selected,
                    **for_json(hit.text, "text"),
                    **cut,
                }
        if result.binary:
            yield {**file, "binary": True}
        elif self._options.output == "count" and result.count:
            yield {**file, "matches": result.count}
        elif self._options.output == "files" and result.count:
            yield file


def _text(hit: Hit) -> str:
    """Return a line in escaped form; tabs stay."""
    parts = hit.text.removesuffix(b"\r").decode("utf-8", "surrogateescape").split("\t")
    text = "\t".join(map(printable, parts))
    return f"{_CUT * bool(hit.skipped)}{text}{_CUT * bool(hit.remaining)}"
