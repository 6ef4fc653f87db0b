"""Usage: the moves of all rows add up to where every message stands, whatever happened to it."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage import usage_moves
from receipts.state import Path, fold
from sms.model import STATE_CODES, EventRow, Message, MessageClass, State
from sms.outcomes import Cause, Outcome, Rejected, Submitted, Uncertain
from store.usage import Moves, accepted_moves, date_of_number, day_number, usage_sql
from tests.support.flow_kit import Kit

OUTCOMES: list[Outcome] = [
    Submitted("c"),
    Rejected("1", Cause.NUMBER, "recipient.invalid"),
    Rejected("2", Cause.CHANNEL, "channel.unavailable"),
    Rejected("3", Cause.CONFIG, "channel.unavailable"),
    Uncertain("channel.timeout"),
]


def cells(moves: list[Moves]) -> Counter[tuple[object, ...]]:
    """What they come to together, by class, channel and status."""
    sums: Counter[tuple[object, ...]] = Counter()
    for some in moves:
        for (_, _, cls, _, channel, status), (messages, segments) in some.items():
            sums[cls, channel, status] += messages
            sums["segments", cls, channel, status] += segments
    return Counter({key: count for key, count in sums.items() if count})


def stands(messages: list[Message], rows: list[EventRow]) -> Counter[tuple[object, ...]]:
    """The same, from what the store would give back."""
    sums: Counter[tuple[object, ...]] = Counter()
    for message in messages:
        own = sorted((r for r in rows if r.message_id == message.id), key=lambda r: r.sequence)
        assert fold(message, own) == 0
        status, channel = message.counted
        assert status is message.state
        cls = list(MessageClass).index(message.message_class)
        sums[cls, channel, STATE_CODES[status]] += 1
        sums["segments", cls, channel, STATE_CODES[status]] += len(message.texts)
    return sums


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=12))
def test_moves_add_up_to_where_the_messages_stand(steps):
    kit = Kit()
    flushes: list[list[EventRow]] = []

    def committed(rows):
        flushes.append(list(rows))
        kit.ledger.committed(rows)

    kit.events.committed = committed
    messages: list[Message] = []
    fresh: list[Message] = []
    for number, (size, choice) in enumerate(steps):
        cls = list(MessageClass)[number % 3]
        message = kit.message(cls, texts=("text",) * size)
        messages.append(message)
        fresh.append(deepcopy(message))
        kit.accept(message)
        for channel in kit.channels.values():
            while channel.open and choice < len(OUTCOMES):
                kit.answer(channel.id, OUTCOMES[choice])
    rows = [row for flush in flushes for row in flush]
    moves = [accepted_moves(fresh), *(usage_moves(flush) for flush in flushes)]
    assert cells(moves) == stands(fresh, rows)


def test_what_moves_there_and_back_in_one_flush_is_not_written():
    kit = Kit()
    message = kit.message()
    first = kit.ledger.row(message, Path.QUEUED, State.QUEUED, 0.0)
    assert first is not None
    moves = usage_moves([first])
    assert usage_sql(moves).count("(") == 2
    back = {cell: [-count for count in counts] for cell, counts in moves.items()}
    both = {cell: [a + b for a, b in zip(moves[cell], back[cell], strict=True)] for cell in moves}
    assert usage_sql(both) == ""
    assert usage_sql({}) == ""


def test_a_day_ends_at_midnight_in_china():
    assert str(date_of_number(day_number(1_796_140_799.9))) == "2026-12-01"
    assert str(date_of_number(day_number(1_796_140_800.0))) == "2026-12-02"
