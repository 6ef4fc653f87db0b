"""The life of a message as one table, and the fold of its rows (RELIABILITY section 2).

    accepted ─┬─────────────▶ queued ─▶ submitting ─┬─▶ submitted ─▶ delivered, undelivered …
              └▶ scheduled ─▶  ▲ │                  ├─▶ uncertain ─▶ the same, or a second copy
                               │ └▶ failed, expired └─▶ failed
                               └──── comes back: 9, 14, 14a, 17

A row of `events` does not name two states: it carries a *path*, the states a message passes with
it. `submitting` is never the end of a path, and a message goes from `accepted` to `queued`
without a row, so a path starts where the stored message stands (`accepted`, `scheduled` or
`queued`) although the live object may already be further along it.

Nothing here asks for the time or writes anything: rows in, states out. All look-ups are tables
built at import; `apply_row` costs under 1 µs for a text of one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise

from sms.model import FINAL_STATES, EventRow, Message, State

MAX_SEGMENTS = 255
NOT_ACCEPTED = "evidence.not_accepted"  # the reason that makes a return transition 14a


class Path(IntEnum):
    """What a row does to its message. Append only: the store holds these numbers."""

    NOTE = 0  # nothing: it only tells something about one segment
    SUBMITTED = 1
    REQUEUED = 2
    SUBMIT_FAILED = 3
    UNCERTAIN = 4
    SUBMITTED_LATE = 5
    QUEUED = 6
    QUEUE_FAILED = 7
    FAILED = 8
    DELIVERED = 9
    PARTIALLY_DELIVERED = 10
    UNDELIVERED = 11
    EXPIRED = 12
    REJECTED = 13
    CANCELED = 14
    UNKNOWN = 15
    SCHEDULED = 16
    FIRST_COPY_DELIVERED = 17
    EXPIRED_LATE = 18


class PhonePath(IntEnum):
    """Rows about a text from a phone: they move no message. Same column and rule as `Path`."""

    RECEIVED = 64
    OPTED_OUT = 65


class ChannelPath(IntEnum):
    """Rows about a channel: they move no message. Same column and rule as `Path`."""

    DEGRADED = 66
    RECOVERED = 67


STATES_OF_PATH: dict[Path, tuple[State, ...]] = {
    Path.NOTE: (),
    Path.SUBMITTED: (State.QUEUED, State.SUBMITTING, State.SUBMITTED),
    Path.REQUEUED: (State.QUEUED, State.SUBMITTING, State.QUEUED),
    Path.SUBMIT_FAILED: (State.QUEUED, State.SUBMITTING, State.FAILED),
    Path.UNCERTAIN: (State.QUEUED, State.SUBMITTING, State.UNCERTAIN),
    Path.SUBMITTED_LATE: (State.SUBMITTED,),
    Path.QUEUED: (State.QUEUED,),
    Path.QUEUE_FAILED: (State.QUEUED, State.FAILED),
    Path.FAILED: (State.FAILED,),
    Path.DELIVERED: (State.DELIVERED,),
    Path.PARTIALLY_DELIVERED: (State.PARTIALLY_DELIVERED,),
    Path.UNDELIVERED: (State.UNDELIVERED,),
    Path.EXPIRED: (State.EXPIRED,),
    Path.REJECTED: (State.REJECTED,),
    Path.CANCELED: (State.CANCELED,),
    Path.UNKNOWN: (State.UNKNOWN,),
    Path.SCHEDULED: (State.SCHEDULED,),
    # The copy still waits in its lane while the first one turns out delivered: 14, then 19.
    Path.FIRST_COPY_DELIVERED: (State.UNKNOWN, State.DELIVERED),
    # The carrier says expired about a text whose submit it never answered: 13, then 16.
    Path.EXPIRED_LATE: (State.SUBMITTED, State.EXPIRED),
}

ATTEMPTS = frozenset({Path.SUBMITTED, Path.REQUEUED, Path.SUBMIT_FAILED, Path.UNCERTAIN})

_OUTCOMES = (State.DELIVERED, State.PARTIALLY_DELIVERED, State.UNDELIVERED)
_BEFORE_SUBMIT = (State.ACCEPTED, State.SCHEDULED, State.QUEUED)
_WITH_CARRIER = (State.UNCERTAIN, State.SUBMITTED)

# RELIABILITY section 2: number of the row there, from, to. Row 1 (– to accepted) is the row in
# `messages` itself.
TRANSITIONS: tuple[tuple[str, tuple[State, ...], tuple[State, ...]], ...] = (
    ("2", (State.ACCEPTED,), (State.SCHEDULED,)),
    ("3", (State.ACCEPTED,), (State.QUEUED,)),
    ("4", _BEFORE_SUBMIT, (State.REJECTED,)),
    ("5", _BEFORE_SUBMIT, (State.CANCELED,)),
    ("6", _BEFORE_SUBMIT, (State.EXPIRED,)),
    ("7", (State.SCHEDULED,), (State.QUEUED,)),
    ("8", (State.QUEUED,), (State.SUBMITTING,)),
    ("9", (State.SUBMITTING,), (State.QUEUED,)),
    ("9a", (State.QUEUED,), (State.FAILED,)),
    ("10", (State.SUBMITTING,), (State.SUBMITTED,)),
    ("11", (State.SUBMITTING,), (State.FAILED,)),
    ("12", (State.SUBMITTING,), (State.UNCERTAIN,)),
    ("13", (State.UNCERTAIN,), (State.SUBMITTED,)),
    ("14", (State.UNCERTAIN,), (State.QUEUED,)),
    ("14a", (State.UNCERTAIN,), (State.QUEUED, State.FAILED)),
    ("15", _WITH_CARRIER, _OUTCOMES),
    ("16", (State.SUBMITTED,), (State.EXPIRED,)),
    ("17", (State.SUBMITTED,), (State.QUEUED,)),
    ("18", _WITH_CARRIER, (State.UNKNOWN,)),
    ("19", (State.UNKNOWN,), _OUTCOMES),
)

_STEPS = frozenset(
    (before, after) for _, froms, tos in TRANSITIONS for before in froms for after in tos
)
# With a second copy a text may be with a carrier although the message waits in a lane: from there
# it can end unknown but not expired (14), and it cannot be canceled (5: an attempt is open).
_STEPS_WITH_COPY = frozenset(
    (before, after)
    for before, after in _STEPS | {(State.QUEUED, State.UNKNOWN)}
    if after is not State.EXPIRED and after is not State.CANCELED
)


# Where a path of several states may start, besides at one of its own: by its first state.
_ENTRIES: dict[State, tuple[State, ...]] = {
    State.QUEUED: (State.ACCEPTED, State.SCHEDULED),
    State.UNKNOWN: (State.QUEUED,),
    State.SUBMITTED: (State.UNCERTAIN,),
}


def _remaining(state: State, path: Path) -> tuple[State, ...] | None:
    """The part of a path still ahead of a message in `state`; None = it may not enter there."""
    states = STATES_OF_PATH[path]
    if len(states) < 2:
        # A single step never starts at `submitting` (no stored row ends there), and `failed` out
        # of the queue is QUEUE_FAILED, whose leading `queued` also fits a stored `accepted`.
        if state is State.SUBMITTING or (path is Path.FAILED and state is State.QUEUED):
            return None
        return states
    if state in states[:-1]:
        return states[states.index(state) + 1 :]
    # Coming back from a carrier (14, 14a, 17) is committed as a row of its own before anything
    # is sent again, so an attempt never enters from `uncertain` or `submitted`.
    return states if state in _ENTRIES[states[0]] else None


def _build(steps: frozenset[tuple[State, State]]) -> dict[tuple[State, int], State]:
    """Every legal (state, path) with the state it ends in."""
    ends: dict[tuple[State, int], State] = {}
    for path in Path:
        if path is Path.NOTE:
            continue
        for state in State:
            ahead = _remaining(state, path)
            if ahead is None:
                continue
            walk = (state, *ahead)
            if all(pair in steps for pair in pairwise(walk)):
                ends[state, int(path)] = walk[-1]
    return ends


_ENDS = _build(_STEPS)
_ENDS_WITH_COPY = _build(_STEPS_WITH_COPY)
_PATH_TO: dict[State, Path] = {
    states[0]: path
    for path, states in STATES_OF_PATH.items()
    if len(states) == 1 and states[0] in FINAL_STATES
}
_DETOURS = {
    (State.QUEUED, State.DELIVERED): Path.FIRST_COPY_DELIVERED,
    (State.UNCERTAIN, State.EXPIRED): Path.EXPIRED_LATE,
}


# `State.X` costs 0.08 µs in Python 3.11 (the enum's metaclass looks it up), a global 0.01: the
# functions below use these names, and so stay under 1 µs a row.
_ACCEPTED = State.ACCEPTED
_DELIVERED = State.DELIVERED
_EXPIRED = State.EXPIRED
_PARTIALLY_DELIVERED = State.PARTIALLY_DELIVERED
_QUEUED = State.QUEUED
_SCHEDULED = State.SCHEDULED
_SUBMITTED = State.SUBMITTED
_SUBMITTING = State.SUBMITTING
_UNCERTAIN = State.UNCERTAIN
_UNDELIVERED = State.UNDELIVERED
_UNKNOWN = State.UNKNOWN
_PATH_NOTE = Path.NOTE
_PATH_QUEUED = Path.QUEUED


def advance(state: State, path: int, *, has_copy: bool = False) -> State | None:
    """Where a message in `state` stands after a row of `path`; None when that is illegal.

    `has_copy`: a marked second copy exists (`Message.duplicate_risk`). A NOTE leaves every state
    as it is. A path number nobody knows is illegal.
    """
    if not path:
        return state
    return (_ENDS_WITH_COPY if has_copy else _ENDS).get((state, path))


def derive(segment_states: Sequence[State]) -> State | None:
    """What the segments of one copy say about the message; None while one of them is open.

    All delivered: delivered. All final and some delivered: partially_delivered. None delivered:
    unknown if the end of one is unknown, expired if the carrier let all expire, else undelivered.
    """
    if not segment_states or not FINAL_STATES.issuperset(segment_states):
        return None
    kinds = set(segment_states)
    if _DELIVERED in kinds:
        return _DELIVERED if len(kinds) == 1 else _PARTIALLY_DELIVERED
    if _UNKNOWN in kinds:
        return _UNKNOWN
    return _EXPIRED if kinds == {_EXPIRED} else _UNDELIVERED


_DERIVED = {state: derive((state,)) for state in State}  # of one segment


def derive_copies(first: Sequence[State], second: Sequence[State]) -> State | None:
    """The same with two copies out (15): any delivered whole, or both at an end."""
    ends = (derive(first), derive(second))
    if _DELIVERED in ends:
        return _DELIVERED
    if None in ends:
        return None
    for state in (_PARTIALLY_DELIVERED, _UNKNOWN):
        if state in ends:
            return state
    return _UNDELIVERED  # also when both expired: after 14 a message cannot end expired


def settled(message: Message) -> State | None:
    """The final state that the segments known so far amount to, None while open.

    Ask after a copy's SUBMITTED row: the first copy may have been delivered meanwhile.
    """
    if message.copy:
        return derive_copies(message.first_states, message.segment_states)
    return derive(message.segment_states)


def report_path(
    message: Message, segment: int, copy: int, state: State, *, carrier_id: str | None = None
) -> Path | None:
    """Which path the row of a segment's report has; None when the report says nothing new.

    `state` is the segment's normalised end (`receipts.normalise`). NOTE: the message waits for
    other segments, for the other copy, or for the answer to a submit that is open just now. A
    message that is already final takes only the corrections of transition 19. With `carrier_id`
    a report about an earlier attempt of the same copy is left out, unless it says delivered.
    """
    size = len(message.texts)
    if segment >= size or _is_stale(message, segment, copy, state, carrier_id):
        return None
    if size == 1 and not message.copy:
        return _report_path_of_one(message, state)
    return report_path_of_many(message, segment, copy, state)


def _report_path_of_one(message: Message, state: State) -> Path | None:
    """One segment, one copy: without lists (0.3 instead of 0.9 µs)."""
    states = message.segment_states
    if states:
        known = states[0]
        if known in FINAL_STATES and (known is not _UNKNOWN or state is _UNKNOWN):
            return None
    end = _DERIVED[state]
    if end is None:
        return _PATH_NOTE
    before = message.state
    path = _DETOURS.get((before, end)) or _PATH_TO[end]
    ends = _ENDS_WITH_COPY if message.duplicate_risk else _ENDS
    return path if (before, path) in ends else _PATH_NOTE


def report_path_of_many(message: Message, segment: int, copy: int, state: State) -> Path | None:
    """`report_path` for any number of segments and copies, without its look at old attempts."""
    states = _filled(_states_of(message, copy), message.segments, _open_state(message.state))
    known = states[segment]
    if known in FINAL_STATES and (known is not _UNKNOWN or state is _UNKNOWN):
        return None
    states[segment] = state
    if not message.copy:
        end = derive(states)
    elif copy:
        end = derive_copies(message.first_states, states)
    else:
        end = derive_copies(states, message.segment_states)
    if end is None:
        return _PATH_NOTE
    path = _DETOURS.get((message.state, end)) or _PATH_TO[end]
    if advance(message.state, path, has_copy=message.duplicate_risk) is None:
        return _PATH_NOTE
    return path


def path_to(message: Message, end: State) -> Path | None:
    """The path of the row that ends a message in the final state `end`; None when it may not."""
    path = _DETOURS.get((message.state, end)) or _PATH_TO[end]
    legal = advance(message.state, path, has_copy=message.duplicate_risk)
    return None if legal is None else path


def _is_stale(
    message: Message, segment: int, copy: int, state: State, carrier_id: str | None
) -> bool:
    """Whether the report is about a submit that a newer one of the same copy replaced."""
    if carrier_id is None or copy != message.copy or state is _DELIVERED:
        return False
    ids = message.carrier_ids
    return segment < len(ids) and ids[segment] not in (None, carrier_id)


def begin_attempt(message: Message, channel: int) -> bool:
    """Transition 8, which has no row: the live message is about to leave for `channel`.

    Counts the attempt and empties the segment lists; False (and nothing changed) when the
    message does not stand in a lane. The row that ends the attempt does not count it again.
    """
    if message.state not in _BEFORE_SUBMIT:
        return False
    message.state = _SUBMITTING
    message.attempt += 1
    message.channel = channel
    message.carrier_ids = []
    message.segment_states = []
    return True


def come_due(message: Message) -> None:
    """Transition 7, which has no row: a scheduled message that somebody takes up is queued.

    For whoever takes a message to send it: nobody does before its hour.
    """
    if message.state is _SCHEDULED:
        message.state = _QUEUED


def undo_attempt(message: Message) -> bool:
    """Transition 9 without a row: throttled or provably not sent, so it was no attempt.

    The tries are counted in `throttled` until the next row. Not for a message of which a
    carrier already took a segment.
    """
    if message.state is not _SUBMITTING:
        return False
    message.state = _QUEUED
    message.attempt -= 1
    message.throttled += 1
    return True


def fold(message: Message, rows: Sequence[EventRow]) -> int:
    """Apply stored rows in the order of their sequence; returns how many were illegal.

    An illegal row changes nothing, but its sequence is taken: the next row must not use it. Rows
    that the message already contains (sequence not above its own) are passed over.
    """
    illegal = 0
    for row in rows:
        if row.sequence <= message.sequence:
            continue
        if not apply_row(message, row):
            illegal += 1
            message.sequence = row.sequence
    return illegal


def apply_row(message: Message, row: EventRow) -> bool:
    """Apply one row to the live message; False, with nothing changed, when it is illegal.

    A row belongs to copy `row.copy`. QUEUED out of `uncertain` with copy 1 makes the marked
    second copy (14, once); with the reason `evidence.not_accepted` it is 14a.
    """
    path = row.path
    if not path:
        return _apply_note(message, row)
    before = message.state
    end = (_ENDS_WITH_COPY if message.duplicate_risk else _ENDS).get((before, path))
    if end is None or not (
        (row.segment is None and row.copy == message.copy and before is not _UNCERTAIN)
        or _is_row_fitting(message, row)
    ):
        return False
    message.state = end
    message.sequence = row.sequence
    counted = row.counted_before = message.counted
    if path in ATTEMPTS:
        if before is not _SUBMITTING:  # live, it was counted when it left
            message.attempt += 1
        message.channel = row.channel or message.channel
        message.throttled = 0
        message.counted = end, row.channel or counted[1]
    else:
        if not message.channel:
            message.channel = row.channel
        message.counted = end, counted[1] or row.channel
    if end is _QUEUED:
        _come_back(message, row, before)
    else:
        _arrive(message, row, end)
    if row.code and row.segment is not None:
        _note_code(message, row.segment, row.code)
    return True


def _arrive(message: Message, row: EventRow, end: State) -> None:
    """With a carrier, uncertain or final: the fields that tell when, why and per segment."""
    _explain(message, row, is_cleared=end is _SUBMITTED or end is _DELIVERED)
    if end is _SUBMITTED:
        message.submitted_at = row.at
    elif end in FINAL_STATES:
        message.final_at = row.at
    elif end is _SCHEDULED:
        return
    if len(message.texts) != 1 or row.copy != message.copy:
        _set_segments(message, row, end)
        return
    # One segment, newest copy: its state is the message's.
    message.segment_states = [end if row.segment is None else row.status]
    if row.carrier_id is not None or not message.carrier_ids:
        message.carrier_ids = [row.carrier_id]


def _explain(message: Message, row: EventRow, *, is_cleared: bool) -> None:
    """Take over the row's reason and raw code; an older one stays until something goes well."""
    if is_cleared or row.reason is not None:
        message.reason = row.reason
        message.carrier_code = row.code


