"""How a silent message ends, from what its segments and copies are known to have come to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.deadline import end_at_deadline
from receipts.state import Path, apply_row, path_to, report_path
from sms.model import FINAL_STATES, Carrier, Encoding, EventRow, Message, MessageClass, State

OPEN = (State.SUBMITTED, State.UNCERTAIN, State.SUBMITTING)
ENDS = (State.DELIVERED, State.UNDELIVERED, State.EXPIRED)
SEGMENT = st.sampled_from((*OPEN, *ENDS))


def message(
    states: list[State], first: list[State] | None = None, size: int | None = None
) -> Message:
    made = Message(
        id=1,
        tenant=1,
        message_class=MessageClass.TRANSACTIONAL,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.UCS2,
        texts=("a",) * (size or len(states)),
        valid_until=1e9,
        created_at=0.0,
    )
    made.state = State.SUBMITTED
    made.sequence = 2
    made.segment_states = states
    if first is not None:
        made.copy, made.duplicate_risk, made.first_states = 1, True, first
    return made


def row(one: Message, path: Path, status: State, segment: int | None = None) -> EventRow:
    return EventRow(
        one.id,
        one.sequence + 1,
        9,
        1,
        path,
        status,
        5.0,
        segment,
        one.copy,
        1,
        None,
        None,
        None,
        (),
        one,
        one.state,
    )


@pytest.mark.parametrize(
    ("states", "first", "end"),
    [
        ([State.SUBMITTED], None, State.UNKNOWN),
        ([], None, State.UNKNOWN),
        ([State.SUBMITTED, State.SUBMITTED], None, State.UNKNOWN),
        ([State.DELIVERED, State.SUBMITTED], None, State.PARTIALLY_DELIVERED),
        ([State.SUBMITTED, State.DELIVERED, State.UNDELIVERED], None, State.PARTIALLY_DELIVERED),
        ([State.UNDELIVERED, State.SUBMITTED], None, State.UNKNOWN),
        ([State.EXPIRED, State.SUBMITTED], None, State.UNKNOWN),
        ([State.SUBMITTED], [State.UNCERTAIN], State.UNKNOWN),
        ([State.SUBMITTED], [State.UNDELIVERED], State.UNKNOWN),
        ([State.SUBMITTED] * 2, [State.DELIVERED, State.UNCERTAIN], State.PARTIALLY_DELIVERED),
        ([State.SUBMITTED] * 2, [State.DELIVERED, State.DELIVERED], State.DELIVERED),
    ],
)
def test_what_is_known_decides(states, first, end):
    assert end_at_deadline(message(states, first, size=max(1, len(states)))) is end


@given(st.lists(SEGMENT, min_size=1, max_size=5), st.data())
def test_the_end_is_legal_and_final(states, data):
    first = None
    if data.draw(st.booleans()):
        first = data.draw(st.lists(SEGMENT, min_size=len(states), max_size=len(states)))
    one = message(states, first)
    end = end_at_deadline(one)
    path = path_to(one, end)
    known = [*states, *(first or [])]
    if all(state in FINAL_STATES for state in known):
        return  # it would have ended by its reports
    assert path is not None
    assert end in {State.UNKNOWN, State.PARTIALLY_DELIVERED, State.DELIVERED}
    assert (end is State.UNKNOWN) == (State.DELIVERED not in known)
    assert apply_row(one, row(one, path, end))
    assert one.state is end


def test_the_correction_waits_until_it_is_whole():
    one = message([State.SUBMITTED, State.SUBMITTED])
    assert apply_row(one, row(one, Path.UNKNOWN, State.UNKNOWN))
    first = report_path(one, 0, 0, State.DELIVERED)
    assert first is Path.NOTE
    assert apply_row(one, row(one, first, State.DELIVERED, 0))
    assert one.state is State.UNKNOWN
    assert report_path(one, 1, 0, State.DELIVERED) is Path.DELIVERED
