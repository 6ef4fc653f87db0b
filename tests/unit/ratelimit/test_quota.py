"""Quotas never pass their limit, and their blocks shrink towards it."""

import random
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.quota import Period, Quota, bounds, shown
from tests.support.quota_store import QuotaStore

NOON = 1_800_000_000.0  # 2027-01-15 16:00 in China


@pytest.mark.parametrize(
    ("period", "unix", "first", "begin", "end"),
    [
        (Period.DAY, NOON, date(2027, 1, 15), "2027-01-14T16:00:00Z", "2027-01-15T16:00:00Z"),
        (Period.MONTH, NOON, date(2027, 1, 1), "2026-12-31T16:00:00Z", "2027-01-31T16:00:00Z"),
        # the last second of a year there, and the first of the next
        (Period.DAY, 1_798_732_799.9, date(2026, 12, 31), "2026-12-30T16:00:00Z", None),
        (Period.MONTH, 1_798_732_799.9, date(2026, 12, 1), None, "2026-12-31T16:00:00Z"),
        (Period.MONTH, 1_798_732_800.0, date(2027, 1, 1), "2026-12-31T16:00:00Z", None),
        # February of a leap year
        (Period.MONTH, 1_834_000_000.0, date(2028, 2, 1), None, "2028-02-29T16:00:00Z"),
    ],
)
def test_days_and_months_are_those_of_china(period, unix, first, begin, end):
    day, begins_at, ends_at = bounds(period, unix)
    assert day == first
    assert begins_at <= unix < ends_at
    assert begin in (None, shown(begins_at))
    assert end in (None, shown(ends_at))


class Shared:
    """Some processes with one quota, and what they took of it."""

    def __init__(self, limit: int, count: int, chance: random.Random) -> None:
        self.limit, self.count, self.chance = limit, count, chance
        self.store = QuotaStore()
        self.quotas = [self.start() for _ in range(count)]
        self.taken = 0

    def start(self) -> Quota:
        return Quota(1, Period.DAY, self.limit, NOON)

    def take(self, index: int, n: int, /) -> None:
        quota = self.quotas[index]
        if quota.take(n, NOON):
            self.taken += n
            return
        ask = quota.ask([n], self.count, NOON)
        answer = self.store.reserve([ask])[0]
        if self.chance.random() < 0.9:  # else it is lost, and a block with it
            quota.told(ask, answer)

    def put_back(self, index: int, n: int, /) -> None:
        n = min(n, self.quotas[index]._used)
        self.quotas[index].put_back(n, NOON, NOON)
        self.taken -= n

    def give_back(self, index: int, _: int, /) -> None:
        back = self.quotas[index].give_back()
        if back is not None:
            self.store.reserve([back])

    def crash(self, index: int, _: int, /) -> None:
        self.quotas[index] = self.start()

    def tick(self, index: int, _: int, /) -> None:
        self.quotas[index].tick()


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 4), st.integers(0, 1 << 32).map(random.Random))
def test_what_all_processes_take_never_passes_the_limit(limit, count, chance):
    shared = Shared(limit, count, chance)
    steps = [shared.take, shared.take, shared.take]
    steps += [shared.put_back, shared.give_back, shared.crash, shared.tick]
    for _ in range(200):
        chance.choice(steps)(chance.randrange(count), chance.choice([1, 3, 50]))
        held = sum(quota.left for quota in shared.quotas)
        assert shared.taken + held <= sum(shared.store.taken.values()) <= limit


def test_a_quota_is_used_to_the_last_segment_by_processes_that_share_it():
    store = QuotaStore()
    quotas = [Quota(1, Period.DAY, 10_000, NOON) for _ in range(4)]
    taken = refused = 0
    while refused < 8:
        for quota in quotas:
            for _ in range(5):
                if not quota.take(1, NOON):
                    ask = quota.ask([1], 4, NOON)
                    quota.told(ask, store.reserve([ask])[0])
                    if not quota.take(1, NOON):
                        refused += 1
                        break
                taken += 1
            quota.tick()
    assert taken == 10_000
    assert store.calls < 2_000  # in blocks: hardly a statement per segment


def test_a_new_day_begins_anew():
    quota = Quota(1, Period.DAY, 10, NOON)
    quota.told(quota.ask([10], 1, NOON), (10, 10))
    assert quota.take(10, NOON)
    assert not quota.take(1, quota.ends_at - 1)
    quota.refused(1, NOON + 1)
    end = quota.ends_at
    late = quota.ask([1], 1, end - 0.1)
    assert not quota.take(1, end)
    assert not quota.is_refused(1, end)
    assert quota.rest() == 10
    quota.told(late, (1, 11))  # an answer about the day that is over
    assert quota.left == 0


def test_what_is_given_back_after_midnight_is_void():
    quota = Quota(1, Period.DAY, 10, NOON)
    quota.told(quota.ask([5], 1, NOON), (5, 5))
    assert quota.take(5, NOON)
    end = quota.ends_at
    quota.take(1, end)
    quota.put_back(5, end - 1, NOON)
    assert quota.left == 0
    quota = Quota(1, Period.DAY, 10, NOON)
    quota.put_back(5, end, NOON)
    assert quota.left == 0


def test_the_new_day_takes_back_only_what_it_was_charged():
    quota = Quota(1, Period.DAY, 10, NOON)
    quota.told(quota.ask([5], 1, NOON), (5, 5))
    assert quota.take(5, NOON)
    end = quota.ends_at
    quota.told(quota.ask([10], 1, end), (10, 10))  # others have turned the day already
    assert quota.take(4, end)
    quota.put_back(5, end, NOON)
    assert quota.left == 6
    quota.put_back(4, end + 1, end)
    assert quota.left == 10
