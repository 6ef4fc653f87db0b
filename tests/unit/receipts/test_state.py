"""The state table against a copy typed from RELIABILITY section 2, and the fold by property."""

import copy
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipts.state import (
    NOT_ACCEPTED,
    STATES_OF_PATH,
    TRANSITIONS,
    Path,
    advance,
    apply_row,
    begin_attempt,
    derive,
    derive_copies,
    fold,
    report_path,
    report_path_of_many,
    settled,
    undo_attempt,
)
from sms.model import (
    FINAL_STATES,
    Carrier,
    Encoding,
    EventRow,
    Message,
    MessageClass,
    State,
)

S = State
# (from, to) typed from the page a second time, on purpose.
LEGAL = """
accepted scheduled queued rejected canceled expired
scheduled queued rejected canceled expired
queued submitting rejected canceled expired failed
submitting queued submitted failed uncertain
uncertain submitted queued failed delivered partially_delivered undelivered unknown
submitted delivered partially_delivered undelivered expired queued unknown
unknown delivered partially_delivered undelivered
"""
STEPS = {
    (State(words[0]), State(word))
    for words in (line.split() for line in LEGAL.split("\n") if line)
    for word in words[1:]
}
CORRECTIONS = {S.DELIVERED, S.PARTIALLY_DELIVERED, S.UNDELIVERED}


def message(segments=1, state=S.ACCEPTED):
    made = Message(
        id=1,
        tenant=1,
        message_class=MessageClass.OTP,
        number="8613800138000",
        carrier=Carrier.CM,
        country=86,
        encoding=Encoding.UCS2,
        texts=("x",) * segments,
        valid_until=100.0,
        created_at=1.0,
    )
    made.state = state
    return made


def row(path, status=None, *, sequence=2, **fields):
    states = STATES_OF_PATH[Path(path)]
    status = status or (states[-1] if states else S.SUBMITTED)
    return EventRow(
        message_id=1,
        sequence=sequence,
        event_id=sequence,
        tenant=1,
        path=path,
        status=status,
        at=float(sequence),
        **fields,
    )


def story(start, *rows):
    for number, each in enumerate(rows, start=start.sequence + 1):
        each.sequence = number
        each.at = float(number)
        assert apply_row(start, each), f"row {number} refused in {start.state}"
    return start


def test_the_table_is_the_page():
    assert {(a, b) for _, froms, tos in TRANSITIONS for a in froms for b in tos} == STEPS


@pytest.mark.parametrize("path", [p for p in Path if p is not Path.NOTE])
@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("has_copy", [False, True])
def test_whatever_advance_allows_is_a_walk_over_the_table(state, path, has_copy):
    end = advance(state, path, has_copy=has_copy)
    states = STATES_OF_PATH[path]
    if end is None:
        return
    assert end is states[-1]
    ahead = states[states.index(state) + 1 :] if state in states[:-1] else states
    steps = STEPS | ({(S.QUEUED, S.UNKNOWN)} if has_copy else set())
    walk = (state, *ahead)
    assert all(pair in steps for pair in pairwise(walk))
    if has_copy:
        assert end not in (S.EXPIRED, S.CANCELED)


def test_every_row_of_the_table_has_a_path():
    passed: set[tuple[State, State]] = set()
    for state in State:
        for path in Path:
            if path is not Path.NOTE and advance(state, path) is not None:
                states = STATES_OF_PATH[path]
                ahead = states[states.index(state) + 1 :] if state in states[:-1] else states
                walk = (state, *ahead)
                passed.update(pairwise(walk))
    assert passed == STEPS


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_a_final_state_is_left_only_by_a_correction(state):
    ends = {advance(state, path) for path in Path if path is not Path.NOTE} - {None}
    assert ends == (CORRECTIONS if state is S.UNKNOWN else set())


def test_a_row_that_changes_nothing_is_illegal():
    for path, states in STATES_OF_PATH.items():
        if len(states) == 1:
            assert advance(states[0], path) is None


def test_a_path_nobody_knows_is_illegal():
    assert advance(S.QUEUED, 999) is None
    lost = message()
    bad = row(Path.FAILED)
    bad.path = 999
    assert not apply_row(lost, bad)


