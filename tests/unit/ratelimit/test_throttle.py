"""The pace of a channel against carriers that throttle: simulated, on arithmetic alone.

A carrier is a token bucket that refuses what goes beyond, or refuses by chance whatever we do, or
both. Judged: how much it took of what it could take, and how much it had to refuse.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratelimit.throttle import (
    CONGESTED,
    CUT,
    EPOCH_S,
    LEAST,
    LONGEST_S,
    NEARING,
    OPTIMUM,
    OTP_AHEAD_S,
    PAUSE_S,
    STEP,
    Throttle,
)

STEP_S = 0.01


@dataclass
class Carrier:
    """Takes `rate` a second, a fifth of a second's worth at once; refuses `share` by chance."""

    rate: float
    share: float = 0.0
    seed: int = 1
    level: float = 0.0
    at: float = 0.0
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def takes(self, now: float) -> bool:
        depth = max(2.0, self.rate * 0.2)
        self.level = min(depth, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.dice.random() < self.share or self.level < 1.0:
            return False
        self.level -= 1.0
        return True


@dataclass
class World:
    """Some processes that send over one account, each with its own pace and more than enough."""

    carrier: Carrier
    limit: float  # configured
    processes: int = 1
    answer_s: float = 0.05
    window: int = 64
    demand: float = math.inf  # a second, of each process
    now: float = 0.0
    took: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.throttles = [Throttle(self.limit, 0.0) for _ in range(self.processes)]
        for throttle in self.throttles:
            throttle.share = 1.0 / self.processes
        self.open = [0] * self.processes
        self.level = [0.0] * self.processes  # of the configured bucket
        self.waiting = [0.0] * self.processes
        self.taken_by = [0] * self.processes
        self.answers: list[tuple[float, int, int, bool]] = []
        self.order = itertools.count()

    def run(self, seconds: float) -> World:
        """Go on for that long and count anew."""
        self.took = self.refused = 0
        self.taken_by = [0] * self.processes
        ticks = itertools.cycle([True] + [False] * 9)
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            self._answer()
            if next(ticks):
                for throttle in self.throttles:
                    throttle.tick(self.now)
            for process in self.carrier.dice.sample(range(self.processes), self.processes):
                self._send(process)
        self.seconds = seconds
        return self

    def _answer(self) -> None:
        bursts: dict[int, list[int]] = {}
        while self.answers and self.answers[0][0] <= self.now:
            _, _, process, is_taken = heapq.heappop(self.answers)
            self.open[process] -= 1
            bursts.setdefault(process, [0, 0])[0 if is_taken else 1] += 1
        for process, (taken, throttled) in bursts.items():
            self.throttles[process].answered(taken, throttled, self.answer_s, self.now)
            self.took += taken
            self.refused += throttled
            self.taken_by[process] += taken

    def _send(self, process: int) -> None:
        share = self.limit / self.processes
        self.level[process] = min(share, self.level[process] + share * STEP_S)
        self.waiting[process] += min(self.demand, 1e6) * STEP_S
        throttle = self.throttles[process]
        while (
            self.open[process] < self.window
            and self.level[process] >= 1
            and self.waiting[process] >= 1
        ):
            if not throttle.is_free:
                if throttle.wait_s(self.now, is_otp=False) > 0.0:
                    return
                throttle.spend(1, self.now, is_otp=False)
            self.level[process] -= 1
            self.open[process] += 1
            is_taken = self.carrier.takes(self.now)
            self.waiting[process] -= is_taken
            due = self.now + self.answer_s
            heapq.heappush(self.answers, (due, next(self.order), process, is_taken))

    @property
    def rate(self) -> float:
        """What the carrier took, a second."""
        return self.took / self.seconds

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.took + self.refused)


# -- throughput: at least 0.8 of what the carrier takes -----------------------------------------


def most_refused(rate: float, over: float, processes: int) -> float:
    """What the law itself costs: each epoch ends a step above the carrier, which refuses the step.

    A process that hears few answers has longer epochs, and so larger steps (EPOCH_S, LEAST).
    A twentieth more is for the tokens of one moment that two processes want.
    """
    epoch_s = min(LONGEST_S, max(EPOCH_S, LEAST * processes / rate))
    step = STEP * over * epoch_s
    return min(0.5, 1.1 * step / (1.0 + step) + 0.05)


def learnt_world(rate, over, processes, answer_s, seed) -> World:
    """Half a minute of a world whose processes have had time to learn their pace."""
    window = max(16, int(rate * answer_s * 2))
    world = World(Carrier(rate, seed=seed), rate * over, processes, answer_s, window)
    # Where answers are late an epoch is long, and each cuts to 0.7 at most.
    world.run(25.0 if answer_s < 1.0 else 45.0)
    return world.run(30.0)