def _note_code(message: Message, segment: int, code: str) -> None:
    """Keep the carrier's newest word on one of several segments, whatever attempt it is about."""
    size = len(message.texts)
    if size == 1 or segment >= size:
        return
    codes = message.segment_codes or (None,) * size
    message.segment_codes = (*codes[:segment], code, *codes[segment + 1 :])


def _is_row_fitting(message: Message, row: EventRow) -> bool:
    """What the table cannot say: which copy a row may belong to, and which segment."""
    if row.segment is not None and not 0 <= row.segment < MAX_SEGMENTS:
        return False
    if message.state is _UNCERTAIN and row.path == _PATH_QUEUED:
        is_second_copy = row.copy == 1 and message.copy == 0
        return is_second_copy or (row.copy == message.copy and row.reason == NOT_ACCEPTED)
    if row.copy == message.copy:
        return True
    # Evidence about the first copy may come at any time; nothing else of it, and no third copy.
    return row.copy == 0 and row.path not in ATTEMPTS and row.path != _PATH_QUEUED


def _apply_note(message: Message, row: EventRow) -> bool:
    """A NOTE is always legal unless it names a copy or a segment that cannot be."""
    segment = row.segment
    if row.copy > message.copy or (segment is not None and not 0 <= segment < MAX_SEGMENTS):
        return False
    message.sequence = row.sequence
    if segment is None:
        return True
    _set_segment(message, row, _open_state(message.state))
    _explain(message, row, is_cleared=False)
    if row.code:
        _note_code(message, segment, row.code)
    if not message.channel:
        message.channel = row.channel
    return True


