"""user_message_reference (SMPP 3.4, 5.3.2.17): 16 bits of ours that some carriers echo in receipts.

    submit_sm, its sequence's low 16 bits ─▶ no answer ─▶ kept here
    receipt of an unknown id with the same bits, for the same phone ─▶ our word for that attempt

It is evidence for a lost answer (RELIABILITY section 5), no more: what is answered goes by the
carrier's id. 16 bits come round, so the phone must be the same, and two that fit are none. Kept in
this process only; after a kill orphan matching does what this would. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sms.attempts import reference
from sms.model import Submit

MASK: Final = 0xFFFF
MAX_LOST: Final = 20_000  # lost answers of a channel; beyond, the oldest is forgotten
_DIGITS: Final = 8  # a carrier may write the phone with or without its country


class Named(NamedTuple):
    """Which attempt a receipt is about, as `sms.model.Report` says it."""

    reference: str
    part: tuple[int, int] | None


NOBODY: Final = Named("", None)


def named(submit: Submit) -> Named:
    """Our word for a submit's attempt, and its place in a long text."""
    word = reference(submit.message.id, submit.attempt)
    is_part = submit.total > 1 and not submit.parts
    return Named(word, (submit.segment + 1, submit.total) if is_part else None)


def is_same_phone(submit: Submit, number: str) -> bool:
    """Whether a receipt's number is the submit's, in whatever form."""
    return len(number) >= _DIGITS and submit.number[-_DIGITS:] == number[-_DIGITS:]


class LostSubmits:
    """The submits of one channel that were given up, by the bits they left with; mutable."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Named | None] = {}  # None: two that fit

    def note(self, sequence: int, submit: Submit) -> None:
        """Nobody heard of this one."""
        key = sequence & MASK, submit.number[-_DIGITS:]
        self._known[key] = None if key in self._known else named(submit)
        if len(self._known) > MAX_LOST:
            del self._known[next(iter(self._known))]

    def find(self, bits: int, number: str) -> Named:
        """The one that a receipt with these bits, for this number, is about; or `NOBODY`."""
        return self._known.get((bits, number[-_DIGITS:])) or NOBODY
