"""Why a message goes over another channel than its route's first for it, as its row keeps it.

    gateway.choosing ─▶ a word ─▶ Message.detour ─▶ `times` of the attempt's row ─▶ the timeline

Beside the two times of an attempt (waited, answered, in ms) stand the number of the word and the
channel that it should have gone over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# Append only: their places are stored. The first is for a word that an older version cannot know.
_WORDS: Final = (
    "",
    "link",
    "config",
    "no_answer",
    "failures",
    "slow",
    "head_age",
    "receipts",
    "delivery",
    "probes",
    "paused",
    "refused",
    "uncertain",
    "throttled",
)
_WITH_DETOUR: Final = (4, 7)  # numbers in a row with one; seven where it waited for more besides
_PLACES: Final = {word: place for place, word in enumerate(_WORDS)}


def detour_of(cause: str, primary: int) -> tuple[int, int]:
    """What a message and its row keep of a cause and the channel that was passed by."""
    return _PLACES.get(cause, 0), primary


def told_detour(times: Sequence[int]) -> tuple[str, int] | None:
    """Cause and channel from a row's `times`; None where it went over its first channel."""
    if len(times) not in _WITH_DETOUR:
        return None
    place = times[2]
    return _WORDS[place] if 0 <= place < len(_WORDS) else "", times[3]


def in_words(cause: str, name: str | None) -> str:
    """For a person."""
    return f"instead of {name}" + (f": {cause.replace('_', ' ')}" if cause else "")
