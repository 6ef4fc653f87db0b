"""The part of the numbers that is on a canary: its size, that it only grows, whose it is."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.breaker import SHARES
from failover.share import Share
from failover.split import key_of

NUMBERS = [f"86138{number:08d}" for number in range(20_000)]
ANY_NUMBER = st.text("0123456789", min_size=1, max_size=20)


def part(share, numbers):
    return sum(map(share.has, numbers)) / len(numbers)


@given(st.integers(1, 1 << 31), ANY_NUMBER, st.integers(0, 100), st.integers(0, 100))
def test_who_is_on_it_stays_on_it_as_it_grows(canary, number, one, other):
    low, high = sorted((one, other))
    if Share(canary, low).has(number):
        assert Share(canary, high).has(number)
    assert not Share(canary, 0).has(number)
    assert Share(canary, 100).has(number)


@given(st.integers(1, 1 << 31), ANY_NUMBER)
def test_a_number_comes_on_at_one_share_and_never_before(canary, number):
    on = [share for share in range(101) if Share(canary, share).has(number)]
    assert on == list(range(on[0], 101))


@given(st.integers(1, 1 << 31), st.sampled_from([5, 30, 70]))
def test_its_size_is_the_share_whichever_canary_it_is(canary, percent):
    # 4,000 numbers one after the other, as a carrier gives them out; of 1,500 canaries none was
    # off by more than 4.5 standard deviations.
    deviation = (percent / 100 * (1 - percent / 100) / 4000) ** 0.5
    found = part(Share(canary, percent), NUMBERS[:4000])
    assert found == pytest.approx(percent / 100, abs=8 * deviation)


def test_it_has_nothing_to_do_with_another_canary_a_weight_or_a_ramp():
    mine = [number for number in NUMBERS if Share(7, 30).has(number)]
    assert part(Share(8, 30), mine) == pytest.approx(0.3, abs=0.05)
    weighted = [number for number in NUMBERS if key_of(number) < 0.3 * SHARES]
    assert part(Share(7, 30), weighted) == pytest.approx(0.3, abs=0.05)
    climbing = [number for number in NUMBERS if crc32(number.encode()) % SHARES < 0.3 * SHARES]
    assert part(Share(7, 30), climbing) == pytest.approx(0.3, abs=0.05)


def test_a_number_s_place_is_the_same_in_every_version():
    assert [place for place in range(120) if Share(1, 5).has(NUMBERS[place])] == [75, 110, 115]
