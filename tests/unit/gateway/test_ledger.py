"""What a flush is counted as: each message open, submitted or final, once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import tally
from receipts.state import Path, apply_row
from sms.model import FINAL_STATES, EventRow, Message, State
from tests.support.flow_kit import Kit


def row_of(message: Message, path: Path, copy: int) -> EventRow | None:
    """The message's next row by this path, applied; None when it is illegal."""
    row = EventRow(
        message.id,
        message.sequence + 1,
        0,
        message.tenant,
        path,
        State.QUEUED,
        5.0,
        copy=copy,
        channel=1,
        previous=message.state,
    )
    return row if apply_row(message, row) else None


@given(st.lists(st.tuples(st.sampled_from(Path), st.integers(0, 1)), max_size=60))
def test_whatever_happens_the_counts_say_where_each_message_stands(moves):
    kit = Kit()
    messages = [kit.message(tenant=1), kit.message(tenant=1), kit.message(tenant=2)]
    sums = {1: [0, 0], 2: [0, 0]}
    for number, (path, copy) in enumerate(moves):
        row = row_of(messages[number % 3], path, copy)
        for tenant, counted in tally([row] if row else []).items():
            sums[tenant][0] += counted[0]
            sums[tenant][1] += counted[1]
        for tenant, of_tenant in ((1, messages[:2]), (2, messages[2:])):
            states = [message.state for message in of_tenant]
            submitted = states.count(State.SUBMITTED)
            assert sums[tenant] == [submitted, sum(state in FINAL_STATES for state in states)]


def test_a_life_with_a_correction_and_a_return_counts_once():
    kit = Kit()
    message = kit.message()
    counts = []
    for path, copy in (
        (Path.UNCERTAIN, 0),
        (Path.QUEUED, 1),
        (Path.SUBMITTED, 1),
        (Path.UNKNOWN, 1),
        (Path.DELIVERED, 1),
    ):
        row = row_of(message, path, copy)
        assert row is not None, path
        counts.append(tally([row]).get(1))
    assert counts == [None, None, (1, 0), (-1, 1), None]


def test_the_rows_of_one_flush_are_added_up_by_tenant():
    kit = Kit()
    rows = []
    for tenant in (1, 1, 2):
        message = kit.message(tenant=tenant)
        rows += [row_of(message, Path.SUBMITTED, 0), row_of(message, Path.DELIVERED, 0)]
    rows.append(row_of(kit.message(tenant=2), Path.SUBMITTED, 0))
    assert tally([row for row in rows if row]) == {1: (0, 2), 2: (1, 1)}