@settings(max_examples=12)
@example(size=(25.0, 3), over=2.0, answer_s=0.02, seed=0)  # few answers for each process
@given(
    size=st.sampled_from([(10.0, 1), *itertools.product([25.0, 60.0, 150.0], [1, 2, 3])]),
    over=st.floats(1.05, 12.0),
    answer_s=st.sampled_from([0.02, 0.3, 1.5]),
    seed=st.integers(0, 1000),
)
def test_a_carrier_that_takes_less_than_configured_is_used_and_not_flooded(
    size, over, answer_s, seed
):
    rate, processes = size
    world = learnt_world(rate, over, processes, answer_s, seed)
    assert world.rate >= 0.8 * rate
    assert world.refused_share <= most_refused(rate, over, processes)


@pytest.mark.parametrize("over", [1.05, 2.0, 5.0])
@pytest.mark.parametrize("processes", [2, 3])
def test_ten_a_second_shared_by_processes_that_each_hear_little(processes, over):
    """Two tokens in the carrier's bucket, three who want one: chance refuses some of them."""
    world = learnt_world(10.0, over, processes, 1.5, seed=0)
    assert world.rate >= 0.75 * 10.0
    assert world.refused_share <= 0.5


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_throttled_at_half_our_rate_a_tenth_is_refused_at_most(processes):
    """Issue 7's table, of a carrier as fast as it says there."""
    world = learnt_world(500.0, 2.0, processes, 0.05, seed=0)
    assert world.rate >= 0.95 * 500.0
    assert world.refused_share < 0.1


@settings(max_examples=8)
@given(share=st.floats(0.005, 0.06), seed=st.integers(0, 1000))
def test_a_few_per_cent_throttled_by_chance_leave_a_channel_as_it_is(share, seed):
    world = World(Carrier(1e6, share, seed), limit=200.0)
    world.run(40.0)
    assert world.run(30.0).rate >= 0.8 * 200.0


@pytest.mark.parametrize(("share", "part"), [(0.1, 0.35), (0.15, 0.2), (0.25, 0.08)])
def test_more_than_that_slows_it_and_does_not_stop_it(share, part):
    world = World(Carrier(1e6, share), limit=200.0)
    world.run(60.0)
    assert world.run(30.0).rate >= part * 200.0


def test_half_of_all_throttled_leaves_the_floor_and_comes_back_afterwards():
    world = World(Carrier(1e6, 0.5), limit=200.0)
    world.run(120.0)
    assert world.throttles[0].pace >= 0.02 * 200.0
    world.carrier.share = 0.0
    world.run(60.0)
    assert world.run(10.0).rate >= 0.9 * 200.0


def test_a_carrier_that_gets_slower_and_faster_is_followed():
    world = World(Carrier(150.0), limit=300.0)
    assert world.run(20.0).rate >= 0.8 * 150.0
    world.carrier.rate = 20.0
    world.run(15.0)
    assert world.run(15.0).refused_share <= 0.4
    world.carrier.rate = 150.0
    world.run(60.0)
    assert world.run(20.0).rate >= 0.8 * 150.0


def test_a_carrier_that_takes_nothing_for_a_while_is_left_in_peace_and_found_again():
    world = World(Carrier(1e6, 1.0), limit=200.0)
    world.run(20.0)
    assert world.run(10.0).refused <= 10.0 * 200.0 * 0.05
    world.carrier.share = 0.0
    world.run(60.0)
    assert world.run(10.0).rate >= 0.9 * 200.0


def test_processes_of_one_account_come_near_to_each_other():
    world = World(Carrier(90.0), limit=400.0, processes=3)
    world.throttles[0].pace = 80.0
    world.throttles[0].is_free = False
    world.run(60.0)
    world.run(40.0)
    assert world.rate >= 0.8 * 90.0
    assert min(world.taken_by) >= 0.35 * max(world.taken_by)


def test_who_sends_less_than_the_pace_is_not_held_to_what_he_sent():
    world = World(Carrier(1e6, 0.03), limit=200.0, demand=50.0)
    world.run(40.0)
    assert world.run(20.0).rate >= 0.95 * 50.0


# -- the law by hand ----------------------------------------------------------------------------


def epoch(throttle: Throttle, now: float, taken: int, throttled: int, answer_s: float = 0.0):
    """One second of answers, and its end."""
    throttle.answered(taken, throttled, answer_s, now + 0.5)
    throttle.tick(now + 1.0)
    return now + 1.0


