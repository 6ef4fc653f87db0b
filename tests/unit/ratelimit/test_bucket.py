"""The bucket's law by property: never more than rate · t + depth in any window."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.bucket import Bucket

rates = st.integers(1, 2_000_000).map(lambda thousandths: thousandths / 1000)
depths = st.integers(1, 500)
steps = st.lists(
    st.tuples(st.integers(0, 2_000_000_000), st.integers(0, 60), st.booleans()), max_size=60
)
START_S = 1000


def moments(gaps):
    """Nanoseconds and the float a clock would give for them."""
    at = START_S * 10**9
    for gap, n, flag in gaps:
        at += gap
        yield at / 10**9, int(at / 10**9 * 10**9), n, flag


@given(rates, depths, steps)
def test_in_any_window_at_most_rate_times_t_plus_depth_is_taken(rate, depth, gaps):
    bucket = Bucket(rate, depth, START_S)
    taken = [(at_ns, n) for now, at_ns, n, _ in moments(gaps) if bucket.take(n, now) == 0.0]
    exact_rate = Fraction(round(rate * 1000), 1000)
    for first, (begin, _) in enumerate(taken):
        total = 0
        for end, n in taken[first:]:
            total += n
            assert total <= exact_rate * Fraction(end - begin, 10**9) + depth


@given(rates, depths, steps)
def test_it_takes_exactly_when_a_bucket_of_fractions_would(rate, depth, gaps):
    bucket = Bucket(rate, depth, START_S)
    exact_rate = Fraction(round(rate * 1000), 1000)
    level, before = Fraction(depth), START_S * 10**9
    for now, at_ns, n, gives_back in moments(gaps):
        level = min(Fraction(depth), level + exact_rate * Fraction(at_ns - before, 10**9))
        before = at_ns
        if gives_back:
            bucket.put_back(n, now)
            level = min(Fraction(depth), level + n)
        else:
            fits = n <= level
            assert (bucket.take(n, now) == 0.0) == fits
            level -= n if fits else 0
        assert bucket.left(now) == math.floor(level)


@given(rates, depths, steps, st.integers(0, 500), st.booleans())
def test_the_waiting_time_is_enough_and_hardly_more(rate, depth, gaps, n, is_otp):
    bucket = Bucket(rate, depth, START_S, otp_reserve=depth / 8)
    now = START_S
    for now, _, take, _ in moments(gaps):
        bucket.take(take, now)
    wait_s = bucket.take(n, now, is_otp=is_otp)
    if wait_s == math.inf:
        assert n > depth * (1 if is_otp else 7 / 8) - 1e-6
        assert bucket.take(n, now + 1e6, is_otp=is_otp) == math.inf
        return
    if wait_s > 0.0:
        assert bucket.take(n, now + wait_s - 4e-6, is_otp=is_otp) > 0.0 or wait_s < 4e-6
        assert bucket.take(n, now + wait_s, is_otp=is_otp) == 0.0


@given(rates, depths, steps)
def test_putting_back_never_exceeds_the_depth(rate, depth, gaps):
    bucket = Bucket(rate, depth, START_S)
    for now, _, n, gives_back in moments(gaps):
        if gives_back:
            bucket.put_back(n)
        else:
            bucket.take(n, now)
        assert 0 <= bucket.left(now) <= depth


def test_the_reserve_is_for_otp_alone():
    bucket = Bucket(0.001, 80, 0.0, otp_reserve=10)
    assert bucket.take(70, 0.0, is_otp=False) == 0.0
    assert bucket.take(1, 0.0, is_otp=False) > 0.0
    assert bucket.take(10, 0.0, is_otp=True) == 0.0
    assert bucket.take(1, 0.0, is_otp=True) > 0.0
    assert bucket.left(0.0) == 0


def test_what_can_never_fit_waits_for_ever():
    bucket = Bucket(10, 80, 0.0, otp_reserve=10)
    assert bucket.take(81, 0.0) == math.inf
    assert bucket.take(71, 0.0, is_otp=False) == math.inf
    assert bucket.left(0.0) == 80


def test_a_take_that_says_nothing_may_use_the_reserve():
    assert Bucket(1, 80, 0.0, otp_reserve=10).take(80, 0.0) == 0.0


def test_a_refusal_takes_nothing():
    bucket = Bucket(1, 10, 0.0)
    assert bucket.take(8, 0.0) == 0.0
    assert bucket.take(3, 0.0) == pytest.approx(1.0, abs=1e-5)
    assert bucket.left(0.0) == 2


def test_no_rate_no_refill():
    bucket = Bucket(0, 2, 0.0)
    assert bucket.take(2, 0.0) == 0.0
    assert bucket.take(1, 1e9) == math.inf


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(10, 10, 100.0)
    assert bucket.take(10, 100.0) == 0.0
    assert bucket.take(1, 50.0) > 0.0
    assert bucket.take(1, 100.05) > 0.0
    assert bucket.take(1, 100.11) == 0.0


def test_a_new_depth_keeps_the_fill_and_cuts_it():
    bucket = Bucket(10, 100, 0.0)
    bucket.take(40, 0.0)
    bucket.configure(1, 200, 1.0)
    assert bucket.left(1.0) == 70  # 60 and a second at the old rate
    assert bucket.left(2.0) == 71
    bucket.configure(1, 20, 2.0)
    assert bucket.left(2.0) == 20
    assert (bucket.rate, bucket.depth) == (1.0, 20.0)
