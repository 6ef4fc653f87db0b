import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.canary import (
    BOUNDS,
    BUCKETS,
    Action,
    CanaryPolicy,
    Check,
    Counts,
    Standing,
    decide,
    gate,
    later_than,
    least_share,
    newcombe,
    quantile,
    wilson,
)

POLICY = CanaryPolicy()
STEPS = (5, 30, 100)
CHECK_S = 30.0


def counts(finals, delivered, *, failed=0, complaints=0, answer_s=0.05):
    """So many segments, every one taken and answered after the same time."""
    made = Counts(finals, 2 * failed, finals, delivered, finals - delivered, complaints)
    made.answers = [0] * BUCKETS
    made.answered(answer_s)
    made.answers = [number * finals for number in made.answers]
    return made


def checks(found):
    return {one.signal: one.check for one in found.findings}


# -- the bounds ------------------------------------------------------------------------------------


def test_the_score_interval_is_wilsons():
    # Newcombe 1998 (17, 857), table I: 81 of 263, 95 % two-sided, method 3
    assert wilson(81, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20, 1.959964) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_the_difference_is_newcombes():
    # Newcombe 1998 (17, 873), table II: 56/70 − 48/80, method 10; and 10/10 − 0/10
    assert newcombe((56, 70), (48, 80), 1.959964) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe((10, 10), (0, 10), 1.959964) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_a_share_of_whole_counts_has_a_cautious_bound():
    # Newcombe 1998 (17, 857), table I: 15 of 148 and 1 of 29, method 4
    assert least_share(15, 148, 1.959964) == pytest.approx(0.0598, abs=5e-5)
    assert least_share(1, 29, 1.959964) == pytest.approx(0.0018, abs=5e-5)
    assert least_share(0, 29) == 0.0


