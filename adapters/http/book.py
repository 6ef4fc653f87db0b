"""What a channel asks its vendor about: lost answers, and receipts that stay away. Pure.

    lost answer ─▶ 2, 5, 10, 20, 40 … 600 s ─▶ until the vendor says, or evidence has its deadline
    no receipt  ─▶ after_s, then twice as long each time, TRIES times

A restart forgets both: lost ones are given again (`Channel.ask`), receipts still count. What ended
otherwise meanwhile is not asked about any more: its message says so.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Final

from adapters.http.vendor import Asked
from sms.model import FINAL_STATES, Submit

MAXIMUM: Final = 20_000  # of each kind of a channel; beyond, the oldest is not asked about
TRIES: Final = 8  # about a receipt
FIRST_S: Final = (2.0, 5.0, 10.0)  # after a lost answer; then twice as long each time
LONGEST_S: Final = 600.0
FOR_S: Final = 259_200.0  # the longest that a receipt is waited for, so an answer too

Key = tuple[int, int, int, int]  # message, attempt, copy, segment


def key_of(submit: Submit) -> Key:
    """One submit among all of them."""
    return submit.message.id, submit.attempt, submit.copy, submit.segment


@dataclass(slots=True, eq=False)  # not frozen: one per submit of a channel that asks
class Question:
    """Something the vendor is asked."""

    key: Key
    asked: Asked
    due: float  # monotonic
    is_lost: bool  # its answer was lost; else its receipt stays away
    tries: int = 0


class Book:
    """What one channel asks."""

    def __init__(self, after_s: float | None) -> None:
        """`after_s`: without a receipt for so long, it is asked for; None = receipts never are."""
        self._after_s = after_s
        self._lost: dict[Key, Question] = {}
        self._silent: dict[Key, Question] = {}
        self._due: list[tuple[float, int, Question]] = []  # a heap; what is settled is passed over
        self._entries = 0

    def __len__(self) -> int:
        return len(self._lost) + len(self._silent)

    def lost(self, asked: Asked, now: float) -> None:
        """Its answer was lost; known ones are left as they are."""
        key = key_of(asked.submit)
        if key not in self._lost:
            self._put(self._lost, Question(key, asked, now + FIRST_S[0], True))

    def taken(self, asked: Asked, now: float) -> None:
        """The vendor has it under this id: its answer is found, its receipt awaited."""
        key = key_of(asked.submit)
        self._lost.pop(key, None)
        if self._after_s is None or not asked.carrier_id or key in self._silent:
            return
        bare = replace(asked.submit, payload=b"", parts=(), filled=None)
        question = Question(key, replace(asked, submit=bare), now + self._after_s, False)
        self._put(self._silent, question)

    def is_open(self, question: Question) -> bool:
        """Whether it was not settled since it was asked."""
        shelf = self._lost if question.is_lost else self._silent
        return shelf.get(question.key) is question

    def settle(self, key: Key) -> None:
        """Nothing more to ask about it."""
        self._lost.pop(key, None)
        self._silent.pop(key, None)

    def due(self, unix: float, now: float) -> Question | None:
        """One to ask now; it comes again later unless it is settled."""
        while self._due and self._due[0][0] <= now:
            at, _, question = heapq.heappop(self._due)
            if not self.is_open(question) or question.due != at:
                continue
            if self._is_over(question, unix):
                self.settle(question.key)
                continue
            question.tries += 1
            self._again(question, now)
            return question
        return None

    def _is_over(self, question: Question, unix: float) -> bool:
        if question.asked.submit.message.state in FINAL_STATES:
            return True
        if question.is_lost:
            return unix - question.asked.sent_unix > FOR_S
        return question.tries >= TRIES

    def _again(self, question: Question, now: float) -> None:
        question.due = now + self._wait_s(question)
        self._entries += 1
        heapq.heappush(self._due, (question.due, self._entries, question))

    def _wait_s(self, question: Question) -> float:
        if not question.is_lost:
            return (self._after_s or 0.0) * 2.0**question.tries
        if question.tries < len(FIRST_S):
            return FIRST_S[question.tries]
        doublings = min(question.tries - len(FIRST_S) + 1, 16)
        return min(FIRST_S[-1] * 2.0**doublings, LONGEST_S)

    def _put(self, shelf: dict[Key, Question], question: Question) -> None:
        shelf[question.key] = question
        if len(shelf) > MAXIMUM:
            del shelf[next(iter(shelf))]
        self._entries += 1
        heapq.heappush(self._due, (question.due, self._entries, question))
        if len(self._due) > 4 * MAXIMUM:  # most of them were settled before their time
            open_ones = [*self._lost.values(), *self._silent.values()]
            self._due = [(one.due, place, one) for place, one in enumerate(open_ones)]
            self._entries = len(open_ones)
            heapq.heapify(self._due)
