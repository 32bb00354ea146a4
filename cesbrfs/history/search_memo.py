"""Cache the results of a content search on disk, encrypted, by content ID.

The results of one pattern and its options are one record. There are a fixed number of records, and
the hash of the pattern selects the record, which replaces the one of another pattern.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from cesbrfs.history.line_search import SearchOptions, SearchResult
from cesbrfs.repo.repository import Repository
from cesbrfs.util.lru import LruCache

CONTENT_ID_BYTES: Final = 16
RESULT_BYTES: Final = 256 << 10
"""Maximum size of the result for one content that is cached."""
_VERSION: Final = 1
_RECORDS: Final = 16
_MAX_MISSES: Final = 500_000
"""Maximum number of cached contents without a match."""
_RESULTS_BYTES: Final = 8 << 20
"""Maximum size of the cached results with a match."""


class _Record(msgspec.Struct, array_like=True, gc=False):
    version: int
    search: bytes
    misses: bytes
    results: dict[bytes, SearchResult]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Record)


class SearchMemo:
    """The cached results of one search in one repository."""

    def __init__(self, repository: Repository, options: SearchOptions) -> None:
        self._repository: Final = repository
        self._search: Final = hashlib.sha256(_encoder.encode(options)).digest()
        self._name: Final = f"grep-{self._search[0] % _RECORDS}"
        self._misses: dict[bytes, None] = {}
        self._results: LruCache[bytes, SearchResult] = LruCache(
            _RESULTS_BYTES, lambda result: result.size + CONTENT_ID_BYTES
        )
        self._changed = False

    async def load(self) -> None:
        """Load what an earlier search saved."""
        data = await self._repository.load(self._name)
        if data is None:
            return
        try:
            record = _decoder.decode(data)
        except (ValueError, RecursionError):
            return  # written by another version
        if record.version != _VERSION or record.search != self._search:
            return
        size = CONTENT_ID_BYTES
        self._misses = {
            record.misses[at : at + size]: None for at in range(0, len(record.misses), size)
        }
        for content, result in record.results.items():
            self._results.put(content, result)

    async def save(self) -> None:
        """Save the results for the next run if there are new ones."""
        if not self._changed:
            return
        self._changed = False
        results = dict(self._results.items())
        record = _Record(_VERSION, self._search, b"".join(self._misses), results)
        await self._repository.keep(self._name, _encoder.encode(record))

    def get(self, content: bytes) -> SearchResult | None:
        """Return the cached result for a content ID of 16 bytes, None if there is none."""
        if content in self._misses:
            return SearchResult()
        return self._results.peek(content)

    def put(self, content: bytes, result: SearchResult) -> None:
        """Cache a complete result; evict the oldest ones if there are too many."""
        self._changed = True
        if result.count or result.binary or result.hits:
            self._results.put(content, result)
            return
        self._misses[content] = None
        while len(self._misses) > _MAX_MISSES:
            del self._misses[next(iter(self._misses))]
