"""Turns on one channel: even ones are told from uneven ones, whatever the channel's pace is."""

from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.turns import LEAST, STRAY_PART, turns


def by_turns(**counts: int) -> list[str]:
    """One each, as long as each has something."""
    queues = [[tenant] * count for tenant, count in counts.items()]
    return [tenant for row in zip_longest(*queues) for tenant in row if tenant]


def test_turns_until_each_in_turn_has_nothing_left_are_even() -> None:
    found = turns(by_turns(a=2000, b=600, c=300))
    assert found is not None
    assert found.fairness >= 0.98
    assert found.submits["c"] == pytest.approx(300, abs=300 // STRAY_PART)
    assert found.submits["b"] == pytest.approx(600, abs=600 // STRAY_PART)


def test_one_after_another_is_not_even() -> None:
    found = turns(["a"] * 2000 + ["b"] * 600 + ["c"] * 300)
    assert found is not None
    assert found.fairness == 0.0


def test_half_a_turn_is_told_as_a_half() -> None:
    found = turns(["a", "b", "a", "b", "c"] * 300)
    assert found is not None
    assert found.fairness == pytest.approx(0.5, abs=0.05)


def test_who_gets_less_only_while_the_third_is_there_is_seen() -> None:
    found = turns(["a", "a", "b", "c"] * 200 + ["a", "b"] * 100)
    assert found is not None
    assert found.fairness < 0.8


def test_a_straggler_does_not_stretch_the_comparison() -> None:
    found = turns([*by_turns(a=2000, c=300), "c"])
    assert found is not None
    assert found.fairness >= 0.95


def test_what_comes_in_one_go_is_no_unfairness_but_twice_as_much_for_one_is() -> None:
    in_goes = (["a"] * 100 + ["b"] * 100) * 4
    plain, found = turns(in_goes), turns(in_goes, at_once=100)
    assert plain is not None
    assert found is not None
    assert plain.fairness < 0.8 < found.fairness
    twice = turns((["a"] * 200 + ["b"] * 100) * 4, at_once=100)
    assert twice is not None
    assert twice.fairness < 0.8


def test_where_little_more_than_one_go_was_compared_nothing_is_shown() -> None:
    assert turns(by_turns(a=150, b=150), at_once=100) is None


@pytest.mark.parametrize("order", [[], ["a"] * 5000, by_turns(a=3000, b=LEAST - 1)])
def test_where_nobody_else_waited_nothing_is_shown(order: list[str]) -> None:
    assert turns(order) is None


@given(st.lists(st.integers(LEAST * 2, 2000), min_size=2, max_size=5))
def test_strict_turns_are_even_whatever_each_has(counts: list[int]) -> None:
    found = turns(by_turns(**{str(number): count for number, count in enumerate(counts)}))
    assert found is not None
    assert found.fairness >= 0.9
