"""What a channel asks its vendor about, and when."""

from hypothesis import given
from hypothesis import strategies as st

from adapters.http import book
from adapters.http.book import FOR_S, MAXIMUM, TRIES, Book, key_of
from adapters.http.vendor import Asked
from sms.model import State
from tests.support.http_rig import a_submit


def asked_at(book, start=0.0, end=4000.0, unix=None):
    """The moments, each second from start, at which something is asked."""
    found = []
    now = start
    while now <= end:
        while book.due(now if unix is None else unix, now) is not None:
            found.append(now)
        now += 1.0
    return found


def test_a_lost_answer_is_asked_for_soon_and_then_ever_later_but_not_beyond_ten_minutes():
    ours = Book(None)
    ours.lost(Asked(a_submit(), 0.0), 0.0)
    moments = asked_at(ours)
    gaps = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
    assert gaps[:7] == [2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0]
    assert set(gaps[9:]) == {600.0}


def test_it_is_asked_for_as_long_as_a_receipt_is_awaited():
    ours = Book(None)
    ours.lost(Asked(a_submit(), 0.0), 0.0)
    assert ours.due(FOR_S, 10.0) is not None
    assert ours.due(FOR_S + 1.0, 1e6) is None
    assert not len(ours)


def test_asking_twice_about_one_submit_changes_nothing():
    ours = Book(None)
    submit = a_submit()
    ours.lost(Asked(submit, 0.0), 0.0)
    ours.lost(Asked(submit, 0.0), 1.0)
    assert len(ours) == 1
    assert asked_at(ours, end=8.0) == [2.0, 7.0]


def test_a_silent_receipt_is_asked_for_later_and_later_and_then_no_more():
    ours = Book(10.0)
    ours.taken(Asked(a_submit(), 0.0, "id"), 0.0)
    assert asked_at(ours, end=6000.0) == [10.0 * (2**tries - 1) for tries in range(1, TRIES + 1)]
    assert not len(ours)


def test_a_found_answer_is_asked_for_no_more_and_its_receipt_is():
    ours = Book(100.0)
    submit = a_submit()
    ours.lost(Asked(submit, 50.0), 0.0)
    ours.taken(Asked(submit, 50.0, "id"), 1.0)
    question = ours.due(101.0, 101.0)
    assert question is not None
    assert not question.is_lost
    assert (question.asked.carrier_id, question.asked.sent_unix) == ("id", 50.0)
    assert question.asked.submit.payload == b""  # the text is not kept for it
    assert submit.payload


def test_what_ended_otherwise_is_not_asked_about():
    ours = Book(None)
    submit = a_submit()
    ours.lost(Asked(submit, 0.0), 0.0)
    submit.message.state = State.DELIVERED
    assert asked_at(ours) == []
    assert not len(ours)


def test_without_a_time_for_receipts_none_is_asked_for():
    ours = Book(None)
    ours.taken(Asked(a_submit(), 0.0, "id"), 0.0)
    assert not len(ours)


def test_a_lost_answer_is_asked_for_before_receipts_that_were_due_long_ago():
    ours = Book(1.0)
    for _ in range(3):
        ours.taken(Asked(a_submit(), 0.0, "id"), 0.0)
    lost = a_submit()
    ours.lost(Asked(lost, 100.0), 100.0)
    question = ours.due(103.0, 103.0)
    assert question is not None
    assert question.key == key_of(lost)
    assert [ours.due(103.0, 103.0) is not None for _ in range(4)] == [True, True, True, False]


def test_what_was_found_by_asking_is_asked_for_its_end_whatever_is_set():
    ours = Book(None)
    submit = a_submit()
    ours.lost(Asked(submit, 0.0), 0.0)
    ours.taken(Asked(submit, 0.0, "id"), 10.0)
    question = ours.due(400.0, 10.0 + book.FOUND_AFTER_S)
    assert question is not None
    assert (question.is_lost, question.asked.carrier_id) == (False, "id")
    assert len(asked_at(ours, 400.0, 100_000.0)) == TRIES - 1


def test_another_attempt_and_a_second_copy_are_other_submits():
    ours = Book(None)
    one = a_submit()
    ours.lost(Asked(one, 0.0), 0.0)
    for name, value in (("attempt", 2), ("copy", 1), ("segment", 1)):
        other = a_submit()
        other.message = one.message
        setattr(other, name, value)
        ours.lost(Asked(other, 0.0), 0.0)
    assert len(ours) == 4


def test_the_book_is_bounded_and_the_newest_stay(monkeypatch):
    monkeypatch.setattr(book, "MAXIMUM", 3)
    ours = Book(1.0)
    submits = [a_submit() for _ in range(40)]
    for submit in submits:
        ours.lost(Asked(submit, 0.0), 0.0)
        ours.taken(Asked(submit, 0.0, "id"), 0.0)
        ours.lost(Asked(submit, 0.0), 0.0)
    assert len(ours) <= 6
    assert max(len(shelf.due) for shelf in (ours._lost, ours._silent)) <= 2 * 3 + 1
    found = set()
    while (question := ours.due(2.0, 2.0)) is not None:
        found.add(question.key)
    assert found == {key_of(submit) for submit in submits[-3:]}
    assert MAXIMUM > 3


@given(st.lists(st.tuples(st.sampled_from("lts"), st.integers(0, 4)), max_size=40))
def test_nothing_settled_is_asked_about_and_nothing_open_is_forgotten(moves):
    ours = Book(5.0)
    submits = [a_submit() for _ in range(5)]
    lost, silent = set(), set()
    for move, index in moves:
        submit = submits[index]
        if move == "l":
            ours.lost(Asked(submit, 0.0), 0.0)
            lost.add(index)
        elif move == "t":
            ours.taken(Asked(submit, 0.0, "id"), 0.0)
            lost.discard(index)
            silent.add(index)
        else:
            ours.settle(key_of(submit))
            lost.discard(index)
            silent.discard(index)
    found = set()
    while (question := ours.due(5.0, 5.0)) is not None:
        found.add((question.key, question.is_lost))
    assert found == {(key_of(submits[one]), True) for one in lost} | {
        (key_of(submits[one]), False) for one in silent
    }


def test_an_overdue_receipt_is_asked_for_once_and_soon_forgotten():
    ours, overdue = Book(None), a_submit()
    ours.lost(Asked(a_submit(), 0.0), 0.0)
    ours.overdue(Asked(overdue, 0.0, "id"), 0.0)
    ours.overdue(Asked(overdue, 0.0, "id"), 0.0)
    question = ours.due(0.0, 0.0)
    assert question is not None
    assert (question.asked.carrier_id, question.is_lost) == ("id", False)
    assert ours.is_open(question)
    assert ours.due(0.0, 1.0) is None
    lost = ours.due(0.0, 3.0)
    assert lost is not None
    assert lost.is_lost
    assert len(ours) == 2
    while ours.due(61.0, 61.0):
        pass
    assert len(ours) == 1


def test_what_is_asked_about_anyway_is_not_asked_twice():
    ours, submit = Book(10.0), a_submit()
    ours.taken(Asked(submit, 0.0, "id"), 0.0)
    ours.overdue(Asked(submit, 0.0, "id"), 1.0)
    assert ours.due(0.0, 5.0) is None
    assert len(ours) == 1
