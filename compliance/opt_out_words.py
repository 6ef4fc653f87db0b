"""Which replies mean "send me no more" (RELIABILITY section 12): T TD R N 退订 STOP, folded.

Folded are case, width (Ｔ is T), spaces anywhere, and what stands round the word: punctuation,
quotes, brackets, and the `回复` of who copies the line "回复TD退订" by halves. Pure.
"""

from __future__ import annotations

import unicodedata
from typing import Final

WORDS: Final = frozenset({"T", "TD", "R", "N", "STOP", "退订", "退訂"})
_ANSWER: Final = ("回复", "回復", "回")
_LONGEST: Final = 64  # characters of a reply that may be an opt-out word in some dress


def opt_out_word(text: str) -> str | None:
    """The word that the reply is, folded; None when it is anything else."""
    if len(text) > _LONGEST:
        return None
    folded = "".join(
        char for char in unicodedata.normalize("NFKC", text).upper() if _is_letter(char)
    )
    for head in ("", *_ANSWER):
        word = folded.removeprefix(head) if head else folded
        if word in WORDS:
            return word
    return None


def _is_letter(char: str) -> bool:
    """Not a space, a mark of punctuation, a symbol or an invisible character."""
    return unicodedata.category(char)[0] not in "ZPSC"