def _come_back(message: Message, row: EventRow, before: State) -> None:
    """Into a lane again (3, 7, 9, 14, 14a, 17): the next attempt starts with empty lists."""
    _explain(message, row, is_cleared=False)
    if (before is _ACCEPTED or before is _SCHEDULED) and row.path == _PATH_QUEUED:
        return  # due now, never tried
    channel = row.channel or message.channel
    if channel and channel not in message.tried:
        message.tried = (*message.tried, channel)
    if row.copy and not message.copy:
        message.copy = 1
        message.duplicate_risk = True
        message.first_states = _filled(message.segment_states, message.segments, _UNCERTAIN)
    message.carrier_ids = []
    message.segment_states = []


def _set_segments(message: Message, row: EventRow, end: State) -> None:
    """Several segments or the older copy: what the row says of all of them, then of its own."""
    is_first = row.copy < message.copy
    states = message.first_states if is_first else message.segment_states
    if end is _SUBMITTED or end is _UNCERTAIN:
        states = _filled(states, message.segments, end)
        kept = FINAL_STATES if end is _SUBMITTED else FINAL_STATES | {_SUBMITTED}
        states = [state if state in kept else end for state in states]
        if is_first:
            message.first_states = states
        else:
            message.segment_states = states
    if row.segment is not None or message.segments == 1:
        _set_segment(message, row, end)


def _set_segment(message: Message, row: EventRow, fill: State) -> None:
    """Put the row's status and carrier id on its segment; a final segment stays as it is.

    Only `unknown` may still become something else, as for messages (19).
    """
    index = row.segment or 0
    size = max(message.segments, index + 1)
    states = _filled(_states_of(message, row.copy), size, fill)
    if states[index] not in FINAL_STATES or states[index] is _UNKNOWN:
        states[index] = row.status
    if row.copy < message.copy:
        message.first_states = states
        return
    message.segment_states = states
    ids = message.carrier_ids
    if len(ids) < size:
        ids = message.carrier_ids = ids + [None] * (size - len(ids))
    if row.carrier_id is not None:
        ids[index] = row.carrier_id


def _states_of(message: Message, copy: int) -> list[State]:
    """The segment states of one copy, as far as known."""
    return message.first_states if copy < message.copy else message.segment_states


def _filled(states: list[State], size: int, fill: State) -> list[State]:
    """The states at full length, as a new list."""
    return states + [fill] * (size - len(states))


def _open_state(state: State) -> State:
    """The state of a segment nobody told about, while its message is in `state`."""
    return state if state in _WITH_CARRIER else _SUBMITTING