@given(st.integers(1, 10**6), st.data())
def test_a_bound_lies_on_its_side(total, data):
    count = data.draw(st.integers(0, total))
    low, high = wilson(count, total)
    assert 0 <= low <= count / total + 1e-12
    assert count / total <= high + 1e-12 <= 1 + 2e-12
    assert 0 <= least_share(count, total) <= low + 1e-9


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=300))
def test_a_quantile_of_buckets_is_within_a_quarter(seconds):
    made = Counts()
    for one in seconds:
        made.answered(one)
    found = quantile(made.answers, 0.95)
    exact = sorted(seconds)[max(0, -(-95 * len(seconds) // 100) - 1)]
    if exact <= BOUNDS[-1]:
        assert exact / 1.25 - 0.001 <= found <= exact * 1.25 + 0.001
    assert later_than(made.answers, found) <= 0.05 * len(seconds) + 1e-6


def test_counts_add_up():
    one = Counts(1, 2, 3, 4, 5, 6, [1, *[0] * (BUCKETS - 1)])
    assert Counts.sum([one, one]) == Counts(2, 4, 6, 8, 10, 12, [2, *[0] * (BUCKETS - 1)])


# -- the gate --------------------------------------------------------------------------------------


def test_an_equal_candidate_with_enough_data_is_good():
    found = gate(POLICY, counts(2000, 1900), counts(9000, 8550))
    assert found.check is Check.GOOD
    assert set(checks(found)) == {"delivery", "failure", "answers", "complaints"}


def test_without_data_of_either_nothing_is_said():
    for ours, theirs in ((0, 0), (5000, 0), (0, 5000)):
        assert gate(POLICY, counts(ours, ours), counts(theirs, theirs)).check is Check.UNCLEAR


@pytest.mark.parametrize(
    ("candidate", "signal"),
    [
        (counts(5000, 4500), "delivery"),
        (counts(5000, 4750, failed=300), "failure"),
        (counts(5000, 4750, answer_s=0.6), "answers"),
        (counts(5000, 4750, complaints=12), "complaints"),
    ],
)
def test_each_signal_alone_makes_it_bad(candidate, signal):
    found = gate(POLICY, candidate, counts(50_000, 47_500, answer_s=0.3))
    assert {name for name, check in checks(found).items() if check is Check.BAD} == {signal}
    assert found.check is Check.BAD
    assert signal.removesuffix("s")[:4] in found.words() or "opted out" in found.words()


def test_what_may_be_chance_is_unclear_not_bad():
    found = gate(POLICY, counts(500, 460, failed=27, complaints=1), counts(9500, 9025))
    assert checks(found) == {
        "delivery": Check.UNCLEAR,
        "failure": Check.UNCLEAR,
        "answers": Check.GOOD,
        "complaints": Check.UNCLEAR,
    }


def test_few_segments_are_never_bad():
    found = gate(POLICY, counts(99, 0, failed=99, complaints=99, answer_s=9), counts(999, 999))
    assert found.check is Check.UNCLEAR


def test_answers_below_the_floor_are_alike():
    found = gate(POLICY, counts(5000, 4750, answer_s=0.09), counts(5000, 4750, answer_s=0.001))
    assert found.check is Check.GOOD


def test_a_rate_of_answers_one_and_a_half_times_as_long_is_still_good():
    found = gate(POLICY, counts(5000, 4750, answer_s=0.4), counts(5000, 4750, answer_s=0.3))
    assert found.check is Check.GOOD


@given(st.integers(3000, 10**6), st.integers(1, 20), st.floats(0.06, 1.0))
def test_five_points_worse_is_bad_at_any_rate_of_delivery(finals, more, rate):
    theirs = finals * more
    candidate = counts(finals, round(finals * (rate - 0.05)))
    baseline = counts(theirs, round(theirs * rate))
    assert gate(POLICY, candidate, baseline).check is Check.BAD


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.0, 1.0))
def test_an_equal_rate_is_never_bad(ours, theirs, rate):
    candidate, baseline = counts(ours, round(ours * rate)), counts(theirs, round(theirs * rate))
    assert gate(POLICY, candidate, baseline).check is not Check.BAD


# -- what follows ----------------------------------------------------------------------------------


def test_the_steps_in_order_then_promotion():
    standing, now, seen = Standing(STEPS, 5, 0.0), 0.0, []
    for _ in range(3):
        now += POLICY.step_s
        done = decide(POLICY, standing, Check.GOOD, POLICY.step_finals, now)
        seen.append((done.action, done.share))
        standing = Standing(STEPS, done.share, now, done.bad)
    assert seen == [(Action.STEP, 30), (Action.STEP, 100), (Action.PROMOTE, 100)]


def test_two_bad_checks_in_a_row_take_it_back():
    first = decide(POLICY, Standing(STEPS, 30, 0.0), Check.BAD, 0, 30.0)
    assert first == (Action.WAIT, 30, 1)
    assert decide(POLICY, Standing(STEPS, 30, 0.0, 1), Check.BAD, 0, 60.0) == (
        Action.ROLL_BACK, 0, 2,
    )  # fmt: skip


@pytest.mark.parametrize("between", [Check.GOOD, Check.UNCLEAR])
def test_a_check_between_two_bad_ones_forgets_the_first(between):
    assert decide(POLICY, Standing(STEPS, 30, 0.0, 1), between, 0, 60.0).bad == 0


@given(
    st.sampled_from(Check),
    st.integers(0, 10**6),
    st.floats(0, 10**6),
    st.sampled_from(STEPS),
    st.integers(0, 1),
)
def test_it_never_goes_on_without_time_data_and_a_good_check(check, finals, age_s, share, bad):
    done = decide(POLICY, Standing(STEPS, share, 0.0, bad), check, finals, age_s)
    goes_on = done.action in {Action.STEP, Action.PROMOTE}
    allowed = check is Check.GOOD and finals >= POLICY.step_finals and age_s >= POLICY.step_s
    assert goes_on == allowed


@given(st.lists(st.tuples(st.sampled_from(Check), st.integers(0, 1000), st.floats(0, 900))))
def test_no_history_makes_it_swing(history):
    """It only ever grows, step by step, until it is over: back at 0 or promoted."""
    standing, now, shares = Standing(STEPS, 5, 0.0), 0.0, [5]
    for check, finals, passed in history:
        now += passed
        done = decide(POLICY, standing, check, finals, now)
        since = standing.since if done.share == standing.share else now
        standing = Standing(STEPS, done.share, since, done.bad)
        shares.append(done.share)
        if done.action in {Action.ROLL_BACK, Action.PROMOTE}:
            break
    assert all(after >= before for before, after in pairwise(shares[:-1]))
    assert shares[-1] == 0 or shares[-1] >= shares[-2:][0]
    assert set(shares) <= {0, *STEPS}


# -- whole lives, by the numbers of section 8 ------------------------------------------------------


def live(dice, rate, usual, per_check, hours=12):
    """One canary: `per_check` segments of the route in 30 s; how it ended, and when (checks)."""
    standing, now = Standing(STEPS, 5, 0.0), 0.0
    ours, theirs, whole = Counts(), Counts(), Counts()
    for number in range(int(hours * 3600 / CHECK_S)):
        now += CHECK_S
        on_it = per_check * standing.share // 100
        ours.add(sample(dice, on_it, rate))
        fresh = sample(dice, per_check - on_it, usual)
        theirs.add(fresh)
        whole.add(fresh)
        against = theirs if theirs.finals >= POLICY.step_finals else whole
        done = decide(POLICY, standing, gate(POLICY, ours, against).check, ours.finals, now)
        if done.action in {Action.ROLL_BACK, Action.PROMOTE}:
            return done.action, number
        if done.action is Action.STEP:
            ours, theirs = Counts(), Counts()
            standing = Standing(STEPS, done.share, now, 0)
        else:
            standing = Standing(STEPS, standing.share, standing.since, done.bad)
    return Action.WAIT, None


def sample(dice, finals, rate):
    spread = (finals * rate * (1 - rate)) ** 0.5
    return counts(finals, min(finals, max(0, round(dice.gauss(finals * rate, spread)))))


@pytest.mark.parametrize("per_check", [600, 3000, 15_000])
def test_an_equal_candidate_is_promoted(per_check):
    ends = [live(random.Random(seed), 0.95, 0.95, per_check) for seed in range(100)]
    assert sum(action is Action.PROMOTE for action, _ in ends) >= 98


@pytest.mark.parametrize("per_check", [600, 3000, 15_000])
def test_one_that_is_five_points_worse_is_taken_back_and_never_promoted(per_check):
    ends = [live(random.Random(seed), 0.90, 0.95, per_check) for seed in range(100)]
    assert {action for action, _ in ends} == {Action.ROLL_BACK}


def test_at_500_a_second_five_points_worse_goes_back_long_before_its_first_step():
    ends = [live(random.Random(seed), 0.90, 0.95, 15_000) for seed in range(100)]
    assert max(number for _, number in ends) < POLICY.step_s / CHECK_S


def test_with_little_traffic_it_waits():
    action, _ = live(random.Random(1), 0.95, 0.95, 40, hours=2)  # 2 segments per check
    assert action is Action.WAIT
