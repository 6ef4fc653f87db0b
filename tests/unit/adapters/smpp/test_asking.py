"""Receipts that stay away are asked for: the book by itself, and a session that keeps it."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from adapters.session import Answered, Event, Reported, SessionPolicy
from adapters.smpp import asking, pdu
from adapters.smpp.asking import TRIES, Book
from adapters.smpp.session import QUERIES, Session, Token
from adapters.smpp.settings import parse
from sms.model import Report
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain
from tests.support.smpp import SETTINGS, frames, report, some_submits, submit_answer


def taken(book: Book, *ids: str, now: float = 0.0) -> None:
    submits = some_submits(len(ids))
    outcomes: list[Outcome] = [Submitted(one) for one in ids]
    book.taken(list(zip(submits, outcomes, strict=True)), {}, now)


def test_each_is_asked_about_later_and_later_and_then_no_more():
    book = Book(10.0)
    taken(book, "a")
    asked, now = [], 0.0
    while book:
        asked += [now for carrier_id, _ in book.due(now, 5)]
        now += 1.0
    assert asked == [10.0 * (2**turn - 1) for turn in range(1, TRIES + 1)]
    assert book.due(1e9, 5) == []


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=50), st.integers(1, 5))
def test_nothing_is_asked_too_early_nothing_heard_is_asked_and_no_more_at_once(given_ids, most):
    book = Book(30.0)
    moments = {}
    for number, (at, is_heard) in enumerate(sorted(given_ids)):
        taken(book, str(number), now=at)
        if is_heard:
            book.heard([Report(7, str(number), "DELIVRD", "", "")])
        else:
            moments[str(number)] = at
    found: list[str] = []
    while some := book.due(130.0, most):
        assert len(some) <= most
        found += [carrier_id for carrier_id, _ in some]
        for carrier_id, _ in some:
            book.settle(carrier_id)
    assert sorted(found) == sorted(moments)


def test_what_tells_of_no_end_leaves_it_open_and_what_was_not_taken_is_never_asked_about():
    book = Book(10.0)
    taken(book, "a", "b")
    book.heard([Report(7, "a", "ENROUTE", "", ""), Report(7, "b", "DELIVRD", "", "")])
    [refused, lost] = some_submits(2)
    no = Rejected("0x0b", Cause.NUMBER, "recipient.invalid")
    book.taken([(refused, no), (lost, Uncertain("channel.timeout"))], {}, 0.0)
    assert [carrier_id for carrier_id, _ in book.due(10.0, 9)] == ["a"]


def test_the_book_is_bounded_whatever_is_heard_and_the_newest_stay(monkeypatch):
    monkeypatch.setattr(asking, "MAXIMUM", 10)
    book = Book(10.0)
    for number in range(100):
        taken(book, f"heard{number}")
        book.heard([Report(7, f"heard{number}", "DELIVRD", "", "")])
        assert len(book._due) <= 21
    taken(book, *(f"open{number}" for number in range(30)))
    assert [carrier_id for carrier_id, _ in book.due(10.0, 99)] == [
        f"open{n}" for n in range(20, 30)
    ]


# -- a session -----------------------------------------------------------------------------


def asking_session(book: Book, bind: int = pdu.BIND_TRANSCEIVER, **settings: object) -> Session:
    own = parse({**SETTINGS, **settings})
    session = Session(7, own, SessionPolicy(link_test_s=1e6), 64, bind=bind, book=book)
    session.connected(0.0)
    session.to_send()
    session.receive(pdu.build_pdu(bind | pdu.RESPONSE, 1, {"system_id": "SMSC"}), 0.0)
    return session


def submitted(session: Session, *ids: str) -> None:
    session.submit(some_submits(len(ids)), 0.0)
    sent = frames(session.to_send())
    answers = [submit_answer(one.sequence, name) for one, name in zip(sent, ids, strict=True)]
    assert session.receive(b"".join(answers), 0.0)


def answer(sequence: int, carrier_id: str, state: int, error: int = 0, status: int = 0) -> bytes:
    fields: dict[str, str | int | bytes] = {
        "message_id": carrier_id,
        "message_state": state,
        "error_code": error,
    }
    return pdu.build_pdu(pdu.QUERY_SM_RESP, sequence, fields, status=status)


def asked(session: Session, now: float) -> list[pdu.Pdu]:
    assert session.tick(now) == []
    return frames(session.to_send())


def told(events: list[Event]) -> list[Report]:
    return [one for event in events if isinstance(event, Reported) for one in event.reports]


def test_an_end_that_it_tells_is_a_report_and_is_settled_when_kept():
    book = Book(10.0)
    session = asking_session(book)
    submitted(session, "a", "b", "c")
    assert asked(session, 9.0) == []
    questions = asked(session, 10.0)
    assert {one.command_id for one in questions} == {pdu.QUERY_SM}
    assert [one.text("message_id") for one in questions] == ["a", "b", "c"]
    assert (questions[0].number("source_addr_ton"), questions[0].text("source_addr")) == (
        3,
        "10690001",
    )
    first, second, third = (one.sequence for one in questions)
    data = answer(first, "a", 5, 1) + answer(second, "b", 1) + answer(third, "", 0, status=0x67)
    reports = told(session.receive(data, 11.0))
    assert [(one.carrier_id, one.state, one.error) for one in reports] == [("a", "5", "1")]
    token = cast(Token, reports[0].token)
    session.answer([token], accepted=False)  # the store is away: asked again
    assert session.to_send() == b""
    assert len(book) == 3
    session.answer([token], accepted=True)
    assert session.to_send() == b""
    assert [one.text("message_id") for one in asked(session, 30.0)] == ["b", "c"]


def test_a_receipt_over_any_session_of_the_channel_spares_the_question():
    book = Book(10.0)
    sender = asking_session(book, pdu.BIND_TRANSMITTER)
    receiver = asking_session(book, pdu.BIND_RECEIVER)
    submitted(sender, "a", "b")
    assert told(receiver.receive(report(5, "a"), 1.0))
    assert asked(receiver, 10.0) == []
    assert [one.text("message_id") for one in asked(sender, 10.0)] == ["b"]


def test_the_id_is_asked_for_as_the_carrier_spelled_it():
    book = Book(10.0)
    session = asking_session(book, id_match="hex_decimal")
    submitted(session, "1A2B3C00")
    [question] = asked(session, 10.0)
    assert question.text("message_id") == "1A2B3C00"
    reports = told(session.receive(answer(question.sequence, "1A2B3C00", 2), 11.0))
    assert [one.carrier_id for one in reports] == ["439041024"]  # as its receipt would be


def test_only_so_many_at_a_time_and_unanswered_ones_make_room():
    book = Book(10.0)
    session = asking_session(book, response_timeout_s=5)
    submitted(session, *(str(number) for number in range(QUERIES + 3)))
    assert len(asked(session, 10.0)) == QUERIES
    assert asked(session, 11.0) == []
    assert len(asked(session, 15.0)) == 3


def test_a_carrier_that_knows_no_query_is_not_asked_again():
    book = Book(10.0)
    session = asking_session(book)
    submitted(session, "a", "b")
    questions = asked(session, 10.0)
    nack = pdu.pack_header(16, pdu.GENERIC_NACK, pdu.ESME_RINVCMDID, questions[0].sequence)
    assert session.receive(nack, 11.0) == []
    assert book.is_refused
    submitted(session, "c")
    assert asked(session, 1000.0) == []


def test_an_answer_to_no_question_is_a_stray():
    session = asking_session(Book(10.0))
    assert session.receive(answer(99, "a", 2), 1.0) == []
    assert session.strays == 1
    assert not any(isinstance(event, Answered) for event in session.receive(b"", 1.0))
