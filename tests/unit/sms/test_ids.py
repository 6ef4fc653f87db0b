"""Ids of one process grow, also behind another's; the mark bounds them without running away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sms.ids import EPOCH_MS, TIME_SHIFT, IdClock, id_at, unix_of

UNIX = EPOCH_MS / 1000 + 1e6
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["next", "range", "follow", "time"]), st.integers(0, 4095), st.booleans()
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 1023))
def test_every_id_lies_above_all_given_and_followed_before(steps, process):
    now = [UNIX]
    clock = IdClock(process, id_at(UNIX) + (5000 << TIME_SHIFT), lambda: now[0])
    highest = 0
    for what, amount, is_back in steps:
        if what == "time":
            now[0] += amount / 1000 * (-1 if is_back else 1)
        elif what == "follow":
            seen = clock.next() + (amount << 12) * (-1 if is_back else 1)
            was_behind = clock.is_behind(seen)
            clock.follow(seen)
            assert was_behind or seen < clock.next()
            highest = max(highest, seen)
        else:
            count = 1 if what == "next" else amount + 1
            first = clock.next(count)
            assert first > highest
            highest = first + count - 1


def test_nobody_is_behind_its_own_ids_also_while_it_is_ahead():
    """Or each row of ours that we read would move us on by a millisecond."""
    clock = IdClock(7, id_at(UNIX + 13), lambda: UNIX)
    own = [clock.next() for _ in range(3)]
    assert not any(clock.is_behind(one) for one in own)
    assert clock.is_behind(own[-1] + 1)


@given(st.integers(0, 4096 * 200), st.floats(0, 14.5))
def test_no_id_passes_the_mark_while_it_is_good(count, later_s):
    """In its last moment the counter may borrow beyond it: the accept lane refuses that."""
    now = [UNIX]
    clock = IdClock(3, id_at(UNIX + 13), lambda: now[0])
    mark = clock.high_water(15)
    now[0] += later_s
    for _ in range(count // 4096):
        clock.next(4096)
    assert clock.next() <= mark


def test_lives_that_end_at_once_one_after_another_do_not_run_ahead():
    """Each begins where the mark of the one before ended."""
    now = [UNIX]
    floor = 0
    for _ in range(20):
        clock = IdClock(3, floor, lambda: now[0])
        floor = clock.high_water(15)
        now[0] += 1.5  # a process takes longer to start
    assert unix_of(floor) - now[0] < 16


def test_a_drained_process_leaves_no_lead():
    clock = IdClock(3, 0, lambda: UNIX)
    clock.next()
    assert unix_of(clock.high_water(0.0)) == UNIX