def learnt(taken: int, throttled: int, limit: float = 1000.0) -> Throttle:
    throttle = Throttle(limit, 0.0)
    epoch(throttle, 0.0, taken, throttled)
    return throttle


def test_without_a_throttling_answer_there_is_no_pace():
    throttle = Throttle(100.0, 0.0)
    now = 0.0
    for _ in range(5):
        now = epoch(throttle, now, 100, 0)
    assert throttle.is_free
    assert throttle.pace == math.inf


def test_a_second_cuts_once_down_to_what_was_taken_and_not_below_seven_tenths():
    assert learnt(97, 3).pace == math.inf  # the step makes up for it
    assert learnt(80, 20).pace == pytest.approx(1000 * 0.8 + STEP * 1000)
    assert learnt(40, 60).pace == pytest.approx(1000 * CUT + STEP * 1000)
    deep = learnt(9, 91)
    assert deep.pace == pytest.approx(1000 * CUT)  # and no step up
    assert not deep.is_free
    now = 1.0
    for _ in range(3):  # a tick within the second changes nothing
        now += 0.1
        deep.answered(1, 9, 0.0, now)
        deep.tick(now)
    before = deep.pace
    epoch(deep, 1.0, 8, 80)
    assert deep.pace == pytest.approx(before * CUT)


def test_answers_to_what_left_before_a_cut_count_for_nothing():
    """A congestion epoch: for as long as an answer takes, they tell of the pace before."""
    throttle = Throttle(1000.0, 0.0)
    for _ in range(60):
        throttle.answered(0, 0, 2.0, 0.0)
    epoch(throttle, 0.0, 100, 100, answer_s=2.0)
    before = throttle.pace
    for tenth in range(11, 29):
        throttle.answered(1, 9, 2.0, tenth / 10)
        throttle.tick(tenth / 10)
    assert throttle.pace == before
    for tenth in range(31, 43):
        throttle.answered(1, 9, 2.0, tenth / 10)
        throttle.tick(tenth / 10)
    assert throttle.pace < before


def test_few_answers_make_a_longer_epoch():
    throttle = Throttle(100.0, 0.0)
    throttle.answered(2, 3, 0.0, 0.5)
    throttle.tick(1.0)
    assert throttle.pace == math.inf
    throttle.tick(4.0)
    assert throttle.pace == pytest.approx(100 * CUT + 4 * STEP * 100)


def test_what_came_before_the_first_look_is_not_spread_over_the_time_before_it():
    throttle = Throttle(100.0, 0.0)
    throttle.answered(80, 20, 0.0, 5000.0)
    throttle.tick(5000.1)
    throttle.tick(5001.1)
    assert throttle.pace == pytest.approx(min(125.0, 100.0) * 0.8 + 5.0)


def test_a_pace_that_nobody_throttles_any_more_ends():
    throttle = learnt(50, 50)
    now = 1.0
    while throttle.pace < math.inf and now < 120.0:
        pace = throttle.pace
        now = epoch(throttle, now, int(pace), 0)
        assert throttle.pace > pace
    assert throttle.is_free


def test_what_is_told_of_all_processes_is_the_configured_rate_at_most():
    throttle = learnt(50, 50)
    throttle.share = 0.5
    throttle.pace = 0.6 * throttle.limit  # on its way up, over its part
    assert throttle.told() == 0.5 * throttle.limit
    throttle.limit /= 10  # configured lower meanwhile
    assert throttle.told() == 0.5 * throttle.limit


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 120)), max_size=60),
    st.floats(0.01, 1_000_000.0),
)
def test_the_pace_stays_within_its_bounds_whatever_is_answered(seconds, limit):
    throttle = Throttle(limit, 0.0)
    now = 0.0
    for taken, throttled, state in seconds:
        throttle.congested(state, now)
        now = epoch(throttle, now, taken, throttled)
        assert throttle.told() <= limit
        if throttle.pace < math.inf:
            assert throttle.pace >= 1.0
            assert not throttle.is_free
        wait_s = throttle.wait_s(now, is_otp=False)
        assert 0.0 <= wait_s <= PAUSE_S
        assert throttle.wait_s(now, is_otp=True) <= wait_s
        if throttle.is_free:
            assert not wait_s


