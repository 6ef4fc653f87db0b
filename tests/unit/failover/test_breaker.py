"""The moves of a breaker, on simulated time."""

from __future__ import annotations

import pytest

from failover.breaker import SHARES, Breaker, BreakerState
from failover.health import Fault, HealthPolicy, Signal

POLICY = HealthPolicy()
FAULT = Fault(Signal.FAILURES, "half of them failed")


def breaker(dice=0.5, policy=POLICY):
    return Breaker(policy, 0.0, lambda: dice)


def half_open(now=30.0):
    one = breaker()
    one.trip(FAULT, now - 30.0)
    assert one.tick(now, is_ready=True).state is BreakerState.HALF_OPEN
    return one


def ramping(now=30.0):
    one = half_open(now)
    one.probed(9, 0)
    assert one.tick(now, is_ready=True).state is BreakerState.RAMP
    return one


def taken(one, *, is_otp=False):
    """The share of messages that it takes."""
    return sum(one.takes(key, is_otp=is_otp) for key in range(SHARES)) / SHARES


def test_a_closed_one_takes_everything():
    assert taken(breaker()) == taken(breaker(), is_otp=True) == 1.0


@pytest.mark.parametrize(("dice", "wait_s"), [(0.0, 24.0), (0.5, 30.0), (1.0, 36.0)])
def test_it_is_left_for_its_time_give_or_take_a_fifth(dice, wait_s):
    one = breaker(dice)
    change = one.trip(FAULT, 100.0)
    assert change.signal is one.cause is Signal.FAILURES
    assert FAULT.words in change.words
    assert taken(one) == 0.0
    assert one.tick(100.0 + wait_s - 0.1, is_ready=True) is None
    assert one.tick(100.0 + wait_s, is_ready=False) is None  # its link is down
    assert one.tick(100.0 + wait_s, is_ready=True).state is BreakerState.HALF_OPEN


def test_each_time_in_a_row_twice_as_long_up_to_a_cap():
    one, now, waits = breaker(), 0.0, []
    one.trip(FAULT, now)
    for _ in range(8):
        waits.append(one.until - now)
        now = one.until
        one.tick(now, is_ready=True)
        one.probed(0, 2)
        assert one.tick(now, is_ready=True).signal is Signal.PROBES
    assert waits == [30, 60, 120, 240, 480, 600, 600, 600]


def test_only_ten_ordinary_messages_try_it():
    one = half_open()
    assert not one.takes(1, is_otp=True)
    for _ in range(10):
        assert one.takes(1, is_otp=False)
        one.bound()
    assert not one.takes(1, is_otp=False)


@pytest.mark.parametrize(
    ("good", "bad", "overdue", "state"),
    [
        (9, 0, 0, BreakerState.RAMP),
        (9, 1, 0, BreakerState.RAMP),
        (8, 0, 0, None),
        (8, 1, 0, None),
        (8, 2, 0, BreakerState.OPEN),
        (0, 0, 2, BreakerState.OPEN),
        (0, 1, 1, BreakerState.OPEN),
    ],
)
def test_nine_of_ten_must_be_good(good, bad, overdue, state):
    one = half_open()
    one.probed(good, bad)
    change = one.tick(31.0, is_ready=True, overdue=overdue)
    assert (change and change.state) is state


@pytest.mark.parametrize(
    ("good", "bad", "state"),
    [(0, 0, BreakerState.RAMP), (3, 0, BreakerState.RAMP), (8, 1, BreakerState.OPEN)],
)
def test_too_few_messages_are_not_waited_for_for_ever(good, bad, state):
    one = half_open()
    one.probed(good, bad)
    assert one.tick(89.9, is_ready=True) is None
    assert one.tick(90.0, is_ready=True).state is state


def test_it_takes_more_from_minute_to_minute():
    one, shares = ramping(), []
    for minute in range(5):
        shares.append((taken(one), taken(one, is_otp=True)))
        one.tick(30.0 + 60.0 * minute + 59.9, is_ready=True)
        one.tick(30.0 + 60.0 * minute + 60.0, is_ready=True)
    assert shares == [(share, share) for share in (0.01, 0.1, 0.5, 1.0, 1.0)]
    assert one.state is BreakerState.CLOSED
    assert one.cause is None


def test_who_is_on_it_stays_on_it_while_it_climbs():
    one = ramping()
    few = {key for key in range(SHARES) if one.takes(key, is_otp=False)}
    one.tick(90.0, is_ready=True)
    assert few < {key for key in range(SHARES) if one.takes(key, is_otp=False)}


def test_the_time_in_a_row_begins_anew_after_ten_good_minutes():
    one = ramping()
    for minute in range(1, 5):
        one.tick(30.0 + 60.0 * minute, is_ready=True)
    one.trip(FAULT, 270.0 + 600.0)
    assert one.until == 870.0 + 60.0
    again = ramping()
    for minute in range(1, 5):
        again.tick(30.0 + 60.0 * minute, is_ready=True)
    again.trip(FAULT, 270.0 + 600.1)
    assert again.until == pytest.approx(870.1 + 30.0)


def test_too_many_switches_keep_it_on_the_backup_and_page():
    one = ramping(30.0)  # away at 0, back at 30
    one.trip(FAULT, 40.0)  # away at 40: the third
    assert one.until == 100.0
    held = one.tick(100.0, is_ready=True)
    assert held.state is BreakerState.OPEN
    assert held.is_page
    assert one.tick(599.0, is_ready=True) is None  # told once
    assert one.tick(600.0, is_ready=True).state is BreakerState.HALF_OPEN  # the first is forgotten


def test_what_another_breaker_switched_counts_as_well():
    one = breaker()
    one.trip(FAULT, 0.0)
    assert one.tick(30.0, is_ready=True, elsewhere=2).is_page
    assert one.tick(31.0, is_ready=True, elsewhere=1).state is BreakerState.HALF_OPEN


def test_a_refused_account_pages():
    assert breaker().trip(Fault(Signal.CONFIG, "refused"), 0.0).is_page
    assert not breaker().trip(FAULT, 0.0).is_page


def test_what_nobody_else_takes_goes_slowly_over_what_is_not_closed():
    one = breaker()
    assert one.room(16, 3) == 13
    one.trip(FAULT, 0.0)
    assert (one.room(16, 0), one.room(16, 1)) == (1, 0)
    one = half_open()
    one.probed(3, 1)
    assert (one.room(16, 0), one.room(16, 6)) == (6, 0)
    one = ramping()
    assert one.room(16, 0) == 2  # 1 %
    one.tick(90.0, is_ready=True)
    assert one.room(16, 0) == 4  # twice 10 %
    one.tick(150.0, is_ready=True)
    assert one.room(16, 0) == 16


def test_the_better_one_ranks_first():
    further = ramping()
    further.tick(90.0, is_ready=True)
    ranks = [breaker().rank(), further.rank(), ramping().rank(), half_open().rank()]
    opened = breaker()
    opened.trip(FAULT, 0.0)
    ranks.append(opened.rank())
    opened.tick(30.0, is_ready=True)
    opened.probed(0, 2)
    opened.tick(30.0, is_ready=True)
    ranks.append(opened.rank())
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 6
