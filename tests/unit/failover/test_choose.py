from itertools import chain, combinations

import pytest

from failover.choose import choose, least_bad

ROUTE = (11, 12, 13, 14)
SUBSETS = [set(s) for s in chain.from_iterable(combinations(ROUTE, n) for n in range(5))]


@pytest.mark.parametrize("fit", SUBSETS)
@pytest.mark.parametrize("tried", SUBSETS)
def test_the_first_fit_and_untried_channel_in_the_order_of_the_route(fit, tried):
    chosen = choose(ROUTE, fit.__contains__, tried)
    left = [channel for channel in ROUTE if channel in fit - tried]
    assert chosen == (left[0] if left else None)


def test_the_order_is_the_routes_not_the_numbers():
    assert choose((30, 4, 20), lambda channel: channel != 30, ()) == 4
    assert choose((30, 20, 4), lambda channel: channel != 30, ()) == 20


def test_a_tried_channel_is_not_even_asked():
    asked = []

    def unfit(channel):
        asked.append(channel)
        return False

    choose(ROUTE, unfit, (11, 13))
    assert asked == [12, 14]


def test_an_empty_route_is_spent():
    assert choose((), lambda channel: True, ()) is None


BADNESS = {11: (3, 2), 12: (3, 1), 13: (1, 4), 14: (3, 1)}


@pytest.mark.parametrize("usable", SUBSETS)
@pytest.mark.parametrize("tried", SUBSETS)
def test_the_least_bad_is_the_first_of_the_lowest(usable, tried):
    found = least_bad(
        ROUTE, lambda channel: BADNESS[channel] if channel in usable else None, tried, 0
    )
    left = [channel for channel in ROUTE if channel in usable - tried]
    assert found == (min(left, key=BADNESS.__getitem__) if left else None)


@pytest.mark.parametrize(("rank", "spread"), [(0, 1), (1, 3), (2, 3), (3, 1)])
def test_of_equals_that_climb_or_are_tried_each_gets_its_part(rank, spread):
    bad = {11: (rank, 1), 12: (rank, 1), 13: (rank, 2), 14: (rank, 1)}
    found = [least_bad(ROUTE, bad.__getitem__, (), key) for key in range(300)]
    assert len(set(found)) == spread
    assert 13 not in found
    assert max(map(found.count, set(found))) == 300 / spread
