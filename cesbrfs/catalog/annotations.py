"""Encode the protection and the note of a backup as tags of its snapshots. Pure.

Both tags contain ``=`` and are therefore not Backup IDs. They are ignored where tags describe the
content of a snapshot, because they can be added to and removed from a part of a backup.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote

from cesbrfs.errors import UsageError
from cesbrfs.repo.format.model import Snapshot

PROTECTED_TAG: Final = "protected=yes"
"""Tag of a protected backup: on its manifest, or on all its snapshots if it has no manifest."""
NOTE_MAX: Final = 200
"""Maximum number of characters of a note."""

_NOTE: Final = "note="
_ENCODED: Final = re.compile(r"[%,\x00-\x1f\x7f-\x9f]")
"""``%``, the comma, which separates tags in restic's options, and control characters."""


def is_annotation(tag: str) -> bool:
    """Return whether `tag` is a protection or a note."""
    return tag == PROTECTED_TAG or tag.startswith(_NOTE)


def is_protected(snapshot: Snapshot) -> bool:
    """Return whether `snapshot` has the tag of a protected backup."""
    return PROTECTED_TAG in snapshot.tags


def note_tags(snapshot: Snapshot) -> list[str]:
    """Return the tags of `snapshot` that contain a note."""
    return [tag for tag in snapshot.tags if tag.startswith(_NOTE)]


def note_of(snapshot: Snapshot) -> str | None:
    """Return the note of `snapshot`, None if it has none."""
    texts = (unquote(tag.removeprefix(_NOTE)).strip() for tag in note_tags(snapshot))
    return next(filter(None, texts), None)


def note_tag(text: str) -> str:
    """Return the tag for a note, percent-encoded where a tag cannot contain a character.

    White space is reduced to single spaces. Raises UsageError for a note that is empty, too long,
    or not valid text.
    """
    line = " ".join(text.split())
    if not line:
        raise UsageError("The note is empty. Pass a text, or --remove to remove the note.")
    if len(line) > NOTE_MAX:
        raise UsageError(
            f"The note has {len(line):,} characters. Shorten it to at most {NOTE_MAX}."
        )
    if any(unicodedata.category(character) == "Cs" for character in line):
        raise UsageError("The note is not valid UTF-8. Pass it as UTF-8 text.")
    return _NOTE + _ENCODED.sub(lambda match: quote(match[0], safe=""), line)
