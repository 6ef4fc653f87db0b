"""What a carrier's report says in our words: one verdict from its state word and error code.

Words come in any case and in vendors' spellings, as message_state numbers (SMPP 3.4, 5.2.28; 5.0
adds 0 and 9), as SGIP's State, or as CMPP Stat codes such as `MK:0005`. The classes of codes are
those of `sms.codes`; words and what a class means for a report are data/report-words.json. A code
nobody mapped is final `undelivered` (RELIABILITY section 6): a resend could put the text on the
phone twice; `is_known` is False so that someone maps it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from sms.codes import family_of, recorded
from sms.model import State

MAX_CODE = 20  # characters of a word or code in a channel's own table
CACHED = 4096  # different (word, error) pairs of a channel; far more than one carrier uses


@dataclass(frozen=True, slots=True)  # made once per (word, error) and cached
class Verdict:
    """What a report means for its segment.

    `state` None: not an end, keep waiting. `reason` is a code of `sms.reasons`, None when there
    is nothing to explain. `is_temporary`: the fault is temporary or the channel's own, and the
    text was not handed on, so another attempt may follow (transition 17). `is_known` False: word
    or error is in no table; count it by channel. `is_bad_number`: the number is refused for good by
    a code that is recorded as it stands; what only a prefix or a guess says is too little for that.
    """

    state: State | None
    reason: str | None
    is_temporary: bool = False
    is_known: bool = True
    is_bad_number: bool = False


def _read() -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / "report-words.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


_DATA = _read()
_BAD_NUMBER = frozenset({"perm_number", "perm_blacklist"})
_REACTIONS: dict[str, Verdict] = {
    name: Verdict(
        State(entry["state"]) if entry["state"] else None,
        entry["reason"],
        entry["is_temporary"],
        is_bad_number=name in _BAD_NUMBER,
    )
    for name, entry in _DATA["reactions"].items()
}
REACTIONS = frozenset(_REACTIONS)
_WORDS: dict[str, str] = _DATA["words"]
_LOWEST_SGIP_ERROR = 21  # below, a report's ErrorCode is not an answer's Result (SGIP 1.2)

_UNMAPPED = replace(_REACTIONS["unknown"], is_known=False)
_NOTHING_SAID = Verdict(None, None, is_known=False)  # no word and no error: not an end
# Words whose error code says more; the others mean what they say whatever code stands beside.
_REFINED = frozenset({"undelivered", "expired", "deleted", "rejected"})
# What a channel's `report_classes` may say: `unknown` is what a code is without it.
REPORT_CLASSES: Final = REACTIONS - {"unknown"}


@cache
def _words(family: str) -> Mapping[str, str]:
    """The words, with the numbers that stand for words in this protocol."""
    states: dict[str, str] | None = _DATA["states"].get(family)
    if states is None:
        return _WORDS
    return {word: end for word, end in _WORDS.items() if not word.isdigit()} | states


@cache
def _stat_codes() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """CMPP's Stat codes, whole and by their three first characters; other protocols quote them."""
    prefixes = {
        prefix: kind for prefix, kind in recorded("cmpp_stat_prefix").items() if prefix[-1] == ":"
    }
    return recorded("cmpp_stat_code"), prefixes | _DATA["prefixes"]


@cache
def _errors(family: str) -> Mapping[str, str]:
    """The errors beside a protocol's word that are recorded."""
    if family == "sgip":
        answers = recorded("sgip_result_or_errorcode").items()
        return {code: kind for code, kind in answers if int(code) >= _LOWEST_SGIP_ERROR}
    if family == "smgp":
        return {_normal(code): kind for code, kind in recorded("smgp_report_err").items()}
    return {}


class ReportCodes:
    """The words and codes in reports of one channel: its protocol's, and its own before them.

    `own` maps words, codes or prefixes (`XA:`) to `REPORT_CLASSES`.
    """

    __slots__ = ("_codes", "_errors", "_guesses", "_own", "_prefixes", "_seen", "_words")

    def __init__(self, protocol: str = "smpp", own: Mapping[str, str] | None = None) -> None:
        family = family_of(protocol)
        self._words = _words(family)
        self._errors = _errors(family)
        self._guesses: Mapping[str, str] = _DATA["errors"].get(family, {})
        self._codes, self._prefixes = _stat_codes()
        self._own = {_normal(code): kind for code, kind in (own or {}).items()}
        self._seen: dict[tuple[str, str], tuple[Verdict, str]] = {}

    def read(self, state_word: str, error: str) -> tuple[Verdict, str]:
        """The verdict on a report, and its raw code as tenants see it.

        About 0.1 µs once a pair was seen. `error` is "" when absent, zeros mean none.
        """
        try:
            return self._seen[state_word, error]
        except KeyError:
            raw = f"{state_word} {error}" if error else state_word
            if len(self._seen) >= CACHED:  # a carrier that invents codes must not fill memory
                self._seen.clear()
            verdict = self._seen[state_word, error] = self.judge(state_word, error), raw
            return verdict

    def judge(self, state_word: str, error: str) -> Verdict:
        """The verdict alone."""
        word = _normal(state_word)
        code = _normal(error)
        if code == "0":
            code = ""
        if not word and not code:
            return _NOTHING_SAID
        reaction = self._own.get(word) or self._words.get(word)
        if reaction is None:
            # CMPP puts the code where the word stands; without a word the error alone must do.
            return self._of_code(word or code) or _UNMAPPED
        if not code or reaction not in _REFINED:
            return _REACTIONS[reaction]
        return _refine(_REACTIONS[reaction], self._of_code(code))

    def _of_code(self, code: str) -> Verdict | None:
        """What an error or Stat code says: the channel's own table, then the common ones."""
        own, prefix = self._own, code[:3]
        sure = own.get(code) or own.get(prefix) or self._errors.get(code)
        if sure is None and code not in self._guesses:
            sure = self._codes.get(code)
        if sure is not None:
            return _REACTIONS[sure]
        guess = self._guesses.get(code) or self._prefixes.get(prefix)
        return None if guess is None else replace(_REACTIONS[guess], is_bad_number=False)


def _refine(said: Verdict, detail: Verdict | None) -> Verdict:
    """The word gives the end, the error the reason – unless that denies that there was an end."""
    if detail is None:
        return replace(said, is_known=False)
    if detail.state in (None, State.DELIVERED, State.EXPIRED):
        return said
    if detail.state is State.UNKNOWN:
        return detail
    return replace(detail, state=said.state)


def own_classes_refusal(value: object) -> str | None:
    """What is wrong with a channel's `report_classes` and what to do, or None."""
    if not isinstance(value, Mapping):
        return 'must be a map of words or codes to classes, such as {"XA:0005": perm_number}'
    for code, word in value.items():
        if not isinstance(code, str) or not code.isprintable() or not 0 < len(code) <= MAX_CODE:
            return f"has a key that is no code; write 1 to {MAX_CODE} characters, in quotes"
        if not isinstance(word, str) or word not in REPORT_CLASSES:
            return f"has an unknown class; use one of {', '.join(sorted(REPORT_CLASSES))}"
    return None


def _normal(text: str) -> str:
    """Upper case without blanks; a plain number without leading zeros, zero as `0`."""
    text = text.strip(" \t\r\n\0").upper()
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    return text
