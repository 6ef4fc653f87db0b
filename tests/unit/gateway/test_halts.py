"""Which batches do not run: any order of changes gives the same answers as a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.halts import Halts
from store.commands import BatchState, Halted

SIZE = 10  # of a batch, with a gap of as many ids behind it


def batch(number, state):
    first = number * 2 * SIZE
    return Halted(first, first + SIZE - 1, 1, state)


changes = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(BatchState)), max_size=40)


@given(changes, st.booleans())
def test_every_id_has_the_state_its_batch_was_given_last(steps, is_picture):
    halts = Halts()
    plain: dict[int, BatchState] = {}
    for number, state in steps:
        plain[number] = state
        halts.set(batch(number, state))
    if is_picture:
        halts.set(batch(20, BatchState.PAUSED))  # forgotten by the picture
        halts.replace(batch(number, state) for number, state in plain.items())
    for number, state in plain.items():
        if state is BatchState.SETTLED:
            plain[number] = BatchState.RUNNING
    halted = {n for n, state in plain.items() if state is not BatchState.RUNNING}
    assert len(halts) == len(halted)
    for message_id in range(9 * 2 * SIZE):
        number, place = divmod(message_id, 2 * SIZE)
        expected = plain.get(number, BatchState.RUNNING) if place < SIZE else BatchState.RUNNING
        assert halts.state_of(message_id) is expected
    assert halts.last == (max(halted) * 2 * SIZE + SIZE - 1 if halted else -1)


def test_a_change_is_counted_so_that_an_older_picture_can_be_left_out():
    halts = Halts()
    before = halts.changes
    halts.set(batch(1, BatchState.PAUSED))
    assert halts.changes != before
