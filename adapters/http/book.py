"""What a channel asks its vendor about: lost answers, and receipts that stay away. Pure.

    lost answer ─▶ 2, 5, 10, 20, 40 … 600 s ─▶ until the vendor says, or evidence has its deadline
    no receipt  ─▶ after_s, then twice as long each time, TRIES times; lost answers go first
    overdue     ─▶ once, now: who says so knows it from the store, and says it again

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
FOUND_AFTER_S: Final = 300.0  # `after_s` of what was found by asking, where there is none
ONCE_S: Final = 60.0  # what is asked once is forgotten after so long
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
    after_s: float = 0.0  # of a receipt: the wait before the first question
    tries: int = 0


class _Shelf:
    """Questions of one kind: by what they are about, and by when they are due."""

    def __init__(self) -> None:
        self.questions: dict[Key, Question] = {}
        self.due: list[tuple[float, int, Question]] = []  # a heap; what is settled is passed over
        self._entries = 0

    def put(self, question: Question) -> None:
        """A new one; the oldest goes where there are too many."""
        self.questions[question.key] = question
        if len(self.questions) > MAXIMUM:
            del self.questions[next(iter(self.questions))]
        self.push(question)
        if len(self.due) > 2 * MAXIMUM:  # most of them were settled before their time
            open_ones = list(self.questions.values())
            self.due = [(one.due, place, one) for place, one in enumerate(open_ones)]
            self._entries = len(open_ones)
            heapq.heapify(self.due)

    def push(self, question: Question) -> None:
        """It comes at the moment that it names."""
        self._entries += 1
        heapq.heappush(self.due, (question.due, self._entries, question))

    def pop(self, now: float) -> Question | None:
        """One that is due, taken from the heap alone."""
        while self.due and self.due[0][0] <= now:
            at, _, question = heapq.heappop(self.due)
            if self.questions.get(question.key) is question and question.due == at:
                return question
        return None


class Book:
    """What one channel asks."""

    def __init__(self, after_s: float | None) -> None:
        """`after_s`: without a receipt for so long, it is asked for; None = only where the answer
        was lost and found by asking, as its receipt may name an id that nobody told us."""
        self._after_s = after_s
        self._lost = _Shelf()
        self._silent = _Shelf()

    def __len__(self) -> int:
        return len(self._lost.questions) + len(self._silent.questions)

    def lost(self, asked: Asked, now: float) -> None:
        """Its answer was lost; known ones are left as they are."""
        key = key_of(asked.submit)
        if key not in self._lost.questions:
            self._lost.put(Question(key, asked, now + FIRST_S[0], True))

    def taken(self, asked: Asked, now: float) -> None:
        """The vendor has it under this id: its answer is found, its receipt awaited."""
        key = key_of(asked.submit)
        was_lost = self._lost.questions.pop(key, None) is not None
        after_s = FOUND_AFTER_S if self._after_s is None and was_lost else self._after_s
        if after_s is None or not asked.carrier_id or key in self._silent.questions:
            return
        bare = replace(asked.submit, payload=b"", parts=(), filled=None)
        self._silent.put(Question(key, replace(asked, submit=bare), now + after_s, False, after_s))

    def overdue(self, asked: Asked, now: float) -> None:
        """The vendor has it under this id, for long: ask once, unless it is asked about anyway."""
        key = key_of(asked.submit)
        if key in self._lost.questions or key in self._silent.questions:
            return
        bare = replace(asked.submit, payload=b"", parts=(), filled=None)
        asked = replace(asked, submit=bare)
        self._silent.put(Question(key, asked, now, False, ONCE_S / 2.0**TRIES, TRIES - 1))

    def is_open(self, question: Question) -> bool:
        """Whether it was not settled since it was asked."""
        shelf = self._lost if question.is_lost else self._silent
        return shelf.questions.get(question.key) is question

    def settle(self, key: Key) -> None:
        """Nothing more to ask about it."""
        self._lost.questions.pop(key, None)
        self._silent.questions.pop(key, None)

    def due(self, unix: float, now: float) -> Question | None:
        """One to ask now, lost answers first: a decision waits for those.

        It comes again later unless it is settled.
        """
        for shelf in (self._lost, self._silent):
            while (question := shelf.pop(now)) is not None:
                if _is_over(question, unix):
                    self.settle(question.key)
                    continue
                question.tries += 1
                question.due = now + _wait_s(question)
                shelf.push(question)
                return question
        return None


def _is_over(question: Question, unix: float) -> bool:
    if question.asked.submit.message.state in FINAL_STATES:
        return True
    if question.is_lost:
        return unix - question.asked.sent_unix > FOR_S
    return question.tries >= TRIES


def _wait_s(question: Question) -> float:
    if not question.is_lost:
        return question.after_s * 2.0**question.tries
    if question.tries < len(FIRST_S):
        return FIRST_S[question.tries]
    doublings = min(question.tries - len(FIRST_S) + 1, 16)
    return min(FIRST_S[-1] * 2.0**doublings, LONGEST_S)
