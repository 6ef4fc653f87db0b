"""The retry budget on simulated time: never more than a tenth, never less than ten a minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from failover.budget import PARTS, BudgetPolicy, RetryBudget, Short

POLICY = BudgetPolicy()


def granted(budget: RetryBudget, tenant: int, wanted: int, now: float, start: int = 0) -> int:
    return sum(budget.ask(start + n, 2, tenant, now) is None for n in range(1, wanted + 1))


def test_ten_a_minute_in_any_case() -> None:
    budget = RetryBudget(POLICY, 1000.0)
    assert granted(budget, 1, 50, 1000.0) == 10
    assert budget.ask(99, 2, 1, 1059.0) is Short.TOTAL
    assert granted(budget, 1, 50, 1061.5, start=100) == 10


def test_a_tenth_of_the_first_attempts() -> None:
    budget = RetryBudget(POLICY, 1000.0)
    for _ in range(500):
        budget.first(1)
    assert granted(budget, 1, 100, 1001.0) == 50
    assert granted(budget, 1, 100, 1059.5, start=200) == 0
    assert granted(budget, 1, 100, 1062.5, start=300) == 10  # what those 500 allowed is over


def test_one_tenant_cannot_take_the_others_attempts() -> None:
    budget = RetryBudget(POLICY, 1000.0)
    for _ in range(1000):
        budget.first(2)
    assert granted(budget, 1, 100, 1001.0) == 10  # it has no first attempts of its own
    assert budget.ask(500, 2, 1, 1001.0) is Short.TENANT
    assert granted(budget, 2, 200, 1001.0, start=1000) == 90


def test_what_did_not_leave_is_not_taken_twice() -> None:
    budget = RetryBudget(POLICY, 1000.0)
    assert granted(budget, 1, 10, 1000.0) == 10
    assert [budget.ask(1, 2, 1, 1010.0) for _ in range(5)] == [None] * 5
    assert budget.ask(1, 3, 1, 1010.0) is Short.TOTAL  # the next attempt is another one


def test_what_costs_nothing_is_not_counted() -> None:
    budget = RetryBudget(POLICY, 1000.0)
    for number in range(100):
        budget.free(number, 2, 1000.0)
        assert budget.ask(number, 2, 1, 1000.0) is None
    assert granted(budget, 1, 20, 1000.0, start=200) == 10


def test_a_long_silence_leaves_nothing_behind() -> None:
    budget = RetryBudget(POLICY, 1000.0)
    for tenant in range(1, 200):
        budget.first(tenant)
        budget.ask(tenant, 2, tenant, 1000.0)
    budget.turn(1000.0 + 10 * POLICY.window_s)
    assert budget.size() == 0
    assert budget._firsts == budget._extras == {}


EVENTS = st.lists(
    st.tuples(
        st.floats(0.0, 15.0, allow_nan=False),  # seconds since the one before
        st.integers(1, 3),  # tenant
        st.booleans(),  # a first attempt, or an extra one
        st.integers(1, 40),
    ),
    max_size=60,
)


@given(EVENTS, st.floats(0.0, 1e6, allow_nan=False))
def test_in_no_minute_is_more_granted_than_the_law_says(
    events: list[tuple[float, int, bool, int]], start: float
) -> None:
    """Law and budget side by side: whenever it grants, the 60 s before allow it."""
    budget = RetryBudget(POLICY, start)
    now, number = start, 0
    firsts: list[tuple[float, int]] = []
    extras: list[tuple[float, int]] = []

    def lately(log: list[tuple[float, int]], tenant: int | None) -> int:
        return sum(at > now - POLICY.window_s and tenant in (None, of) for at, of in log)

    for wait_s, tenant, is_first, count in events:
        now += wait_s
        budget.turn(now)
        for _ in range(count):
            number += 1
            if is_first:
                budget.first(tenant)
                firsts.append((now, tenant))
            elif budget.ask(number, 2, tenant, now) is None:
                extras.append((now, tenant))
                for whose in (tenant, None):
                    most = max(POLICY.least, POLICY.share * lately(firsts, whose))
                    assert lately(extras, whose) <= most


@given(EVENTS, st.floats(0.0, 1e6, allow_nan=False))
def test_who_waits_is_let_go_and_memory_ends(
    events: list[tuple[float, int, bool, int]], start: float
) -> None:
    """Whatever happened, a window and a part later there is budget for ten, and nothing kept."""
    budget = RetryBudget(POLICY, start)
    now, number = start, 0
    for wait_s, tenant, is_first, count in events:
        now += wait_s
        for _ in range(count):
            number += 1
            if is_first:
                budget.turn(now)
                budget.first(tenant)
            else:
                budget.ask(number, 2, tenant, now)
    now += POLICY.window_s * (PARTS + 2) / PARTS
    assert budget.turn(now)
    assert all(budget.ask(number + n, 2, 1, now) is None for n in range(1, 11))
    assert budget.size() <= 10 + 1
