"""The pumping guard's arithmetic: sliding windows of a number, the bucket of its neighbours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.otp_caps import CapBook, Wanted, windows
from sms.config import OtpCaps

NUMBERS_ONLY = OtpCaps(prefix_burst=0)
PREFIX_ONLY = OtpCaps(0, 0, 0, prefix_burst=3)


def take(book, wanted, now):
    wait_s = book.wait_s(wanted, now)
    if not wait_s:
        book.count(wanted, now)
    return wait_s


def test_a_number_gets_one_in_a_minute_five_in_an_hour_ten_in_a_day():
    book, one = CapBook(), Wanted(1, 2, NUMBERS_ONLY)
    assert take(book, one, 0.0) == 0.0
    assert take(book, one, 59.0) == 1.0
    for minute in range(1, 5):
        assert take(book, one, 60.0 * minute) == 0.0
    assert take(book, one, 300.0) == 3300.0
    for minute in range(5):
        assert take(book, one, 3600.0 + 60.0 * minute) == 0.0
    assert take(book, one, 7300.0) == 86_400.0 - 7300.0
    assert take(book, one, 86_400.0) == 0.0


def test_another_number_has_caps_of_its_own():
    book = CapBook()
    assert take(book, Wanted(1, 9, NUMBERS_ONLY), 0.0) == 0.0
    assert take(book, Wanted(2, 9, NUMBERS_ONLY), 0.0) == 0.0


def test_a_block_of_numbers_gets_a_burst_and_then_what_refills():
    book = CapBook()
    for number in range(3):
        assert take(book, Wanted(number, 9, PREFIX_ONLY), 0.0) == 0.0
    assert take(book, Wanted(4, 9, PREFIX_ONLY), 0.0) == pytest.approx(20.0)
    assert take(book, Wanted(4, 8, PREFIX_ONLY), 0.0) == 0.0
    assert take(book, Wanted(4, 9, PREFIX_ONLY), 20.0) == 0.0
    assert take(book, Wanted(5, 9, PREFIX_ONLY), 21.0) == pytest.approx(19.0)


def test_what_is_refused_counts_nothing():
    book, one = CapBook(), Wanted(1, 2, OtpCaps(per_minute=1, prefix_burst=2))
    assert take(book, one, 0.0) == 0.0
    for second in range(1, 60):
        assert take(book, one, float(second)) == 60.0 - second
    assert take(book, one, 60.0) == 0.0


def test_what_is_given_back_can_be_taken_again():
    book, one = CapBook(), Wanted(1, 2, OtpCaps(per_minute=1, prefix_burst=1))
    assert take(book, one, 5.0) == 0.0
    assert take(book, one, 6.0)
    book.give_back(one, 5.0)
    assert take(book, one, 6.0) == 0.0
    book.give_back(one, 5.0)  # was given back before
    assert take(book, one, 7.0)


def test_the_same_request_again_counts_nothing():
    book = CapBook()
    one = Wanted(1, 2, OtpCaps(), token=77)
    assert book.wait_s(one, 0.0) == 0.0
    assert book.count(one, 0.0)
    assert book.wait_s(one, 1.0) == 0.0
    assert not book.count(one, 1.0)
    assert book.wait_s(Wanted(1, 2, OtpCaps(), token=78), 1.0) == 59.0
    assert book.wait_s(Wanted(1, 2, OtpCaps()), 1.0) == 59.0


def test_zero_switches_a_cap_off():
    assert not OtpCaps(0, 0, 0, 0)
    book, one = CapBook(), Wanted(1, 2, OtpCaps(per_minute=0, per_hour=2, prefix_burst=0))
    assert [take(book, one, 0.0) for _ in range(3)] == [0.0, 0.0, 3600.0]


def test_it_remembers_no_more_than_it_may():
    book = CapBook(max_known=10)
    for number in range(50):
        take(book, Wanted(number, number, OtpCaps()), float(number))
    assert len(book._numbers) == len(book._full_at) == 10
    assert take(book, Wanted(49, 49, OtpCaps()), 50.0) == 59.0


@given(
    st.builds(OtpCaps, st.integers(0, 3), st.integers(0, 5), st.integers(0, 7), st.just(0)),
    st.lists(st.floats(0.5, 20_000.0), max_size=40),
)
def test_no_window_ever_holds_more_than_its_cap_and_a_wait_is_exact(caps, gaps):
    book, one, now = CapBook(), Wanted(1, 2, caps), 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        wait_s = take(book, one, now)
        full = [w for count, w in windows(caps) if sum(at > now - w for at in taken) >= count]
        assert bool(wait_s) == bool(full)
        if wait_s:
            assert book.wait_s(one, now + wait_s + 1e-6) == 0.0
        else:
            taken.append(now)


@given(st.integers(1, 50), st.lists(st.floats(0.0, 10.0), max_size=200))
def test_a_block_gets_no_more_than_burst_and_refill(burst, gaps):
    book, now = CapBook(), 0.0
    taken: list[float] = []
    for number, gap in enumerate(gaps):
        now += gap
        if not take(book, Wanted(number, 1, OtpCaps(0, 0, 0, burst)), now):
            taken.append(now)
    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + burst * (taken[last] - begin) / 60 + 1e-6
