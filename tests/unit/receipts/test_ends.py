"""What a report without a row was: said already, said otherwise, or about what was replaced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from receipts import ends
from receipts.state import Path, report_path
from sms.model import Carrier, Encoding, Message, MessageClass, State

OPEN = (State.SUBMITTED, State.UNKNOWN)
VERDICTS = (State.DELIVERED, State.UNDELIVERED, State.EXPIRED)


def message(segments: int = 1) -> Message:
    return Message(
        id=1,
        tenant=1,
        message_class=MessageClass.OTP,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.GSM7,
        texts=("x",) * segments,
        valid_until=0.0,
        created_at=0.0,
    )


def test_every_end_stands_once_and_those_of_a_segment_have_a_rank() -> None:
    assert len(set(ends.ENDS)) == len(ends.ENDS)
    assert set(ends.RANK) < set(ends.ENDS)
    assert ends.RANK[ends.MATCHED] > ends.RANK[ends.DUPLICATE] > ends.RANK[ends.INTERMEDIATE]


def test_a_row_after_the_end_is_a_correction_or_a_note() -> None:
    assert ends.end_of_row(State.SUBMITTED, Path.DELIVERED) == ends.MATCHED
    assert ends.end_of_row(State.SUBMITTED, Path.NOTE) == ends.MATCHED
    assert ends.end_of_row(State.UNKNOWN, Path.DELIVERED) == ends.CORRECTED
    assert ends.end_of_row(State.FAILED, Path.NOTE) == ends.LATE


@given(
    st.lists(st.sampled_from([*OPEN, State.FAILED, *VERDICTS]), min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from(VERDICTS),
    st.sampled_from([None, "mine", "other"]),
    st.integers(0, 1),
)
def test_what_makes_no_row_is_named_by_what_the_segment_says(
    states: list[State], place: int, verdict: State, carrier_id: str | None, copy: int
) -> None:
    one = message(len(states))
    one.state, one.copy = State.SUBMITTED, copy
    one.segment_states = list(states)
    one.first_states = [State.UNCERTAIN] * len(states) if copy else []
    one.carrier_ids = ["mine"] * len(states)
    segment = place % len(states)
    if report_path(one, segment, copy, verdict, carrier_id=carrier_id) is not None:
        return
    end = ends.end_without_row(one, segment, copy, verdict)
    known = states[segment]
    if known in OPEN:
        assert (end, carrier_id) == (ends.SUPERSEDED, "other")
    elif known is State.FAILED:  # that was our own word
        assert end == ends.LATE
    else:
        assert end == (ends.DUPLICATE if known is verdict else ends.CONTRADICTORY)