@given(st.floats(5.0, 2000.0), st.lists(st.integers(1, 10), min_size=50, max_size=200))
def test_what_goes_is_the_pace_and_a_small_burst(pace, sizes):
    throttle = Throttle(1e6, 0.0)
    throttle.pace, throttle.is_free = pace, False
    now = spent = 0.0
    for size in sizes:
        while (wait_s := throttle.wait_s(now, is_otp=False)) > 0.0:
            now += wait_s
        assert spent <= pace * (now + 0.05) + 10.0
        throttle.spend(size, now, is_otp=False)
        spent += size
    assert spent >= pace * (now - 0.05)


def test_otp_may_go_an_eighth_of_a_second_ahead():
    throttle = Throttle(1e6, 0.0)
    throttle.pace, throttle.is_free = 100.0, False
    throttle.spend(10, 1.0, is_otp=True)
    assert throttle.wait_s(1.0, is_otp=False) > 0.0
    assert throttle.wait_s(1.0, is_otp=True) == 0.0
    throttle.spend(20, 1.0, is_otp=True)
    assert 0.0 < throttle.wait_s(1.0, is_otp=True) <= 0.25
    assert OTP_AHEAD_S == 1 / 8


def test_a_login_code_does_not_wait_for_a_long_text_and_goes_at_the_pace_itself():
    throttle = Throttle(50.0, 0.0)
    throttle.pace, throttle.is_free = 1.0, False
    throttle.spend(10, 100.0, is_otp=False)
    assert throttle.wait_s(100.0, is_otp=False) > 9.0
    assert throttle.wait_s(100.0, is_otp=True) == 0.0
    throttle.spend(1, 100.0, is_otp=True)
    assert 0.7 < throttle.wait_s(100.0, is_otp=True) <= 1.0
    assert throttle.wait_s(100.0, is_otp=False) > 10.0  # the others give way


@pytest.mark.parametrize("demand", [1, 2, 20, 100])
@pytest.mark.parametrize("processes", [1, 4])
def test_one_refusal_on_a_quiet_channel_leaves_it_most_of_its_rate(demand, processes):
    """A blast or a rush of login codes may begin the next second."""
    throttle = Throttle(1000.0, 0.0)
    throttle.share = 1 / processes
    now = 0.0
    for second in range(12):
        now = epoch(throttle, now, demand - (second == 8), int(second == 8))
        assert throttle.pace >= CUT * 1000.0 / processes


@pytest.mark.parametrize(("processes", "refused"), [(1, 0.35), (8, 0.35), (24, 0.35)])
def test_the_floors_of_many_processes_stay_below_the_carrier(processes, refused):
    """1,000 configured, 100 taken: what is sent beyond is refused again and again."""
    throttles = [Throttle(1000.0, 0.0) for _ in range(processes)]
    for throttle in throttles:
        throttle.share = 1 / processes
    now = 0.0
    for _ in range(120):
        wanted = [min(throttle.pace, 1000.0 / processes) for throttle in throttles]
        part = min(1.0, 100.0 / sum(wanted))
        for throttle, sent in zip(throttles, wanted, strict=True):
            throttle.answered(round(sent * part), round(sent * (1 - part)), 0.05, now + 0.5)
            throttle.tick(now + 1.0)
        now += 1.0
    assert 1 - part <= refused


# -- congestion_state of SMPP 5.0 ---------------------------------------------------------------


def test_a_carrier_that_nears_congestion_is_eased_before_it_throttles():
    throttle = Throttle(1000.0, 0.0)
    throttle.congested(NEARING, 0.2)
    epoch(throttle, 0.0, 100, 0)
    first = throttle.pace
    assert first == pytest.approx(125 * 0.95)
    throttle.congested(NEARING + 5, 1.2)
    epoch(throttle, 1.0, 100, 0)
    assert throttle.pace < first


def test_at_its_optimum_nothing_changes_and_below_it_rises():
    throttle = learnt(100, 20)
    pace = throttle.pace
    throttle.congested(OPTIMUM, 1.2)
    epoch(throttle, 1.0, 80, 0)
    assert throttle.pace == pace
    throttle.congested(OPTIMUM - 1, 2.2)
    epoch(throttle, 2.0, 80, 0)
    assert throttle.pace > pace


def test_a_congested_carrier_is_left_alone_for_a_second_and_then_cut():
    throttle = Throttle(1000.0, 0.0)
    throttle.congested(CONGESTED, 0.5)
    assert not throttle.is_free
    assert throttle.wait_s(0.5, is_otp=False) == pytest.approx(PAUSE_S)
    epoch(throttle, 0.0, 100, 0)
    assert throttle.pace == pytest.approx(125 * CUT)  # and no step up
    assert throttle.wait_s(1.6, is_otp=False) == 0.0
