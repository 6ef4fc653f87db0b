"""Which replies mean "send me no more" (RELIABILITY section 12): T TD R N 退订 STOP, folded.

Folded are case, width (Ｔ is T), spaces anywhere, and whatever stands round the word: punctuation,
quotes, brackets. Who copies the line of a text, as 回复TD or 回T退订, means the same. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

WORDS: Final = ("TD", "T", "R", "N", "STOP", "退订", "退訂")
_LONGEST: Final = 64  # characters of a reply that may be an opt-out word in some dress
_REPLY = re.compile("(?:回复|回復|回)?((?:TD|T|R|N|STOP)(?:退订|退訂)?|退订|退訂)").fullmatch


def opt_out_word(text: str) -> str | None:
    """The word that the reply is, folded; None when it is anything else."""
    if len(text) > _LONGEST:
        return None
    found = _REPLY("".join(filter(_is_letter, unicodedata.normalize("NFKC", text).upper())))
    return None if found is None else found[1]


def _is_letter(char: str) -> bool:
    """Not a space, a mark of punctuation, a symbol or an invisible character."""
    return unicodedata.category(char)[0] not in "ZPSC"
