"""Folders that a walk will come to are decoded while its client works on what it was told.

`find`, `tar` and the like read a folder and then descend into each of those that lie in it.
Between an answer and the next request nothing else is to do, and reading a folder takes longer than
answering it.  How far this runs ahead grows with how often it guessed right, so that who only looks
at one folder costs a few others at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

_LEAD: Final = 4
"""Folders decoded ahead of one who has only looked into one."""
_MOST_LEAD: Final = 64
_MOST_WAITING: Final = 10_000


class Walk:
    """The folders that will be asked for next, if somebody walks on.

    `decode` reads a folder (a tree's ID) if nothing has to be waited for, and tells whether it did.
    """

    def __init__(self, decode: Callable[[bytes], bool]) -> None:
        self._decode = decode
        self._waiting: list[bytes] = []
        """The next one is the last."""
        self._expected: set[bytes] = set()
        """Those and the ones that were decoded, until they are opened."""
        self._lead = _LEAD
        self._ahead = 0

    def opened(self, tree: bytes, below: Sequence[bytes]) -> None:
        """Take note that a folder was opened, and of the folders in it, in their order."""
        waiting, expected = self._waiting, self._expected
        if tree in expected:
            expected.discard(tree)
            if waiting and waiting[-1] == tree:
                waiting.pop()
            else:
                self._ahead -= 1
                self._lead = min(self._lead * 2, _MOST_LEAD)
        else:
            waiting.clear()
            expected.clear()
            self._lead, self._ahead = _LEAD, 0
        if not below:
            return
        more = [each for each in dict.fromkeys(below) if each not in expected]
        del more[max(0, _MOST_WAITING - len(waiting)) :]
        expected.update(more)
        waiting += reversed(more)

    def go_ahead(self) -> bool:
        """Decode the next folder; False where none is left, or it would have to be waited for."""
        if not self._waiting or self._ahead >= self._lead:
            return False
        if not self._decode(self._waiting[-1]):
            return False
        self._waiting.pop()
        self._ahead += 1
        return True
