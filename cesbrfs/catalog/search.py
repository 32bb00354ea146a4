"""Order in which a snapshot's directories are searched for what rules match.  Pure.

A whole-system snapshot has far more directories than can be read whenever a backup is looked into.
Those that lead to a place where rules can match are read first, the others level by level.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from typing import Final

from cesbrfs.catalog.rules import Rule
from cesbrfs.repo.format.model import Node

DEPTH_MAX: Final = 6
"""Directories deeper than this below a path of the snapshot are not searched."""
EXPECTED_MAX: Final = 4096
"""Directories searched at most where rules are expected to match, such as in /var/lib/ces."""
OTHER_MAX: Final = 512
"""Directories searched at most elsewhere."""

_EXPECTED: Final = ("/var/lib/ces", "/etc/ces", "/etc/cesapp")
"""Where an instance has what the default rules place."""
_META: Final = frozenset(r"\.^$*+?{}[]()")
_OPTIONAL: Final = frozenset("*?{")


class SearchQueue:
    """Directories that are still to be searched below `top`, a path of the snapshot."""

    def __init__(self, rules: Iterable[Rule], top: str) -> None:
        literals = (literal_start(rule.match) for rule in rules)
        absolute = {*_EXPECTED, *(text.rstrip("/") for text in literals if text.strip("/"))}
        below = {f"{top.rstrip('/')}{path}" for path in _EXPECTED}
        self._targets: Final = tuple(f"{path}/" for path in sorted(absolute | below))
        self._queue: list[tuple[int, int, int, str, Node]] = []
        self._pushed = 0
        self._taken = [0, 0]
        self.cut = False
        """Whether a directory was left out because too many had been searched."""

    def push(self, path: str, node: Node, depth: int) -> bool:
        """Add a directory, `depth` levels below the top; return False when it is too deep."""
        if depth >= DEPTH_MAX:
            return False
        self._pushed += 1
        rank = 0 if self._is_expected(path) else 1
        heapq.heappush(self._queue, (rank, depth, self._pushed, path, node))
        return True

    def pop(self) -> tuple[str, Node, int] | None:
        """Take the next directory and its depth; None when there is none that may be searched."""
        while self._queue:
            rank, depth, _, path, node = heapq.heappop(self._queue)
            if self._taken[rank] < (OTHER_MAX if rank else EXPECTED_MAX):
                self._taken[rank] += 1
                return path, node, depth
            self.cut = True
        return None

    def _is_expected(self, path: str) -> bool:
        inside = f"{path.rstrip('/')}/"
        return any(
            inside.startswith(target) or target.startswith(inside) for target in self._targets
        )


def literal_start(pattern: re.Pattern[str]) -> str:
    """Return the directory, with its slash, in which all paths that match `pattern` must be.

    It is empty where the pattern may match anywhere.
    """
    text = pattern.pattern
    if "|" in text or not text.startswith("/"):
        return ""
    end = next((at for at, char in enumerate(text) if char in _META), len(text))
    if end < len(text) and text[end] in _OPTIONAL:
        end -= 1
    return text[: text.rfind("/", 0, end) + 1]