def test_an_attempt_never_starts_from_a_text_that_is_with_a_carrier():
    for state in (S.UNCERTAIN, S.SUBMITTED):
        for path in (Path.SUBMITTED, Path.REQUEUED, Path.SUBMIT_FAILED, Path.UNCERTAIN):
            assert advance(state, path) is None


def test_what_is_legal_live_is_legal_for_the_stored_state():
    """The live object stands at queued or submitting while the stored one is still accepted."""
    for path in Path:
        if path in (Path.NOTE, Path.SCHEDULED, Path.QUEUED):
            continue
        for live in (S.QUEUED, S.SUBMITTING):
            if advance(live, path) is not None:
                assert advance(S.ACCEPTED, path) is advance(live, path)


segment_status = st.sampled_from([S.SUBMITTED, S.DELIVERED, S.UNDELIVERED, S.EXPIRED, S.UNKNOWN])


@st.composite
def any_rows(draw, most=14):
    rows = []
    for sequence in range(2, 2 + draw(st.integers(0, most))):
        path = draw(st.sampled_from(list(Path)))
        segment = draw(st.sampled_from([None, 0, 1, 2, -1, 255]))
        rows.append(
            row(
                path,
                draw(segment_status) if segment is not None or path is Path.NOTE else None,
                sequence=sequence,
                segment=segment,
                copy=draw(st.sampled_from([0, 0, 0, 1, 1, 2])),
                channel=draw(st.integers(0, 3)),
                carrier_id=draw(st.sampled_from([None, "a", "b"])),
                reason=draw(st.sampled_from([None, NOT_ACCEPTED, "channel.timeout"])),
            )
        )
    return rows


@given(any_rows(), st.integers(1, 3))
def test_no_sequence_of_rows_leaves_the_table(rows, segments):
    lived = message(segments)
    corrections = 0
    copies = 0
    for each in rows:
        before = copy.deepcopy(lived)
        if not apply_row(lived, each):
            assert lived == before
            continue
        assert lived.sequence == each.sequence
        if before.state in FINAL_STATES and lived.state is not before.state:
            assert before.state is S.UNKNOWN
            assert lived.state in CORRECTIONS
            corrections += 1
        copies += lived.copy - before.copy
        if lived.copy > before.copy:
            assert before.state is S.UNCERTAIN
        assert lived.duplicate_risk == (lived.copy == 1)
        assert lived.state is not S.SUBMITTING
        assert (lived.final_at is not None) == (lived.state in FINAL_STATES)
        assert not (lived.duplicate_risk and lived.state in (S.EXPIRED, S.CANCELED))
    assert corrections <= 1
    assert copies <= 1
    assert lived.copy <= 1


@given(any_rows(), st.integers(1, 3), st.integers(0, 14))
def test_fold_is_apply_row_one_by_one_and_may_be_continued(rows, segments, cut):
    one, folded, continued = (message(segments) for _ in range(3))
    illegal = 0
    for each in rows:
        if not apply_row(one, each):
            illegal += 1
            one.sequence = each.sequence  # the refused row has taken its number in the store
    assert fold(folded, rows) == illegal
    assert folded == one
    assert fold(continued, rows[:cut]) + fold(continued, rows) == illegal
    assert continued == one


def test_one_illegal_row_does_not_hide_the_next_ones():
    lived = message()
    rows = [
        row(Path.SUBMITTED, sequence=2, channel=7, carrier_id="id"),
        row(Path.CANCELED, sequence=3),
        row(Path.DELIVERED, sequence=4),
    ]
    assert fold(lived, rows) == 1
    assert (lived.state, lived.sequence, lived.channel) == (S.DELIVERED, 4, 7)


def test_an_ordinary_life_fills_the_fields():
    lived = story(
        message(),
        row(Path.SUBMITTED, channel=7, carrier_id="id"),
        row(Path.DELIVERED, segment=0, channel=7, code="DELIVRD"),
    )
    assert lived.attempt == 1
    assert lived.carrier_ids == ["id"]
    assert lived.segment_states == [S.DELIVERED]
    assert (lived.submitted_at, lived.final_at) == (2.0, 3.0)
    assert (lived.reason, lived.carrier_code) == (None, "DELIVRD")


