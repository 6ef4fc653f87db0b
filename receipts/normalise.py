"""What a carrier's report says in our words: one verdict from its state word and error code.

Words come in any case and in vendors' spellings, as message_state numbers (SMPP 3.4, 5.2.28; 5.0
adds 0 and 9) or as CMPP Stat codes such as `MK:0005`. The meanings are data
(data/report-codes.json). A code nobody mapped is final `undelivered` (RELIABILITY section 6): a
resend could put the text on the phone twice; `is_known` is False so that someone maps it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sms.model import State

CACHED = 4096  # different (word, error) pairs; far more than one carrier uses


@dataclass(frozen=True, slots=True)  # made once per (word, error) and cached
class Verdict:
    """What a report means for its segment.

    `state` None: not an end, keep waiting. `reason` is a code of `sms.reasons`, None when there
    is nothing to explain. `is_temporary`: the fault is temporary or the channel's own, and the
    text was not handed on, so another attempt may follow (transition 17). `is_known` False: word
    or error is in no table; count it by channel.
    """

    state: State | None
    reason: str | None
    is_temporary: bool = False
    is_known: bool = True


def _read() -> dict[str, Any]:
    text = (Path(__file__).parent / "data" / "report-codes.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


_DATA = _read()
_REACTIONS: dict[str, Verdict] = {
    name: Verdict(
        State(entry["state"]) if entry["state"] else None, entry["reason"], entry["is_temporary"]
    )
    for name, entry in _DATA["reactions"].items()
}
REACTIONS = frozenset(_REACTIONS)
_WORDS: dict[str, str] = _DATA["words"]
_CODES: dict[str, str] = _DATA["codes"]
_PREFIXES: dict[str, str] = _DATA["prefixes"]
_ERRORS: dict[str, str] = _DATA["errors"]
# A protocol whose error numbers mean something of their own, in place of `errors`.
_ERRORS_OF: dict[str, dict[str, str]] = _DATA["protocol_errors"]

_UNMAPPED = replace(_REACTIONS["unknown"], is_known=False)
_NOTHING_SAID = Verdict(None, None, is_known=False)  # no word and no error: not an end
# Words whose error code says more; the others mean what they say whatever code stands beside.
_REFINED = frozenset({"undelivered", "expired", "deleted", "rejected"})


def judge(
    state_word: str, error: str, errors: Mapping[str, str] | None = None, *, protocol: str = ""
) -> Verdict:
    """The verdict on a report; about 0.1 µs once a pair was seen.

    `error` "" when absent, zeros mean none. `errors` is a channel's own table from error code or
    Stat code (upper case, numbers without leading zeros) to one of `REACTIONS`; it goes before
    the common one. `protocol` is the channel's: some give error numbers a meaning of their own.
    """
    if errors:
        return _judge(state_word, error, errors, protocol)
    return _judge_common(state_word, error, protocol)


@lru_cache(maxsize=CACHED)
def _judge_common(state_word: str, error: str, protocol: str) -> Verdict:
    return _judge(state_word, error, {}, protocol)


def _judge(state_word: str, error: str, own: Mapping[str, str], protocol: str) -> Verdict:
    word = _normal(state_word)
    code = _normal(error)
    if code == "0":
        code = ""
    if not word and not code:
        return _NOTHING_SAID
    reaction = own.get(word) or _WORDS.get(word)
    if reaction is None:
        # CMPP puts the code where the word stands; without a word the error alone must do.
        reaction = _of_code(word or code, own, protocol)
        return _UNMAPPED if reaction is None else _REACTIONS[reaction]
    if not code or reaction not in _REFINED:
        return _REACTIONS[reaction]
    return _refine(_REACTIONS[reaction], _of_code(code, own, protocol))


def _refine(said: Verdict, reaction: str | None) -> Verdict:
    """The word gives the end, the error the reason – unless that denies that there was an end."""
    if reaction is None:
        return replace(said, is_known=False)
    detail = _REACTIONS[reaction]
    if detail.state in (None, State.DELIVERED, State.EXPIRED):
        return said
    if detail.state is State.UNKNOWN:
        return detail
    return replace(detail, state=said.state)


def _of_code(code: str, own: Mapping[str, str], protocol: str) -> str | None:
    """The reaction to an error or Stat code: the channel's table, then the common ones."""
    errors = _ERRORS_OF.get(protocol, _ERRORS)
    return own.get(code) or errors.get(code) or _CODES.get(code) or _PREFIXES.get(code[:3])


def _normal(text: str) -> str:
    """Upper case without blanks; a plain number without leading zeros, zero as `0`."""
    text = text.strip(" \t\r\n\0").upper()
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"
    return text
