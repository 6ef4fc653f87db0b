"""Weights of a route: their proportions, and that a number keeps its first channel."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.breaker import SHARES
from failover.split import Split, key_of

WEIGHTS = st.lists(st.integers(0, 1000), max_size=4)
CHANNELS = st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True)
NUMBERS = [f"86138{number:08d}" for number in range(20_000)]


def shares(split, keys):
    firsts = [split.order(key)[0] for key in keys]
    return {one: firsts.count(one) / len(firsts) for one in set(firsts)}


@given(CHANNELS, WEIGHTS)
def test_each_channel_is_first_for_its_part_and_the_others_follow_as_listed(channels, weights):
    split = Split.of(channels, weights)
    given_ = dict.fromkeys(channels, 0) | dict(zip(channels, weights, strict=False))
    total = sum(given_.values())
    if not total:
        given_[channels[0]] = total = 1
    found = shares(split, range(SHARES))
    for channel, weight in given_.items():
        assert found.get(channel, 0) == pytest.approx(weight / total, abs=1.01 / SHARES)
        assert (channel in found) == bool(weight)
    for key in (0, SHARES // 2, SHARES - 1):
        first, *rest = split.order(key)
        assert rest == [one for one in channels if one != first]


@given(CHANNELS, st.data())
def test_other_weights_move_only_the_numbers_that_must(channels, data):
    first, second, least = (data.draw(st.integers(1, 100)) for _ in range(3))
    before = Split.of(channels[:2], [first, second])
    after = Split.of(channels[:2], [first + least, second])
    for key in range(0, SHARES, 97):
        if before.order(key) != after.order(key):  # then it moved to the one that grew
            assert after.order(key)[0] == channels[0]


def test_real_numbers_come_in_these_proportions_also_among_those_that_a_ramp_lets_through():
    split = Split.of((1, 2, 3), (70, 30))
    assert shares(split, map(key_of, NUMBERS)) == pytest.approx({1: 0.7, 2: 0.3}, abs=0.01)
    climbing = [number for number in NUMBERS if crc32(number.encode()) % SHARES < SHARES // 10]
    assert len(climbing) > 1000
    assert shares(split, map(key_of, climbing)) == pytest.approx({1: 0.7, 2: 0.3}, abs=0.05)
    # Another salt, another part of the numbers.
    others = [number for number in NUMBERS if key_of(number, 0x85EB_CA6B) < SHARES // 10]
    assert shares(split, map(key_of, others)) == pytest.approx({1: 0.7, 2: 0.3}, abs=0.05)


@given(st.text("0123456789", min_size=1, max_size=20))
def test_a_number_has_one_place(number):
    assert 0 <= key_of(number) == key_of(number) < SHARES
    assert key_of("8613800138000") == 1552  # in every version: who is on a channel stays there