def test_live_and_folded_agree_although_live_passes_submitting():
    rows = [
        row(Path.REQUEUED, sequence=2, channel=7, code="8", reason="channel.error"),
        row(Path.SUBMITTED, sequence=3, channel=8, carrier_id="id"),
    ]
    live = message()
    assert begin_attempt(live, 7)
    assert undo_attempt(live)
    assert begin_attempt(live, 7)
    assert apply_row(live, rows[0])
    assert begin_attempt(live, 8)
    assert apply_row(live, rows[1])
    folded = message()
    assert fold(folded, rows) == 0
    assert live == folded
    assert (folded.attempt, folded.tried, folded.channel) == (2, (7,), 8)


@pytest.mark.parametrize("state", sorted(set(State) - {S.ACCEPTED, S.SCHEDULED, S.QUEUED}))
def test_an_attempt_begins_only_in_a_lane(state):
    stuck = message(state=state)
    assert not begin_attempt(stuck, 1)
    assert (stuck.state, stuck.attempt) == (state, 0)


def test_undoing_an_attempt_needs_one():
    waiting = message(state=S.QUEUED)
    assert not undo_attempt(waiting)
    assert waiting.throttled == 0


def three_submitted():
    return story(
        message(3),
        row(Path.NOTE, S.SUBMITTED, segment=1, channel=7, carrier_id="b"),
        row(Path.NOTE, S.SUBMITTED, segment=0, channel=7, carrier_id="a"),
        row(Path.SUBMITTED, S.SUBMITTED, segment=2, channel=7, carrier_id="c"),
    )


def test_the_segments_of_a_long_message_each_keep_their_id():
    lived = three_submitted()
    assert lived.carrier_ids == ["a", "b", "c"]
    assert lived.segment_states == [S.SUBMITTED] * 3
    assert (lived.state, lived.attempt, lived.channel) == (S.SUBMITTED, 1, 7)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((S.DELIVERED, S.DELIVERED, S.DELIVERED), S.DELIVERED),
        ((S.DELIVERED, S.UNDELIVERED, S.DELIVERED), S.PARTIALLY_DELIVERED),
        ((S.UNDELIVERED, S.UNDELIVERED, S.EXPIRED), S.UNDELIVERED),
        ((S.EXPIRED, S.EXPIRED, S.EXPIRED), S.EXPIRED),
        ((S.UNKNOWN, S.UNDELIVERED, S.UNDELIVERED), S.UNKNOWN),
    ],
)
def test_the_message_is_derived_from_its_segments_in_any_order(ends, expected, order):
    lived = three_submitted()
    for number, segment in enumerate(order):
        path = report_path(lived, segment, 0, ends[segment])
        assert path is not None
        assert (path is Path.NOTE) == (number < 2)
        story(
            lived, row(path, ends[segment], segment=segment, channel=7, reason="recipient.absent")
        )
    assert lived.state is expected
    assert lived.segment_states == list(ends)
    assert settled(lived) is expected


def test_a_report_that_says_nothing_new_gets_no_row():
    lived = three_submitted()
    story(lived, row(Path.NOTE, S.DELIVERED, segment=0))
    assert report_path(lived, 0, 0, S.DELIVERED) is None
    assert report_path(lived, 0, 0, S.UNDELIVERED) is None
    assert report_path(lived, 3, 0, S.DELIVERED) is None
    done = story(message(), row(Path.SUBMITTED, carrier_id="x"), row(Path.UNDELIVERED, segment=0))
    assert report_path(done, 0, 0, S.DELIVERED) is None


def test_a_late_note_does_not_change_a_final_segment():
    lived = story(three_submitted(), row(Path.NOTE, S.DELIVERED, segment=0))
    story(lived, row(Path.NOTE, S.UNDELIVERED, segment=0))
    assert lived.segment_states[0] is S.DELIVERED


