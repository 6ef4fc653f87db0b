"""What the journal lets go is never missed: recovery judges as if every line stood there."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.recover import LOST, results_of
from sms.model import Message
from sms.outcomes import NotSent, Outcome, Submitted, Uncertain
from store.claims import ClaimBook
from store.journal import NOT_SENT, SUBMITTED, Journal
from tests.support.flow_kit import Kit

PROCESS = 3
STEPS = st.sampled_from(["write", "not_sent", "submitted", "anew", "commit", "others", "let_go"])


class Life:
    """One message of another process under our claim, its journal, and what is true of it.

    Its attempt keeps its number while nothing of it left; other messages fill the segments.
    """

    def __init__(self, directory: Path) -> None:
        self.clock = itertools.count(1 << 30)
        self.book = ClaimBook(PROCESS, moment=self.moment)
        self.directory = directory
        self.journal = Journal(directory, PROCESS, 1, segment_bytes=80, moment=self.moment)
        self.message: Message = Kit().message()
        self.message.id = 7
        self.claim = self.book.reserve()
        self.book.adopt(self.claim, [7])
        self.truth: Outcome | None = None  # None: nothing left

    def moment(self) -> int:
        return next(self.clock)

    def waits(self) -> bool:
        """Nothing of it is with the carrier."""
        return self.truth is None or isinstance(self.truth, NotSent)

    def step(self, name: str) -> None:
        is_open = self.truth == Uncertain(LOST)
        if name == "write" and self.waits():
            self.journal.write_lines([(7, 0, 1, 0, 2)])
            self.truth = Uncertain(LOST)
        elif name == "not_sent" and is_open:
            self.journal.answer_lines([(7, 0, 1, 0, NOT_SENT, "", "link.lost")])
            self.truth = NotSent(LOST)
        elif name == "submitted" and is_open:  # its row is never committed here
            self.journal.answer_lines([(7, 0, 1, 0, SUBMITTED, "abc", "")])
            self.truth = Submitted("abc")
        elif name == "anew" and self.waits():
            self._claim_anew()
        elif name == "commit":
            self.book.committed(self.book.take_sql()[1])
        elif name == "others":
            self.journal.write_lines([(self.moment(), 0, 1, 0, 2)])
        elif name == "let_go":
            floor = self.book.floor()
            assert floor is not None
            self.journal.note_low_water(floor)

    def _claim_anew(self) -> None:
        was = self.claim

        def claimed() -> None:
            if self.waits() and self.claim == was:
                self.book.settled(was)
                self.claim = number
            else:
                self.book.settled(number)

        number = self.book.block([7], claimed)

    def after_a_kill(self) -> Outcome | None:
        replay = Journal.replay(self.directory, PROCESS, [7])
        outcomes = [outcome for _, outcome, _ in results_of(self.message, replay)]
        return outcomes[0] if outcomes else None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=50))
def test_what_a_kill_finds_is_what_was_true(tmp_path: Path, steps: list[str]) -> None:
    """A carrier's answer makes no second submit, an open submit no answer of an earlier one."""
    life = Life(tmp_path / f"{next(_NUMBERS)}")
    for step in steps:
        life.step(step)
        found = life.after_a_kill()
        if life.waits():
            assert found is None or isinstance(found, NotSent)  # both go back to the lane
        else:
            assert found == life.truth
    life.journal.close()


def test_an_answer_outlives_the_write_line_of_an_earlier_try(tmp_path: Path) -> None:
    """The one order of things that needs the rule: write │ not sent │ claimed anew │ write."""
    life = Life(tmp_path)
    for step in ("write", "others", "not_sent", "anew", "commit", "commit"):
        life.step(step)
    life.step("let_go")
    assert Journal.replay(tmp_path, PROCESS).writes.get(7) is None
    assert life.after_a_kill() is None
    life.step("write")
    assert life.after_a_kill() == Uncertain(LOST)
    life.step("submitted")
    assert life.after_a_kill() == Submitted("abc")
    life.journal.close()


_NUMBERS = itertools.count()