def test_an_unknown_end_is_corrected_once():
    lived = story(message(), row(Path.SUBMITTED, carrier_id="x"), row(Path.UNKNOWN))
    assert lived.final_at == 3.0
    assert report_path(lived, 0, 0, S.UNKNOWN) is None
    assert report_path(lived, 0, 0, S.DELIVERED) is Path.DELIVERED
    story(lived, row(Path.DELIVERED, segment=0))
    assert (lived.state, lived.segment_states, lived.final_at) == (S.DELIVERED, [S.DELIVERED], 4.0)
    assert not apply_row(lived, row(Path.UNDELIVERED, sequence=5))


def test_a_resubmission_starts_with_empty_segments():
    lived = story(
        message(2),
        row(Path.NOTE, S.SUBMITTED, segment=0, channel=7, carrier_id="old"),
        row(Path.REQUEUED, channel=7, code="8", reason="channel.error"),
    )
    assert lived.carrier_ids == []
    assert lived.segment_states == []
    assert (lived.state, lived.tried, lived.reason) == (S.QUEUED, (7,), "channel.error")
    story(
        lived,
        row(Path.NOTE, S.SUBMITTED, segment=0, channel=8, carrier_id="new"),
        row(Path.SUBMITTED, segment=1, channel=8, carrier_id="new2"),
    )
    assert lived.carrier_ids == ["new", "new2"]
    assert lived.reason is None


def test_a_row_that_names_no_channel_marks_none_as_tried():
    lived = story(message(), row(Path.UNCERTAIN), row(Path.QUEUED, copy=1))
    assert lived.tried == ()
    lost = story(message(), row(Path.UNCERTAIN, channel=7), row(Path.QUEUED, copy=1, channel=0))
    assert lost.tried == (7,)


def test_no_channel_is_marked_as_tried_twice():
    lived = story(
        message(),
        row(Path.REQUEUED, channel=7),
        row(Path.REQUEUED, channel=7),
        row(Path.REQUEUED, channel=8),
    )
    assert (lived.tried, lived.attempt) == ((7, 8), 3)


def test_a_receipt_with_a_temporary_fault_brings_a_message_back():
    lived = story(
        message(),
        row(Path.SUBMITTED, channel=7, carrier_id="old"),
        row(Path.QUEUED, reason="channel.error"),
        row(Path.SUBMITTED, channel=8, carrier_id="new"),
    )
    assert (lived.state, lived.tried, lived.attempt, lived.copy) == (S.SUBMITTED, (7,), 2, 0)
    assert report_path(lived, 0, 0, S.UNDELIVERED, carrier_id="old") is None
    assert report_path(lived, 0, 0, S.DELIVERED, carrier_id="old") is Path.DELIVERED
    assert report_path(lived, 0, 0, S.UNDELIVERED, carrier_id="new") is Path.UNDELIVERED


def test_a_late_answer_ends_uncertain():
    lived = story(
        message(),
        row(Path.UNCERTAIN, channel=7, reason="submit.timeout"),
    )
    assert (lived.segment_states, lived.carrier_ids) == ([S.UNCERTAIN], [None])
    story(lived, row(Path.SUBMITTED_LATE, channel=7, carrier_id="x"))
    assert (lived.state, lived.carrier_ids, lived.attempt) == (S.SUBMITTED, ["x"], 1)
    assert lived.segment_states == [S.SUBMITTED]
    assert lived.reason is None


def test_an_uncertain_text_may_be_reported_without_an_answer():
    lived = story(message(), row(Path.UNCERTAIN, channel=7))
    assert report_path(lived, 0, 0, S.DELIVERED) is Path.DELIVERED
    path = report_path(lived, 0, 0, S.EXPIRED)
    story(lived, row(path, segment=0))
    assert lived.state is S.EXPIRED


def test_some_segments_taken_and_the_last_answer_lost_is_uncertain():
    lived = story(
        message(2),
        row(Path.NOTE, S.SUBMITTED, segment=0, channel=7, carrier_id="a"),
        row(Path.UNCERTAIN, channel=7, reason="submit.timeout"),
    )
    assert lived.segment_states == [S.SUBMITTED, S.UNCERTAIN]
    story(lived, row(Path.SUBMITTED_LATE, segment=1, channel=7, carrier_id="b"))
    assert lived.segment_states == [S.SUBMITTED, S.SUBMITTED]
    assert lived.carrier_ids == ["a", "b"]


def two_copies(segments=1):
    return story(
        message(segments),
        row(Path.UNCERTAIN, channel=7, reason="submit.timeout"),
        row(Path.QUEUED, copy=1),
        *(
            row(Path.NOTE, S.SUBMITTED, segment=n, copy=1, channel=8, carrier_id=f"c{n}")
            for n in range(segments - 1)
        ),
        row(
            Path.SUBMITTED,
            S.SUBMITTED,
            segment=segments - 1,
            copy=1,
            channel=8,
            carrier_id=f"c{segments - 1}",
        ),
    )


def test_the_second_copy_is_marked_and_comes_once():
    lived = story(message(), row(Path.UNCERTAIN, channel=7), row(Path.QUEUED, copy=1))
    assert (lived.copy, lived.duplicate_risk, lived.tried) == (1, True, (7,))
    assert lived.first_states == [S.UNCERTAIN]
    story(lived, row(Path.UNCERTAIN, copy=1, channel=8))
    for again in (1, 2):
        assert not apply_row(lived, row(Path.QUEUED, sequence=9, copy=again))
    assert apply_row(lived, row(Path.QUEUED, sequence=9, copy=1, reason=NOT_ACCEPTED))


def test_the_vendor_never_had_it_is_no_copy():
    lived = story(message(), row(Path.UNCERTAIN, channel=7), row(Path.QUEUED, reason=NOT_ACCEPTED))
    assert (lived.copy, lived.duplicate_risk, lived.state) == (0, False, S.QUEUED)


def test_coming_back_from_uncertain_needs_a_mark_or_evidence():
    lived = story(message(), row(Path.UNCERTAIN, channel=7))
    assert not apply_row(lived, row(Path.QUEUED, sequence=3))
    assert lived.state is S.UNCERTAIN


def test_a_copy_in_the_lane_ends_unknown_but_not_expired():
    lived = story(message(), row(Path.UNCERTAIN, channel=7), row(Path.QUEUED, copy=1))
    for path in (Path.EXPIRED, Path.CANCELED):
        assert not apply_row(lived, row(path, sequence=4, copy=1))
    assert apply_row(lived, row(Path.UNKNOWN, sequence=4, copy=1))


@pytest.mark.parametrize("winner", [0, 1])
@pytest.mark.parametrize("other", [None, S.UNDELIVERED, S.EXPIRED, S.UNKNOWN])
def test_either_copy_delivered_is_delivered(winner, other):
    lived = two_copies()
    if other is not None:
        assert report_path(lived, 0, 1 - winner, other) is Path.NOTE
        story(lived, row(Path.NOTE, other, segment=0, copy=1 - winner))
    assert report_path(lived, 0, winner, S.DELIVERED) is Path.DELIVERED
    story(lived, row(Path.DELIVERED, segment=0, copy=winner))
    assert lived.state is S.DELIVERED
    assert lived.channel == 8


@pytest.mark.parametrize("last", [0, 1])
def test_both_copies_undelivered_is_undelivered(last):
    lived = two_copies()
    story(lived, row(Path.NOTE, S.EXPIRED, segment=0, copy=1 - last))
    assert report_path(lived, 0, last, S.EXPIRED) is Path.UNDELIVERED
    story(lived, row(Path.UNDELIVERED, S.EXPIRED, segment=0, copy=last))
    assert lived.state is S.UNDELIVERED


def test_an_unknown_copy_and_an_undelivered_one_end_unknown_with_each_its_own_state():
    lived = two_copies()
    story(lived, row(Path.NOTE, S.UNKNOWN, segment=0, copy=0))
    path = report_path(lived, 0, 1, S.UNDELIVERED)
    assert path is Path.UNKNOWN
    story(lived, row(path, S.UNDELIVERED, segment=0, copy=1))
    assert lived.state is S.UNKNOWN
    assert (lived.first_states, lived.segment_states) == ([S.UNKNOWN], [S.UNDELIVERED])


def test_halves_of_two_copies_make_no_whole():
    lived = two_copies(2)
    for segment, which, end in ((0, 0, S.DELIVERED), (1, 1, S.DELIVERED), (1, 0, S.UNDELIVERED)):
        assert report_path(lived, segment, which, end) is Path.NOTE
        story(lived, row(Path.NOTE, end, segment=segment, copy=which))
    assert report_path(lived, 0, 1, S.UNDELIVERED) is Path.PARTIALLY_DELIVERED
    assert report_path(lived, 0, 1, S.DELIVERED) is Path.DELIVERED


def test_the_first_copy_delivered_while_the_second_waits():
    lived = story(message(), row(Path.UNCERTAIN, channel=7), row(Path.QUEUED, copy=1))
    assert report_path(lived, 0, 0, S.UNDELIVERED) is Path.NOTE
    path = report_path(lived, 0, 0, S.DELIVERED)
    assert path is Path.FIRST_COPY_DELIVERED
    story(lived, row(path, segment=0, channel=7))
    assert (lived.state, lived.first_states) == (S.DELIVERED, [S.DELIVERED])


def test_the_first_copy_delivered_while_the_second_is_on_the_wire():
    lived = story(message(), row(Path.UNCERTAIN, channel=7), row(Path.QUEUED, copy=1))
    assert begin_attempt(lived, 8)
    assert report_path(lived, 0, 0, S.DELIVERED) is Path.NOTE
    story(lived, row(Path.NOTE, S.DELIVERED, segment=0, copy=0))
    story(lived, row(Path.SUBMITTED, copy=1, channel=8, carrier_id="c"))
    assert settled(lived) is S.DELIVERED
    story(lived, row(Path.DELIVERED, S.DELIVERED, segment=0))
    assert lived.segment_states == [S.SUBMITTED]


def test_the_first_copys_late_answer_does_not_disturb_the_second():
    lived = two_copies()
    story(lived, row(Path.NOTE, S.SUBMITTED, segment=0, copy=0, channel=7, carrier_id="first"))
    assert (lived.first_states, lived.carrier_ids) == ([S.SUBMITTED], ["c0"])
    both_lost = story(
        message(), row(Path.UNCERTAIN), row(Path.QUEUED, copy=1), row(Path.UNCERTAIN, copy=1)
    )
    story(both_lost, row(Path.SUBMITTED_LATE, S.SUBMITTED, segment=0, carrier_id="first"))
    assert both_lost.state is S.SUBMITTED
    assert (both_lost.first_states, both_lost.segment_states) == ([S.SUBMITTED], [S.UNCERTAIN])


def test_an_attempt_of_the_first_copy_after_the_second_exists_is_illegal():
    lived = story(message(), row(Path.UNCERTAIN), row(Path.QUEUED, copy=1))
    assert not apply_row(lived, row(Path.SUBMITTED, sequence=4, copy=0))


def test_the_reason_of_a_failed_segment_survives_a_later_good_one():
    lived = three_submitted()
    story(
        lived,
        row(Path.NOTE, S.UNDELIVERED, segment=0, code="UNDELIV", reason="recipient.absent"),
        row(Path.NOTE, S.DELIVERED, segment=1, code="DELIVRD"),
        row(Path.PARTIALLY_DELIVERED, S.DELIVERED, segment=2),
    )
    assert (lived.reason, lived.carrier_code) == ("recipient.absent", "UNDELIV")


def test_derive_waits_for_all_segments():
    assert derive([]) is None
    assert derive([S.DELIVERED, S.SUBMITTED]) is None
    assert derive_copies([S.UNDELIVERED], [S.SUBMITTED]) is None
    assert derive_copies([S.UNKNOWN], [S.UNDELIVERED]) is S.UNKNOWN


@pytest.mark.parametrize("known", [None, *State])
@pytest.mark.parametrize("is_risky", [False, True])
def test_the_short_way_for_one_segment_gives_what_the_long_way_gives(
    known: State | None, is_risky: bool
) -> None:
    for stands in State:
        for said in State:
            one = message(state=stands)
            one.segment_states = [] if known is None else [known]
            one.duplicate_risk = is_risky
            long_way = report_path_of_many(one, 0, 0, said)
            assert report_path(one, 0, 0, said) == long_way, (stands, said)
